"""A response that comes as events: which of them may pass, and which are held until they are judged.

Covered: server-sent events, JSON lines and JSON arrays, whatever the size of the chunks; images cut off by
the end of the stream; images that are written piece by piece (``watch``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping

from policyguard.errors import ImageError
from policyguard.integrations.extract import Replacement

from .bodies import Body, DuplicateKeyError, open_body, open_json, unreadable, watched_over
from .codings import CodingError, Decoder
from .frames import Framing, OverlongError, data_of, framer
from .watch import Watch

__all__ = ["Events", "StreamProblem"]


class StreamProblem(Exception):  # noqa: N818 (becomes a verdict)
    """The stream cannot be read further; the message continues the sentence "the body ..."."""


class Events:
    """Cuts a response into events and opens each. Holds one event at a time."""

    def __init__(self, framing: Framing, codings: Decoder, *, limit: int) -> None:
        self._framing, self._codings = framing, codings
        self._frames = framer(framing, limit=limit)
        self._watch = Watch()
        self._limit = limit

    def feed(self, data: bytes) -> Iterator[tuple[bytes, Body]]:
        """The events that ``data`` completes. Raises StreamProblem."""
        try:
            for piece in self._codings.feed(data):
                for raw in self._frames.feed(piece):
                    yield raw, self._open(raw)
        except CodingError as error:
            raise StreamProblem(str(error)) from error
        except OverlongError:
            raise StreamProblem(f"has an event of more than {self._limit} bytes") from None

    def finish(self) -> Iterator[tuple[bytes, Body]]:
        """What is left when no more bytes come. Raises StreamProblem."""
        try:
            self._codings.finish()
        except CodingError as error:
            raise StreamProblem(str(error)) from error
        if rest := self._frames.rest():
            body = self._open(rest)
            if not body.sites and not body.payloads and _CUT_CODE.search(rest):
                raise StreamProblem("is cut short in what may be an image")
            yield rest, body

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


_SHORT = 64  # a comment or a name of an event that is shorter holds no image
_LONG_CODE = re.compile(rb"[A-Za-z0-9+/_-]{64}")
_CUT_CODE = re.compile(rb"[A-Za-z0-9+/_-]{32}")


def _value(text: bytes) -> Body:
    if text[:1] not in (b"{", b"[", b'"'):
        return open_body(text, "text/plain", strict=False)
    try:
        return open_json(text)
    except RecursionError:
        return unreadable("has an event of JSON nested too deeply")
    except DuplicateKeyError:
        return unreadable("has an event of JSON with a key twice in one object")
    except ValueError:
        found = open_body(text, "text/plain", strict=False)
        if found.sites or not _LONG_CODE.search(text):
            return found
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
