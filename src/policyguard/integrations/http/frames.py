"""Streams cut into their events: server-sent events, JSON lines, and JSON arrays that come bit by bit.

A framer takes bytes as they come, however they are cut, and gives back whole events as raw bytes; all that
it was given comes out again, in order and unchanged. Bounded: an event that grows past ``limit`` raises
OverlongError.
"""

from __future__ import annotations

import re
from typing import Literal, Protocol, TypeAlias

__all__ = ["Framer", "Framing", "OverlongError", "data_of", "framer"]

Framing: TypeAlias = Literal["sse", "lines", "array"]


class OverlongError(Exception):
    """One event is longer than is held."""


class Framer(Protocol):
    def feed(self, data: bytes) -> list[bytes]: ...

    def rest(self) -> bytes:
        """What has come of an event that is not complete."""


def framer(framing: Framing, *, limit: int) -> Framer:
    if framing == "array":
        return _Array(limit)
    return _Ends(_BLANK_LINE if framing == "sse" else _LINE, limit)


_END = rb"(?:\r\n|\n|\r(?!\n))"
_BLANK_LINE = re.compile(_END + _END)
_LINE = re.compile(rb"\n")


class _Ends:
    """Events that end where a pattern of at most four bytes matches."""

    def __init__(self, end: re.Pattern[bytes], limit: int) -> None:
        self._end, self._limit = end, limit
        self._held = bytearray()
        self._seen = 0  # no end begins before here

    def feed(self, data: bytes) -> list[bytes]:
        self._held += data
        events, start = [], 0
        # A carriage return at the very end may be half of a line break.
        last = len(self._held) - 1 if self._held.endswith(b"\r") else len(self._held)
        while (end := self._end.search(self._held, max(start, self._seen), last)) is not None:
            events.append(bytes(self._held[start : end.end()]))
            start = end.end()
            self._seen = start
        del self._held[:start]
        self._seen = max(0, len(self._held) - 4)
        if len(self._held) > self._limit:
            raise OverlongError
        return events

    def rest(self) -> bytes:
        return bytes(self._held)


_OUTSIDE = re.compile(rb'[{}\[\]"]')
_INSIDE = re.compile(rb'["\\]')


class _Array:
    """The elements of one JSON array, each with the comma or bracket before it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()
        self._at = 0
        self._depth = 0
        self._in_string = False

    def feed(self, data: bytes) -> list[bytes]:
        self._held += data
        events, start = [], 0
        while (token := (_INSIDE if self._in_string else _OUTSIDE).search(self._held, self._at)) is not None:
            kind = token.group()
            self._at = token.end()
            if kind == b"\\":
                self._at += 1  # the escaped character, which may still be to come
            elif kind == b'"':
                self._in_string = not self._in_string
            else:
                self._depth += 1 if kind in b"{[" else -1
                if kind in b"}]" and self._depth <= 1:
                    events.append(bytes(self._held[start : self._at]))
                    start = self._at
        self._at = max(self._at, len(self._held))
        del self._held[:start]
        self._at -= start
        if len(self._held) > self._limit:
            raise OverlongError
        return events

    def rest(self) -> bytes:
        return bytes(self._held)


def data_of(event: bytes) -> tuple[list[str], list[str]]:
    """The data lines of a server-sent event, and all its other lines."""
    data, others = [], []
    for line in re.split(r"\r\n|\n|\r", event.decode("utf-8", "replace").removeprefix("\ufeff")):
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif line:
            others.append(line)
    return data, others
