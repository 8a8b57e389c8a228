"""Data URIs: one that is a whole string, and those that stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from .magic import decode_base64, sniff, sniff_base64

__all__ = ["DataUri", "find_data_uris", "is_data_uri", "read_data_uri"]

_HEAD = re.compile(r"data:(\s*+image/[^,\s]{0,400}+|[^,\"'<>()\[\]{}\r\n]{0,200}+),", re.IGNORECASE)
_MARK = re.compile(r"data:", re.IGNORECASE)
_BODY = re.compile(r"[A-Za-z0-9+/_\-%\\=]+(?:[ \t]*\r?\n[ \t]*[A-Za-z0-9+/_\-%]{16,}={0,2})*")
_ESCAPED_BODY = re.compile(r"[^\s\"'<>)]+")
_QUOTED = {'"': re.compile(r'[^"]+'), "'": re.compile(r"[^']+")}
_LONGEST_HEAD = 1024
_SHORTEST = 32
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
        if body is None or len(body[0]) < _SHORTEST:
            continue
        written = body[0].rstrip("\\")
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
