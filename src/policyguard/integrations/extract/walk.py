"""The walk through a payload that finds every image in it, known shape or not.

Covered: the shapes of the OpenAI, Anthropic, Gemini, Vertex, Bedrock, Mistral, Ollama, LiteLLM, OpenRouter,
MCP and LangChain APIs, and any other JSON whose keys, types or contents say that an image stands there:
dicts, lists, tuples, sets, strings, bytes, JSON inside strings (four deep), dataclasses, pydantic models (so
LangChain messages and the SDKs' own types), PIL images, uint8 arrays, BytesIO. Bounded: what is nested deeper
than 256 levels, or lies beyond the first million values, is one unreadable site. Not covered: other objects
(in an image's place they are unreadable), files that are merely named, and the contents of documents, sounds
and films (docs/coverage.md has the table).
"""

from __future__ import annotations

import dataclasses
import io
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policyguard.integrations.extract.keys import (
    Position,
    below,
    declared,
    is_encoded,
    is_file_id,
    is_made,
    is_prose,
    is_quoted,
    is_record,
    names_address,
    names_file,
    plain,
)
from policyguard.integrations.extract.magic import HEAD, sniff, sniff_document
from policyguard.integrations.extract.site import JSON, Codec, ImageSite, Occurrence, Path, SiteKind
from policyguard.integrations.extract.strings import as_document, is_address, read_string
from policyguard.strict.jsontext import read_json

__all__ = [
    "MAX_DEPTH",
    "MAX_NODES",
    "fields_of",
    "find_images",
    "walk",
]


MAX_DEPTH = 256
MAX_NODES = 1_000_000
_MAX_QUOTED = 4
_LEAVES = frozenset((bool, int, float, type(None)))
_SHORTEST = 12

_LONG_KEY = 64
"""An image may stand in the name of a key, too: it cannot be replaced there."""
_LISTS = (list, tuple, set, frozenset, deque)


@dataclass(slots=True)
class _Node:
    value: Any
    path: Path
    depth: int
    position: Position
    key: object = None
    """The key of the dict in which this value, or the list it stands in, stands."""
    in_list: bool = False
    prose: bool = False
    quoted: int = 0
    """How many strings of JSON this value was taken out of; at least 1 in what is meant for a tool."""


@dataclass(slots=True)
class _Declared:
    """Comes after all that is in a dict which says it is an image: was there one?"""

    node: _Node
    seen: int


class _Walk:
    def __init__(self, payload: object, *, answer: bool) -> None:
        self.answer = answer
        self.named = 0
        """Images that an answer merely names by an id."""
        self.stack: list[_Node | _Declared] = [_Node(payload, None, 0, Position.NONE)]
        self.occurrences: list[Occurrence] = []
        self.nodes = 0
        self.too_deep = False

    def run(self) -> list[Occurrence]:
        while self.stack:
            node = self.stack.pop()
            if isinstance(node, _Declared):
                if len(self.occurrences) + self.named == node.seen:
                    self._unreadable(node.node, "says that it is an image, and holds none that can be read")
                continue
            self.nodes += 1
            if self.nodes > MAX_NODES:
                self._unreadable(node, f"lies beyond the first {MAX_NODES} values of the payload")
                break
            try:
                self._visit(node)
            except Exception as error:  # a hostile object, or a mistake of ours: never a pass
                self._unreadable(node, f"cannot be looked at: {type(error).__name__}")
        return self.occurrences

    def _visit(self, node: _Node) -> None:
        value = node.value
        if isinstance(value, str):
            self._string(node, value)
        elif isinstance(value, Mapping):
            self._mapping(node, value)
        elif isinstance(value, _LISTS):
            self._list(node, list(value))
        elif isinstance(value, bytes | bytearray | memoryview):
            self._bytes(node, value)
        elif type(value) not in _LEAVES:
            self._object(node, value)

    def _string(self, node: _Node, text: str) -> None:
        if len(text) > 8 and text.lstrip()[:1] in ("{", "["):
            if node.quoted >= _MAX_QUOTED:
                self._unreadable(node, f"is JSON in more than {_MAX_QUOTED} strings, one within the other")
                return
            try:
                value = read_json(text)
            except RecursionError:
                self._unreadable(node, "is JSON nested too deep to be read")
                return
            except ValueError:
                pass
            else:
                if node.position >= Position.STRONG:
                    self.stack.append(_Declared(node, len(self.occurrences) + self.named))
                inner = _Node(value, (node.path, JSON), node.depth + 1, node.position, quoted=node.quoted + 1)
                self._push([inner])
                return
        quoted = node.quoted > 0
        answer = self.answer and not is_made(node.key)
        self.occurrences += read_string(
            text,
            node.path,
            node.position,
            quoted=quoted,
            prose=node.prose,
            answer=answer,
            encoded=is_encoded(node.key),
        )

    def _mapping(self, node: _Node, value: Mapping[Any, Any]) -> None:
        before = len(self.occurrences) + self.named
        position, outright = declared(value, node.position, node.key, answer=self.answer)
        if is_record(value, answer=self.answer):
            position, outright = Position.OTHER, False
        name = plain(value.get("type"))
        if name == "imagegenerationcall":
            outright = False
            if not value.get("result") and "status" not in value:
                self._file(node, value, "id")
        elif name == "itemreference" and str(value.get("id", "")).startswith("ig_"):
            self._file(node, value, "id")
        children = []
        holds_bytes = isinstance(value.get("blob"), str)
        filled = False
        for key, child in value.items():
            if isinstance(key, str) and len(key) >= _LONG_KEY:
                self._key(node, key)
            if type(child) in _LEAVES:
                continue
            if isinstance(child, str) and is_file_id(key, value, position):
                self._file(node, value, key, document=position <= Position.DOCUMENT)
                under = Position.NONE  # and look at it all the same: a data URI may stand there
            else:
                under = below(key, position)
                open_place = under in (Position.NONE, Position.WEAK)
                if open_place and not (self.answer or node.quoted or is_quoted(key, value)):
                    self._references(node, value, key, child, addresses=under is Position.NONE)
            if _trivial(child, under):
                continue
            if under > Position.NONE and child:
                filled = True
            if holds_bytes and key == "uri":
                under = Position.NONE
            children.append(
                _Node(
                    child,
                    (node.path, key if isinstance(key, str) else str(key)),
                    node.depth + 1,
                    under,
                    key,
                    prose=under is Position.NONE and is_prose(key, value),
                    quoted=max(node.quoted, 1) if is_quoted(key, value) else node.quoted,
                )
            )
        if (outright and (node.in_list or filled)) or (filled and position is Position.DECLARED):
            self.stack.append(_Declared(node, before))
        self._push(children)

    def _references(
        self, node: _Node, value: Mapping[Any, Any], key: object, child: object, *, addresses: bool
    ) -> None:
        """Ids of files, and addresses of what may be images, under keys that say nothing of images."""
        place: Path = (node.path, str(key))
        for index, text in enumerate(child) if isinstance(child, list) else [(None, child)]:
            at: Path = place if index is None else (place, index)
            if not isinstance(text, str):
                continue
            if names_file(key, value, text):
                self.occurrences.append(Occurrence(at, SiteKind.FILE, "file", address=text))
            elif addresses and names_address(key) and is_address(text):
                self.occurrences.append(Occurrence(at, SiteKind.URL, "address", address=text.strip()))

    def _key(self, node: _Node, key: str) -> None:
        for occurrence in read_string(
            key, (node.path, key[:_LONG_KEY]), Position.NONE, quoted=True, prose=True
        ):
            self.occurrences.append(dataclasses.replace(occurrence, codec="none", span=None))

    def _list(self, node: _Node, values: list[Any]) -> None:
        if (media_type := _bytes_in(values)) is not None:
            self.occurrences.append(Occurrence(node.path, SiteKind.INLINE, "ints", bytes(values), media_type))
            return
        depth, position = node.depth + 1, node.position
        self._push(
            [
                _Node(child, (node.path, index), depth, position, node.key, True, node.prose, node.quoted)
                for index, child in enumerate(values)
                if not _trivial(child, position)
            ]
        )

    def _bytes(self, node: _Node, value: bytes | bytearray | memoryview) -> None:
        expected = node.position > Position.NONE
        if sniff(value, expected=expected) is not None:
            self.occurrences.append(Occurrence(node.path, SiteKind.INLINE, "bytes", bytes(value)))
        elif not expected and (media_type := sniff_document(value)) is not None:
            self.occurrences.append(as_document(node.path, media_type))
        elif node.position is Position.DOCUMENT and value:
            self.occurrences.append(as_document(node.path))
        elif (text := _text(value)) is not None:
            self._string(dataclasses.replace(node, prose=True), text)
        elif expected:
            self._unreadable(node, "is bytes that are no image of a known kind")
        elif node.position is Position.FILE and value:
            self.occurrences.append(as_document(node.path))

    def _object(self, node: _Node, value: Any) -> None:
        fields = fields_of(value)
        if fields is not None:
            self._mapping(node, fields)
        elif (data := _encoded_image(value)) is not None:
            self.occurrences.append(Occurrence(node.path, SiteKind.INLINE, "none", data, "image/png"))
        elif isinstance(value, io.BytesIO):
            self._bytes(node, value.getvalue())
        elif node.position > Position.NONE:
            self._unreadable(node, f"is a {type(value).__name__}, which cannot be read as an image")

    def _file(self, node: _Node, value: Mapping[Any, Any], key: str, *, document: bool = False) -> None:
        if not (file_id := value.get(key)):
            return
        if self.answer:
            self.named += 1
            return
        if not document:
            self.occurrences.append(Occurrence((node.path, key), SiteKind.FILE, "file", address=str(file_id)))
        elif not node.quoted:
            self.occurrences.append(as_document((node.path, key), address=str(file_id)))

    def _push(self, children: list[_Node]) -> None:
        if children and children[0].depth > MAX_DEPTH:
            if not self.too_deep:
                self.too_deep = True
                self._unreadable(children[0], f"is nested deeper than {MAX_DEPTH} levels")
            return
        self.stack.extend(reversed(children))

    def _unreadable(self, node: _Node, problem: str, codec: Codec = "none") -> None:
        self.occurrences.append(Occurrence(node.path, SiteKind.UNREADABLE, codec, problem=problem))


def walk(payload: object, *, answer: bool = False) -> list[Occurrence]:
    """Every image in ``payload``, in order; see ``find_images``. Raises nothing."""
    return _Walk(payload, answer=answer).run()


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass or a pydantic model; None for everything else."""
    kind = type(value)
    if hasattr(kind, "__pydantic_fields__") or hasattr(kind, "model_fields"):
        return {**vars(value), **(getattr(value, "__pydantic_extra__", None) or {})}
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(kind)}
    return None


def _trivial(value: Any, position: Position) -> bool:
    """Whether a value is too small to hold an image or its address: most are, and cost nothing more."""
    kind = type(value)
    return kind in _LEAVES or (kind is str and position is Position.NONE and len(value) < _SHORTEST)


def _bytes_in(values: list[Any]) -> str | None:
    """The media type if a list of numbers is the bytes of an image file."""
    head = values[:HEAD] if len(values) >= 12 and type(values[0]) is int else []
    if (
        len(values) < 12
        or type(values[0]) is not int
        or not all(type(x) is int and 0 <= x < 256 for x in head)
    ):
        return None
    media_type = sniff(bytes(head))
    return media_type if media_type and all(type(x) is int and 0 <= x < 256 for x in values) else None


def _text(value: bytes | bytearray | memoryview) -> str | None:
    head = bytes(value[:64])
    if not head or any(byte < 9 or byte > 126 for byte in head):
        return None
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return None


def _encoded_image(value: Any) -> bytes | None:
    """A PIL image, or an array that may be one, as a PNG file."""
    if not (hasattr(value, "__array_interface__") or type(value).__module__.partition(".")[0] == "PIL"):
        return None
    from PIL import Image as pil  # noqa: N813 (the module)

    image = value
    if not isinstance(value, pil.Image):
        interface = value.__array_interface__
        shape = interface["shape"]
        channels = shape[2:]
        if interface["typestr"] != "|u1" or len(shape) < 2 or channels not in ((), (3,), (4,)):
            return None
        image = pil.fromarray(value)
    buffer = io.BytesIO()
    if getattr(image, "n_frames", 1) > 1:
        position = image.tell()
        image.save(buffer, "PNG", save_all=True)
        image.seek(position)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def find_images(payload: object, *, answer: bool = False) -> list[ImageSite]:
    """Every image that stands in ``payload``, in the order in which it stands there. Raises nothing.

    ``payload`` is any JSON-like value: dicts, lists, strings, bytes; also dataclasses, pydantic models,
    LangChain messages, PIL images. What claims to be an image and cannot be read is a site, too. In a
    provider's ``answer``, names and ids of files are no images, for nothing is fetched by them, and an
    address where no image is expected is a LINK.
    """
    return [occurrence.site() for occurrence in walk(payload, answer=answer)]
