"""Which pieces of a stream may pass at once, and which are held until the whole is judged.

Covered: blocks that are no text, from the first piece on; images that a model writes into text, into JSON or
into a tool's arguments piece by piece (data URIs, base64, Markdown and HTML that show an image by URL). What
is held keeps its place: all that comes after it is held, too. Not covered: a shape that no piece shows to be
an image. The whole is judged at the end all the same; an image found only then ends the stream by an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any

from langchain_core.runnables.utils import AddableDict

from policyguard.integrations.extract import ImageSite, SiteKind, find_images
from policyguard.integrations.extract.walk import fields_of

__all__ = ["Hold", "joined"]

_TEXT_BLOCKS = (
    *("text", "text-plain", "output_text", "summary_text", "refusal", "citation"),
    *("reasoning", "thinking", "redacted_thinking"),
    *("tool_call", "tool_call_chunk", "invalid_tool_call", "server_tool_call", "server_tool_call_chunk"),
    *("tool_use", "input_json_delta", "function_call"),
)
_KEPT = 1024
"""Characters of a text that are looked at again with the next piece: more than an image's beginning."""

_ALT = r"(?:\\.|[^\[\]\\]|\[[^\[\]]*(?:\]|$))*+"
_TAG = r"<(?:img|image|source|object|embed|video|input)\b"
_BEGINNING = (
    r"data:\s*(?:image/[^,\s]{0,400}(?:$|,)|$)"
    r"|data:[^,\"'<>()\[\]{}\r\n]{0,200}(?:$|,[^\s\"'<>)]{0,15}$|,[^\s\"'<>)]{16})"
    r"|[A-Za-z0-9+/_-]{64}"
)
_IMAGE = re.compile(_BEGINNING, re.IGNORECASE | re.DOTALL)
_IMAGE_OR_LINK = re.compile(
    rf"{_BEGINNING}|!\[{_ALT}(?:\\?$|\](?:$|[(\[]))|{_TAG}", re.IGNORECASE | re.DOTALL
)
_OPEN = re.compile(rf"!\[{_ALT}\\?$|{_TAG}[^<>]*$", re.IGNORECASE | re.DOTALL)
"""What may go on for longer than ``_KEPT`` before the address of an image comes."""
_DEFINITION = re.compile(r"^ {0,3}\[[^\[\]]+\]:", re.MULTILINE)


class Hold:
    """Takes the pieces of one stream in order."""

    def __init__(self, *, links: bool) -> None:
        self._links = links
        self._beginning = _IMAGE_OR_LINK if links else _IMAGE
        self.passed: list[Any] = []
        self.held: list[Any] = []
        self._for_good = False
        self._tails: dict[str, str] = {}
        self._has_image: set[str] = set()
        self._defined: set[str] = set()

    def feed(self, piece: Any, *, block: bool = False) -> list[Any]:
        """The pieces that may pass now, in order; ``piece`` is held if it is not among them.

        ``block`` says that the piece is no text, where that does not show.
        """
        self.held.append(piece)
        if not self._for_good:
            self._for_good = block or _is_block(piece) or bool(self.images(piece))
        opened = self._watch(piece)
        if self._for_good or opened:
            return []
        if len(self.held) > 1 and self.images(joined(self.held)):
            self._for_good = True
            return []
        ready, self.held = self.held, []
        self.passed += ready
        return ready

    def images(self, value: Any) -> list[ImageSite]:
        """The images in ``value`` that are judged."""
        return [site for site in find_images(value) if self._links or site.kind is not SiteKind.LINK]

    def _watch(self, piece: Any) -> bool:
        """Whether an image may have begun in a text that grows from piece to piece."""
        opened, touched = False, set()
        for place, text in _texts(piece):
            text = self._tails.get(place, "") + text
            self._for_good = self._for_good or self._shows(place, text)
            self._tails[place] = text[-_KEPT:]
            touched.add(place)
            opened = opened or self._beginning.search(text) is not None
        others = (tail for place, tail in self._tails.items() if place not in touched)
        return opened or any(self._beginning.search(tail) for tail in others)

    def _shows(self, place: str, text: str) -> bool:
        """Whether what comes next may be the address of an image that began long ago."""
        if not self._links:
            return False
        earlier, now = place in self._has_image, "![" in text
        if now:
            self._has_image.add(place)
        if "]:" in text and _DEFINITION.search(text):
            self._defined.add(place)
        if (earlier or now) and (place in self._defined or "](" in text):
            return True
        open_one = _OPEN.search(text)
        return open_one is not None and len(text) - open_one.start() > _KEPT // 2


def joined(pieces: list[Any]) -> Any:
    """The pieces as one value: added up where they can be, the list of them where not."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(pieces)
    if all(isinstance(piece, Mapping) for piece in pieces):
        pieces = [AddableDict(piece) for piece in pieces]
    try:
        if hasattr(first, "tool_call_chunks"):  # adds a list at once: pairs would take quadratic time
            return first + pieces[1:]
        return reduce(add, pieces)
    except (TypeError, ValueError):
        return list(pieces)


def _is_block(piece: Any) -> bool:
    if isinstance(piece, Mapping):  # bytes, and bytes as numbers, grow from piece to piece like texts
        return any(
            isinstance(value, bytes | bytearray | memoryview)
            or (isinstance(value, list) and bool(value) and type(value[0]) is int)
            for value in piece.values()
        )
    content = getattr(piece, "content", None)
    return isinstance(content, list) and not all(
        isinstance(block, str) or (isinstance(block, Mapping) and block.get("type", "text") in _TEXT_BLOCKS)
        for block in content
    )


def _texts(piece: Any) -> Iterator[tuple[str, str]]:
    """Every string in a piece, with the place where the next pieces go on with it."""
    stack: list[tuple[str, Any, int]] = [("", piece, 0)]
    while stack:
        place, value, depth = stack.pop()
        if isinstance(value, str):
            if value:
                yield place, value
        elif depth > 8:
            continue
        elif isinstance(value, Mapping):
            stack.extend((f"{place}/{key}", item, depth + 1) for key, item in value.items())
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                index = item.get("index", number) if isinstance(item, Mapping) else number
                stack.append((f"{place}/{index}", item, depth + 1))
        elif (fields := fields_of(value)) is not None:
            kept = {key: fields[key] for key in fields if key in _GROWING}
            stack.append((place, kept, depth + 1))


_GROWING = (
    *("content", "additional_kwargs", "response_metadata", "artifact"),
    *("tool_call_chunks", "message", "text"),
)
