"""A response that comes as events: which of them may pass, and which are held until they are judged.

Covered: server-sent events, JSON lines and JSON arrays, whatever the size of the chunks; images cut off by
the end of the stream; data URIs, and images by URL in Markdown and HTML, that are written piece by piece.
Not covered: images in any other encoding that no single event shows to be one.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from policyguard.errors import ImageError
from policyguard.integrations.extract import ImageSite, Replacement, SiteKind

from .bodies import Body, DuplicateKeyError, open_body, open_json, unreadable
from .codings import CodingError, Decoder
from .frames import Framing, OverlongError, data_of, framer

__all__ = ["Events", "StreamProblem"]


class StreamProblem(Exception):  # noqa: N818 (becomes a verdict)
    """The stream cannot be read further; the message continues the sentence "the body ..."."""


class Events:
    """Cuts a response into events and opens each. Holds one event at a time."""

    def __init__(self, framing: Framing, codings: Decoder, *, limit: int) -> None:
        self._framing, self._codings = framing, codings
        self._frames = framer(framing, limit=limit)
        self._watch = _Watch()
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
        watched = self._watch.over(body)

        def rebuild(new: Mapping[str, Replacement]) -> bytes:
            return raw.replace(text, body.rebuild(new), 1)

        return Body(watched.sites, watched.payloads, rebuild)

    def _event(self, raw: bytes) -> Body:
        data, others = data_of(raw)
        body = _value("\n".join(data).encode()) if data else Body()
        if len(data) > 1 and not body.payloads:  # some clients read each line as a value of its own
            body = _together([body, *(_value(line.encode()) for line in data)])
        beside = [_value(line.encode()) for line in others if len(line) > _SHORT]
        body = self._watch.over(_together([body, *beside]) if beside else body)
        if len(data) == 1 and not beside:
            line, inner = data[0].encode(), body

            def rebuild(new: Mapping[str, Replacement]) -> bytes:
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


#: The beginning of an image in text: a data URI, or Markdown or HTML that shows an image by URL.
_BEGINNING = re.compile(
    r"data:image/[^,\s\"')]{0,100},[^\s\"')]{16}|!\[[^\]]{0,200}\]\(\s*<?https?://|<img\b[^>]{0,200}?\bsrc\s*=",
    re.IGNORECASE,
)


class _Watch:
    """Finds images that a model writes piece by piece.

    The text at each place of the events (``choices/0/delta/content``) is joined over the events. What grows
    there is an image whose beginning has passed, and whose rest must not.
    """

    _KEPT = 300  # characters per place: more than such a beginning
    _PLACES = 256

    def __init__(self) -> None:
        self._tails: OrderedDict[str, str] = OrderedDict()

    def over(self, body: Body) -> Body:
        """``body``, or an unreadable one if it completes the beginning of an image."""
        if body.sites:
            return body  # it is judged as it is
        for payload in body.payloads:
            for place, text in _texts(payload):
                joined = self._tails.get(place, "") + text[-4096:]
                if _BEGINNING.search(joined):
                    self._tails.pop(place, None)
                    problem = "an image is written piece by piece, and cannot be judged before it passes"
                    return Body((ImageSite(place, SiteKind.UNREADABLE, problem=problem),), body.payloads)
                self._tails[place] = joined[-self._KEPT :]
                self._tails.move_to_end(place)
        while len(self._tails) > self._PLACES:
            self._tails.popitem(last=False)
        return body


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        place, item = stack.pop()
        if isinstance(item, str):
            if item:
                yield place, item
        elif isinstance(item, dict):
            stack.extend((f"{place}/{key}", inner) for key, inner in item.items())
        elif isinstance(item, list):
            stack.extend((f"{place}/{number}", inner) for number, inner in enumerate(item))
