"""Images in strings: data URIs, base64, addresses, and images that a text links to.

Covered: see ``read_string``. In a text: data URIs, and what Markdown (inline and by reference) or HTML links
to by http(s) address, with the tags and attributes that load images. Every pattern runs in linear time.
Not covered: base64 in the middle of a text without ``data:`` before it, SVG drawings written out in a text,
addresses that a text merely mentions, style sheets, entities in addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from policyguard.integrations.extract.keys import Position
from policyguard.integrations.extract.magic import (
    HEAD,
    base64_head,
    decode_base64,
    is_document_type,
    looks_like_base64,
    sniff,
    sniff_base64,
    sniff_blurred_base64,
    sniff_document,
)
from policyguard.integrations.extract.site import Codec, Occurrence, Path, SiteKind

__all__ = [
    "DataUri",
    "as_document",
    "find_data_uris",
    "find_links",
    "is_address",
    "is_data_uri",
    "read_data_uri",
    "read_string",
]


_HEAD = re.compile(r"data:(\s*+image/[^,\s]{0,400}+|[^,\"'<>()\[\]{}\r\n]{0,200}+),", re.IGNORECASE)
_MARK = re.compile(r"data:", re.IGNORECASE)
_BODY = re.compile(r"[A-Za-z0-9+/_\-%\\=]+(?:[ \t]*\r?\n[ \t]*[A-Za-z0-9+/_\-%]{16,}={0,2})*")
_ESCAPED_BODY = re.compile(r"[^\s\"'<>)]+")
_QUOTED = {'"': re.compile(r'[^"]+'), "'": re.compile(r"[^']+")}
_CODE = re.compile(r"[^A-Za-z0-9+/_\-%\\=\s]")
_LONGEST_HEAD = 1024

_SHORTEST_BODY = 32
"""In a text, less than this many characters are a mention of data URIs and no image."""


@dataclass(frozen=True, slots=True)
class DataUri:
    """One data URI. ``data`` is None where it cannot be decoded; ``image`` if it claims or holds an image."""

    media_type: str
    image: bool
    data: bytes | None = field(repr=False)
    start: int = 0
    end: int = 0

    @property
    def problem(self) -> str:
        """Why there are no bytes."""
        return f"is a data URI ({self.media_type or 'of no type'}) that cannot be decoded"


def is_data_uri(text: str) -> bool:
    return text[:64].lstrip()[:5].lower() == "data:"


def read_data_uri(text: str) -> DataUri | None:
    """The data URI that is the whole of ``text``, or None where it has no comma."""
    start = text.index(":") + 1
    comma = text.find(",", start, start + _LONGEST_HEAD)
    return None if comma < 0 else _read(text[start:comma], text[comma + 1 :], 0, len(text))


def find_data_uris(text: str) -> Iterator[DataUri]:
    """The data URIs in a text that claim or hold images."""
    if not _mentions(text):
        return
    position = 0
    while (mark := _MARK.search(text, position)) is not None:
        position = mark.end()
        head = _HEAD.match(text, mark.start())
        if head is None:
            continue
        quote = text[mark.start() - 1 : mark.start()]
        if quote in _QUOTED:  # as in HTML, where spaces may stand in it
            pattern = _QUOTED[quote]
        else:
            pattern = _BODY if _is_base64(head[1]) else _ESCAPED_BODY
        body = pattern.match(text, head.end())
        if body is None or len(body[0]) < _SHORTEST_BODY:
            continue
        written = body[0].rstrip("\\")
        if _is_base64(head[1]) and _CODE.search(written[:_SHORTEST_BODY]):
            continue  # source code that puts a data URI together
        uri = _read(head[1], written, mark.start(), head.end() + len(written))
        if uri.image:
            yield uri
            position = uri.end


def _mentions(text: str) -> bool:
    """Whether ``data:`` stands in the text in any case: quick, for most texts have none."""
    if "data:" in text:
        return True
    if text.isascii():
        return "data:" in text.lower()
    return b"data:" in text.encode("utf-8", "surrogatepass").lower()


def _is_base64(head: str) -> bool:
    return any(part.strip().lower() == "base64" for part in head.split(";"))


def _read(head: str, body: str, start: int, end: int) -> DataUri:
    media_type = head.partition(";")[0].replace("\\", "").strip().lower()
    media_type = "" if media_type == "base64" else media_type[:100]
    declared = media_type.startswith("image/")
    if not _is_base64(head):
        data: bytes | None = unquote_to_bytes(body) if declared or "%" in body[:8] or "<" in body[:8] else b""
    else:
        if "%" in body:
            body = unquote_to_bytes(body).decode("latin-1")
        data = decode_base64(body) if declared or sniff_base64(body) else b""
    image = declared or bool(data and sniff(data))
    return DataUri(media_type, image, data or None, start, end)


_URL = r"(?:https?:)?//[^\s\"'<>()\[\]\\]+"
_ALT = r"(?:\\.|[^\[\]\\]|\[[^\[\]]*\])*"
_INLINE = re.compile(rf"!\[{_ALT}\]\(\s*<?({_URL})", re.IGNORECASE | re.DOTALL)
_NESTED = re.compile(rf"\]\(\s*<?({_URL}\.(?:png|jpe?g|gif|webp|bmp|svg|avif)\b)", re.IGNORECASE)
_REFERENCE = re.compile(r"!\[([^\[\]]*)\](?:\[([^\[\]]*)\])?")
_DEFINITION = re.compile(rf"^ {{0,3}}\[([^\[\]]+)\]:[ \t]*<?({_URL})", re.IGNORECASE | re.MULTILINE)
_TAG = re.compile(r"<(?:img|image|source|input|video|object|embed)\b([^<>]*)", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    r"\b(?:src|srcset|href|poster|data|data-src)\s*=\s*\\?[\"']?\s*((?:https?:)?//[^\s\"'<>\\]+)",
    re.IGNORECASE,
)


def find_links(text: str) -> Iterator[tuple[int, int]]:
    """The parts of ``text`` that are addresses of images, as (start, end)."""
    spans: set[tuple[int, int]] = set()
    if "![" in text:
        spans.update(match.span(1) for match in _INLINE.finditer(text))
        if "[" in text.replace("![", ""):
            spans.update(match.span(1) for match in _NESTED.finditer(text))
        if "]:" in text:
            labels = {(match[2] or match[1]).casefold().strip() for match in _REFERENCE.finditer(text)}
            spans.update(
                match.span(2) for match in _DEFINITION.finditer(text) if match[1].casefold().strip() in labels
            )
    if "<" in text and "//" in text:
        for tag in _TAG.finditer(text):
            for attribute in _ATTRIBUTE.finditer(text, *tag.span(1)):
                spans.add(attribute.span(1))
    yield from _apart(sorted(spans))


def _apart(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The longest of those that begin at one place; none that lies in another."""
    last = -1
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= last:
            yield start, end
            last = end


_SHORTEST = 32
_ADDRESS = re.compile(r"\s*(?:https?:)?//[^\s]", re.IGNORECASE)
_WHOLE_ADDRESS = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)

_INVISIBLE = str.maketrans("", "", "\t\r\n")
"""What browsers and many libraries drop from an address before they read it."""
_STORED = re.compile(r"\s*(?:gs|s3)://", re.IGNORECASE)
_PROVIDER_FILE = re.compile(
    r"\s*https://generativelanguage\.googleapis\.com/[^?#]*\bfiles/|\s*files/[a-z0-9-]+\s*$"
)
_IMAGE_ADDRESS = re.compile(
    r"https?://[^\s\"'<>?#]+\.(?:png|jpe?g|gif|webp|bmp|tiff?|avif|hei[cf]|jxl|svg|apng)(?:[?#]\S*)?",
    re.IGNORECASE,
)


def is_address(text: str) -> bool:
    """Whether a string is nothing but an http(s) address, and does not say that it is an image's."""
    return _WHOLE_ADDRESS.fullmatch(text) is not None and not _IMAGE_ADDRESS.fullmatch(text)


def read_string(
    text: str,
    path: Path,
    position: Position,
    *,
    quoted: bool,
    prose: bool,
    answer: bool = False,
    encoded: bool = False,
) -> Iterator[Occurrence]:
    """The images in one string.

    ``quoted`` says that the string was taken out of JSON in a text, or is meant for a tool: no provider
    fetches an address there, so it counts only in a block that is declared an image. ``prose`` says that
    people or models wrote the string, so that an address which is all of it is no image. ``answer`` says that
    nobody fetches addresses in places that no image is expected in. ``encoded`` says that what stands here is
    a file's bytes, however few.
    """
    if not text or text.isspace():
        return
    if is_data_uri(text):
        uri = read_data_uri(text)
        if uri is not None and uri.image and uri.data is not None and (position > 0 or not _goes_on(text)):
            yield _from_uri(uri, path)
            return
        if position >= Position.STRONG or (position > 0 and uri is not None and uri.image):
            yield _unreadable(path, "data-uri", "is a data URI that holds no image, or cannot be decoded")
            return
        if uri is not None and (position <= Position.DOCUMENT or not _goes_on(text)):
            code = base64_head(text[text.index(",") + 1 :][:2000])
            named = encoded and position is Position.DOCUMENT
            if named or is_document_type(uri.media_type) or sniff_document(code):
                yield as_document(path, uri.media_type)
                return
    elif media_type := sniff_base64(text, expected=position > Position.NONE):
        yield _from_base64(text, path, media_type)
        return
    elif (document := _document(text, path, position, quoted=quoted, encoded=encoded)) is not None:
        yield document
        return
    elif position > Position.NONE:
        occurrence = _in_position(text, path, position, quoted=quoted)
        if occurrence is not None:
            yield occurrence
            return
    elif not quoted and not prose and _IMAGE_ADDRESS.fullmatch(text):
        yield Occurrence(path, SiteKind.LINK if answer else SiteKind.URL, "address", address=text)
        return
    any_image = False
    for occurrence in _in_text(text, path, links=not quoted):
        any_image = True
        yield occurrence
    if not any_image and (media_type := sniff_blurred_base64(text)):
        yield _unreadable(path, "base64", f"begins like the base64 of an image ({media_type}) and is broken")


def _document(text: str, path: Path, position: Position, *, quoted: bool, encoded: bool) -> Occurrence | None:
    """The document that a whole string holds or, where one is expected, names."""
    if position > Position.NONE:
        return None
    if len(text) >= _SHORTEST and (media_type := sniff_document(base64_head(text))) is not None:
        return as_document(path, media_type)
    if position not in (Position.DOCUMENT, Position.FILE):
        return None
    code = text.strip()
    few = decode_base64(code) if len(code) < _SHORT_FILE and not _SPACE.search(code) else None
    if few and (media_type := sniff_document(few)) is not None:
        return as_document(path, media_type)
    if quoted:
        return None
    address = _ADDRESS.match(text) or _SCHEME.match(text) or _PROVIDER_FILE.match(text)
    whole = looks_like_base64(text) or (few and encoded and position is Position.DOCUMENT)
    return as_document(path) if address or whole else None


_SHORT_FILE = HEAD
_SPACE = re.compile(r"[ \t]")


def _in_position(text: str, path: Path, position: Position, *, quoted: bool) -> Occurrence | None:
    """The image in a string where one is expected."""
    if _STORED.match(text) or _PROVIDER_FILE.match(text):
        return Occurrence(path, SiteKind.FILE, "address", address=text.strip())
    if _ADDRESS.match(text):
        if quoted and position is not Position.DECLARED:
            return None
        address = text.strip()
        return Occurrence(
            path, SiteKind.URL, "address", address=f"https:{address}" if address[0] == "/" else address
        )
    if position >= Position.STRONG and (media_type := sniff(text[:4096].encode("utf-8", "replace"))):
        return Occurrence(
            path, SiteKind.INLINE, "none", data=text.encode("utf-8", "replace"), media_type=media_type
        )
    head = text[:64].translate(_INVISIBLE)
    if _SCHEME.match(text) or (head != text[:64] and (_SCHEME.match(head) or is_data_uri(head))):
        return None if quoted else _unreadable(path, "data-uri", "is an address of a kind that is not read")
    if looks_like_base64(text) or (
        position is Position.DECLARED or (position is Position.STRONG and not quoted)
    ):
        return _unreadable(path, "data-uri", "is neither the base64 of an image nor an address")
    return None


def _goes_on(text: str) -> bool:
    """Whether words may follow the data URI that a text begins with."""
    end = len(text.rstrip())
    return text.find(" ", text.index(",") + 1, end) >= 0


def _in_text(text: str, path: Path, *, links: bool = True) -> Iterator[Occurrence]:
    spans: list[tuple[int, int, DataUri | str]] = [(uri.start, uri.end, uri) for uri in find_data_uris(text)]
    if links:
        spans += [(start, end, text[start:end]) for start, end in find_links(text)]
    spans.sort(key=lambda item: item[0])
    for number, (start, end, what) in enumerate(spans):
        if isinstance(what, DataUri):
            yield _from_uri(what, path, span=(start, end), number=number)
        else:
            address = f"https:{what}" if what.startswith("/") else what
            yield Occurrence(
                path, SiteKind.LINK, "address", address=address, span=(start, end), number=number
            )


def _from_uri(
    uri: DataUri, path: Path, span: tuple[int, int] | None = None, number: int | None = None
) -> Occurrence:
    kind = SiteKind.UNREADABLE if uri.data is None else SiteKind.INLINE
    problem = uri.problem if uri.data is None else None
    return Occurrence(
        path, kind, "data-uri", uri.data, uri.media_type or None, problem=problem, span=span, number=number
    )


def _from_base64(text: str, path: Path, media_type: str) -> Occurrence:
    data = decode_base64(text)
    if data is None:
        return _unreadable(path, "base64", f"begins like the base64 of an image ({media_type}) and is broken")
    codec: Codec = "base64url" if ("-" in text or "_" in text) else "base64"
    return Occurrence(path, SiteKind.INLINE, codec, data)


def as_document(path: Path, media_type: str = "", *, address: str | None = None) -> Occurrence:
    """A document, which a provider holds under ``address`` if that is given."""
    kind = f"is a document ({media_type})" if media_type else "is a document"
    problem = f"{kind}, and what its pages show cannot be judged (documents='pass' lets it through)"
    return Occurrence(path, SiteKind.DOCUMENT, "none", None, media_type or None, address, problem)


def _unreadable(path: Path, codec: Codec, problem: str) -> Occurrence:
    return Occurrence(path, SiteKind.UNREADABLE, codec, problem=problem)
