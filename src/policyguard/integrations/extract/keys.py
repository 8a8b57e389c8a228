"""What the names in a payload say about images: which types, keys and media types declare one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum
from functools import lru_cache

from policyguard.integrations.extract.magic import is_document_name, is_document_type

__all__ = [
    "Position",
    "below",
    "declared",
    "is_encoded",
    "is_file_id",
    "is_made",
    "is_prose",
    "is_quoted",
    "is_record",
    "names_address",
    "names_file",
    "plain",
]


class Position(IntEnum):
    """How sure it is that an image stands in a place."""

    FILE = -3
    """A file stands here, which may be a document or text."""
    DOCUMENT = -2
    """What shows images is declared to stand here: a PDF, a film."""
    OTHER = -1
    """Something else is declared to stand here: a sound, a text."""
    NONE = 0
    WEAK = 1
    """A key such as ``image`` says so: URLs and image bytes count, a word (a file's name) does not."""
    STRONG = 2
    """A key such as ``image_url`` or ``b64_json`` says so: what is not read is unreadable."""
    DECLARED = 3
    """The type or media type says so."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TYPES = _words(
    """
    image imageurl imagefile imagebase64 imageembeds imagepil inputimage inputimageurl outputimage
    inlineimage imagegenerationcall
    """
)
_SOFT_TYPE = re.compile(r"image|screenshot|picture|photo")
_NO_IMAGE_TYPES = ("imagegeneration", "imagegenerationtool", "imagesize", "imageconfig")
_MEDIA_TYPE_KEYS = ("mime_type", "mimeType", "media_type", "mediaType", "content_type", "contentType")
_ANYTHING = ("application/octet-stream", "binary/octet-stream", "*/*", "")
_IMAGE_NAME = re.compile(
    r"\.(?:png|jpe?g|jfif|gif|webp|bmp|tiff?|avif|hei[cf]|ico|jxl|svg|apng)$", re.IGNORECASE
)
_STRONG = _words(
    """
    imageurl imageurls inputimage b64json partialimageb64 imagebase64 base64image imageb64 imagebytes
    imagedata bytesbase64encoded inlinedata fileuri imageuri inputimageurl imageembeds
    """
)
_WEAK = re.compile(r"image|img$|^img|picture|photo|screenshot|^mask$|^inputreference$|^thumbnail$")
_CONTENT = _words(
    """
    url urls uri href src link data base64 b64 bytes blob binary body content contents value source file
    fileuri fileurl filedata result results output payload raw buffer s3location gcsuri storageuri image
    images
    """
)
_PROSE = _words(
    """
    text content contents prompt input instructions arguments query message title description system
    thinking reasoning summary
    """
)
_QUOTED = _words(
    "args arguments artifact parameters inputschema jsonschema schema metadata functioncall functionresponse"
)
_DOCUMENT_TYPES = _words("document documenturl file fileurl inputfile video videourl inputvideo")
_DOCUMENT_KEYS = _DOCUMENT_TYPES - {"file", "inputfile"}
_ENCODED = _words("data base64 b64 bytes blob binary filedata")
_RESULT = frozenset(("url", "index", "size", "seed", "content_type"))  # an item of an images response
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{2,199}")
_FILE_ID = re.compile(r"(?:c?file|ig|image|img|asset|media|upload)[-_][A-Za-z0-9]{2,}|files/[A-Za-z0-9]")
_ID_KEYS = ("id", "ids", "file", "files", "filename", "reference", "attachment", "attachments")
_RECORDED = ("citation", "codeexecution", "filesearch", "filepath")
_OTHER_ADDRESS = re.compile(
    r"server|hook|callback|redirect|base|endpoint|host|api|proxy|success|cancel|return|noti[fc]|status|response"
    r"|issuer|jwks|token|auth|log(?:in|out)|licen[sc]e|terms|privacy|schema|docs|help|support|home|site|web"
    r"|repo|git|audio|sound|voice|music|speech|feed|refer+er|origin|profile|tracking|connect|database|mcp"
)
_REFERENCE = re.compile(
    r"^(?:(?:first|last|start|end|key|init|tail)?frames?|(?:init|style|subject|character|face|pose|depth|control|"
    r"input)?(?:reference|control)s?|sketch|garment|init|pose|depth|canny)$"
)
_MADE = _words("output outputs result results sample samples artifacts")
_SIZES = ("bytes", "size", "size_bytes", "sizeBytes")
_SKIPPED = _words("type filename name title detail id role alt caption")


@lru_cache(4096)
def _plain_short(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(".", "").replace(" ", "")


def plain(name: object) -> str:
    """A key or a type without case, underscores, hyphens and dots; empty for what is no short string."""
    return _plain_short(name) if isinstance(name, str) and len(name) <= 64 else ""


def declared(
    value: Mapping[object, object], inherited: Position, key: object, *, answer: bool = False
) -> tuple[Position, bool]:
    """What a dict says about its contents, and whether its type says that it is an image.

    ``key`` is the key under which it, or the list it stands in, stands. The name of a file in an ``answer``
    declares nothing.
    """
    kind = value.get("type")
    name = plain(kind)
    if name in _TYPES:
        return Position.DECLARED, True
    if "citation" in name:
        return Position.NONE, False
    media_type = _media_type(value)
    if media_type.startswith("image/"):
        return Position.DECLARED, False
    if media_type not in _ANYTHING:
        return Position.DOCUMENT if is_document_type(media_type) else Position.OTHER, False
    for name_key in ("filename", "file_name", "fileName"):
        text = value.get(name_key)
        if not answer and isinstance(text, str) and _IMAGE_NAME.search(text[-16:]):
            return Position.DECLARED, False
        if inherited <= Position.NONE and not answer and isinstance(text, str) and is_document_name(text):
            return Position.DOCUMENT, False
    if inherited is Position.FILE and is_document_name(f".{value.get('format')}"):  # Bedrock's documents
        return Position.DOCUMENT, False
    if name in _DOCUMENT_TYPES and inherited <= Position.NONE:
        return (inherited if inherited is Position.DOCUMENT else Position.FILE), False
    if name and _SOFT_TYPE.search(name) and name not in _NO_IMAGE_TYPES:
        return max(inherited, Position.WEAK), False
    if "b64_json" in value or "revised_prompt" in value or (key == "data" and value.keys() <= _RESULT):
        return Position.DECLARED, False
    return inherited, False


def _media_type(value: Mapping[object, object]) -> str:
    for key in _MEDIA_TYPE_KEYS:
        if isinstance(text := value.get(key), str):
            return text.strip().lower()
    kind = value.get("type")
    return kind.strip().lower() if isinstance(kind, str) and kind[:6].lower() == "image/" else ""


def below(key: object, position: Position) -> Position:
    """What the key of a dict that stands in ``position`` says about the value under it."""
    name = plain(key)
    if name in _STRONG:
        otherwise = position < Position.NONE and name in (
            "inlinedata",
            "fileuri",
            "bytesbase64encoded",
        )
        return position if otherwise else max(position, Position.STRONG)
    if name in _DOCUMENT_KEYS and position in (Position.NONE, Position.FILE):
        return Position.FILE
    if name in _DOCUMENT_KEYS and position is Position.DOCUMENT:
        return position
    if name in _CONTENT:
        if position is Position.WEAK and name in _ENCODED:
            return Position.STRONG
        if position is Position.NONE and name in ("image", "images"):
            return Position.WEAK
        return position
    if name and name not in _SKIPPED and _WEAK.search(name):
        return max(min(position, Position.WEAK), Position.WEAK)
    return Position.NONE


def is_file_id(key: object, value: Mapping[object, object], position: Position) -> bool:
    """Whether ``key`` of a dict in ``position`` names a file at a provider that is or shows an image."""
    name = plain(key)
    if name in ("fileid", "imagefileid", "imageid"):
        return position > Position.NONE or position <= Position.DOCUMENT or name == "imagefileid"
    return name == "id" and position > Position.NONE and value.get("source_type") == "id"


def is_encoded(key: object) -> bool:
    """Whether what stands under ``key`` is a file's bytes in letters."""
    return plain(key) in _ENCODED


def is_quoted(key: object, value: Mapping[object, object]) -> bool:
    """Whether what stands under ``key`` is for a tool or a program: no provider fetches an address in it."""
    name = plain(key)
    return name in _QUOTED or (name == "input" and plain(value.get("type")).endswith("tooluse"))


def is_prose(key: object, value: Mapping[object, object]) -> bool:
    """Whether the string under ``key`` is what people, models or tools say."""
    return plain(key) in _PROSE or "call_id" in value or "citation" in plain(value.get("type"))


def names_file(key: object, value: Mapping[object, object], text: str) -> bool:
    """Whether ``text`` under ``key`` of a request may name a file that a provider holds, whatever it shows.

    It does under every key with ``file`` in it, and wherever it looks like the id of a file. Exceptions: the
    names that files have on a disk, and what records where an answer comes from.
    """
    name = plain(key)
    if not _ID.fullmatch(text) or any(word in plain(value.get("type")) for word in _RECORDED):
        return False
    if _FILE_ID.match(text):
        return name.endswith(_ID_KEYS)
    return "file" in name and name.endswith(("id", "ids"))


def names_address(key: object) -> bool:
    """Whether an address under ``key`` of a request may be that of an image.

    It may under every key that ends like one for addresses, but for the exceptions, and under what video and
    image models call their images.
    """
    name = plain(key)
    if name.endswith(("url", "urls", "uri", "uris")):
        return _OTHER_ADDRESS.search(name) is None
    return _REFERENCE.search(name) is not None


def is_made(key: object) -> bool:
    """Whether the key of an answer holds what a model made, which may be the address of an image."""
    return plain(key) in _MADE


def is_record(value: Mapping[object, object], *, answer: bool = False) -> bool:
    """Whether a dict describes a file that a provider holds, in the answer to its upload or in a listing."""
    name = value.get("name")
    if answer and "id" in value and any(isinstance(value.get(key), int) for key in _SIZES):
        return isinstance(value.get("filename", name), str)
    return (
        isinstance(name, str) and name.startswith("files/") and "mimeType" in value and "sizeBytes" in value
    )
