"""A response that comes as events: which of them may pass, and which are held until they are judged.

Covered: server-sent events, JSON lines and JSON arrays, whatever the size of the chunks; images cut off by
the end of the stream; images that are written piece by piece (``watch``).

A framer takes bytes as they come, however they are cut, and gives back whole events as raw bytes; all that
it was given comes out again, in order and unchanged. Bounded: an event that grows past ``limit`` raises
OverlongError.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Literal, Protocol, TypeAlias

from policyguard.errors import ImageError
from policyguard.integrations.extract import Replacement
from policyguard.integrations.http.bodies import (
    Body,
    Reading,
    open_body,
    open_json,
    unreadable,
    watched_over,
)
from policyguard.integrations.http.codings import CodingError, Decoder
from policyguard.integrations.http.watch import Watch
from policyguard.strict.jsontext import DuplicateKeyError, JsonError, TooDeepError

__all__ = [
    "Events",
    "Framer",
    "Framing",
    "OverlongError",
    "StreamProblem",
    "data_of",
    "framer",
]


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
        if len(self._held) > self._limit and not events:
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
        if len(self._held) > self._limit and not events:
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


class StreamProblem(Exception):  # noqa: N818 (becomes a verdict)
    """The stream cannot be read further; the message continues the sentence "the body ..."."""


class Events:
    """Cuts a response into events. Holds one at a time; ``open`` says what is in it."""

    def __init__(self, framing: Framing, codings: Decoder, *, limit: int, links: bool) -> None:
        self._framing, self._codings = framing, codings
        self._frames = framer(framing, limit=limit)
        self._watch = Watch(links=links)
        self._limit = limit
        self._pieces: Iterator[bytes] = iter(())

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The events that ``data`` completes. Raises StreamProblem."""
        try:
            self._pieces = self._codings.feed(data)
            for piece in self._pieces:
                yield from self._frames.feed(piece)
        except CodingError as error:
            raise StreamProblem(str(error)) from error
        except OverlongError:
            raise StreamProblem(f"has an event of more than {self._limit} bytes") from None

    def finish(self) -> Iterator[bytes]:
        """What is left when no more bytes come. Raises StreamProblem."""
        try:
            self._codings.finish()
        except CodingError as error:
            raise StreamProblem(str(error)) from error
        if rest := self._frames.rest():
            yield rest

    def open(self, raw: bytes, *, last: bool) -> Body:
        """What is in an event, ``last``: in what is left at the end. Raises StreamProblem."""
        body = self._open(raw)
        if last and not body.sites and not body.payloads and _CUT_CODE.search(raw):
            raise StreamProblem("is cut short in what may be an image")
        return body

    def rest(self) -> bytes:
        """What has come and is not in an event that was given back."""
        return self._frames.rest() + self._decoded(self._pieces)

    def decoded(self, data: bytes) -> bytes:
        """``data`` as it is passed on where it cannot be cut into events. Raises ImageError."""
        return self._decoded(self._codings.feed(data))

    def _decoded(self, pieces: Iterator[bytes]) -> bytes:
        try:
            return b"".join(pieces)
        except CodingError as error:
            raise ImageError(f"the body of the response {error}") from error

    def _open(self, raw: bytes) -> Body:
        if self._framing == "sse":
            return self._event(raw)
        text = raw.strip(b" \t\r\n,")
        if self._framing == "array":
            text = text.removeprefix(b"[").strip(b" \t\r\n,") if not _balanced(text) else text
            if text in (b"", b"]"):
                return Body()
        body = _value(text) if text else Body()
        watched = watched_over(self._watch, body)

        def rebuild(new: Mapping[str, Replacement]) -> bytes:
            return raw.replace(text, body.rebuild(new), 1)

        return Body(watched.sites, watched.payloads, rebuild)

    def _event(self, raw: bytes) -> Body:
        data, others = data_of(raw)
        body = _value("\n".join(data).encode()) if data else Body()
        if len(data) > 1 and not body.payloads:  # some clients read each line as a value of its own
            body = _together([body, *(_value(line.encode()) for line in data)])
        beside = [_value(line.encode()) for line in others if len(line) > _SHORT]
        body = watched_over(self._watch, _together([body, *beside]) if beside else body)
        if len(data) == 1 and not beside:
            line, inner = data[0].encode(), body

            def rebuild(new: Mapping[str, Replacement]) -> bytes:
                if line not in raw:  # not UTF-8 throughout: the event cannot be written anew
                    raise ImageError("no other image can stand in this event's place")
                return raw.replace(line, inner.rebuild(new), 1)

            return Body(body.sites, body.payloads, rebuild)
        return Body(body.sites, body.payloads)


_ANSWER = Reading(answer=True)
_SHORT = 64  # a comment or a name of an event that is shorter holds no image
_LONG_CODE = re.compile(rb"[A-Za-z0-9+/_-]{64}")
_CUT_CODE = re.compile(rb"[A-Za-z0-9+/_-]{32}")


def _value(text: bytes) -> Body:
    if text[:1] not in (b"{", b"[", b'"'):
        return open_body(text, "text/plain", _ANSWER)
    try:
        return open_json(text, _ANSWER)
    except TooDeepError:
        return unreadable("has an event of JSON nested too deeply")
    except DuplicateKeyError:
        return unreadable("has an event of JSON with a key twice in one object")
    except JsonError:
        body = open_body(text, "text/plain", _ANSWER)
        if body.sites or not _LONG_CODE.search(text):
            return body
        return unreadable("has an event that is not JSON and may hold an image")


def _balanced(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _together(bodies: list[Body]) -> Body:
    def rebuild(_new: Mapping[str, Replacement]) -> bytes:
        raise ImageError("no other image can stand in this event's place")

    sites = tuple(site for body in bodies for site in body.sites)
    return Body(sites, tuple(value for body in bodies for value in body.payloads), rebuild)
