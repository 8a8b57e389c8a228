"""One request through one client library, blocking or not: read, judge, send, judge, hand on.

The flow is written once, as coroutines. An asynchronous client awaits them; in a blocking client none of
them ever waits, and ``complete`` runs them to their end at once.

Covered: what was judged is what is sent and handed on; the connection is closed whatever happens. Not
covered: what is judged, and how (``exchange``); what a library's requests and responses look like (its
subclass of ``Flow``).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextvars import copy_context
from threading import Thread
from typing import Any, Protocol, TypeVar

from policyguard.errors import ImageError
from policyguard.integrations.http.codings import CodingError, Decoder, decoder
from policyguard.integrations.http.exchange import (
    HEAVY,
    Blocked,
    Core,
    Exchange,
    Step,
    T,
    adrive,
    begin,
    drive,
)
from policyguard.integrations.http.message import RequestHead, ResponseHead, Synthetic
from policyguard.integrations.http.result import Direction
from policyguard.integrations.http.streams import Events, Framing, StreamProblem
from policyguard.strict.arguments import InOneProcess

__all__ = ["Flow", "Source", "Stream", "complete", "source_of"]

R = TypeVar("R")


def complete(coroutine: Coroutine[Any, Any, R]) -> R:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("a blocking client waited on an event loop")


class Source(Protocol):
    async def read(self) -> bytes | None:
        """The next bytes of a body; None at its end."""


class _Pieces:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    async def read(self) -> bytes | None:
        return next(self._pieces, None)


class _AsyncPieces:
    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    async def read(self) -> bytes | None:
        return await anext(self._pieces, None)


def source_of(pieces: Any) -> Source:
    """What an iterable of bytes, asynchronous or not, gives."""
    return _AsyncPieces(aiter(pieces)) if hasattr(pieces, "__aiter__") else _Pieces(iter(pieces))


class Flow(InOneProcess):
    """What is the same for every library. A subclass says how it reads, sends and builds."""

    core: Core
    waits = False
    """Whether this is for an event loop."""

    # --- what a library's subclass says ----------------------------------------------------------------

    def request_head(self, request: Any) -> RequestHead:
        raise NotImplementedError

    async def read_request(self, request: Any) -> bytes | None:
        """The body to be judged; None if it is longer than is held."""
        raise NotImplementedError

    async def forward(self, request: Any, data: bytes, changed: bytes | None) -> Any:
        """Send ``changed``, or the body ``data`` as it was judged; returns the library's response."""
        raise NotImplementedError

    def declare(self, request: Any, media_type: str) -> None:
        """Note in the head of ``request`` what its changed body is."""
        raise NotImplementedError

    def response_head(self, response: Any) -> ResponseHead:
        raise NotImplementedError

    def response_source(self, response: Any) -> Source:
        raise NotImplementedError

    async def close_response(self, response: Any) -> None:
        raise NotImplementedError

    def build(self, exchange: Exchange, request: Any, response: Any, body: Stream | bytes | None) -> Any:
        """``response`` with another body; None leaves the one it has."""
        raise NotImplementedError

    def build_refusal(self, exchange: Exchange, request: Any, refusal: Synthetic) -> Any:
        raise NotImplementedError

    # --- the flow --------------------------------------------------------------------------------------

    async def handle(self, request: Any) -> Any:
        """The response to hand on. Raises what mode "raise" raises, and what the library raises."""
        exchange = self.core.begin(self.request_head(request))
        try:
            data = await self.read_request(request)
            response = await self._sent(exchange, request, data)
        except Blocked as blocked:
            return self._refuse(exchange, request, "request", blocked)
        try:
            return await self._respond(exchange, request, response)
        except Blocked as blocked:
            await self.close_response(response)
            return self._refuse(exchange, request, "response", blocked)
        except BaseException:
            await self.close_response(response)
            raise

    async def _sent(self, exchange: Exchange, request: Any, data: bytes | None) -> Any:
        """The response to a request that was judged. Raises Blocked."""
        step, size, settings = exchange.request(data), len(data or b""), self.core.settings
        if settings.when == "before":
            changed = await self.drive(step, size)
            if (kind := exchange.media_types.get("request")) is not None:
                self.declare(request, kind)
            return await self.forward(request, data or b"", changed)
        if self.waits and size > HEAVY:
            asked = await asyncio.to_thread(begin, step, settings)
        else:
            asked = begin(step, settings)
        if asked is None:  # nothing that the model would be asked about
            return await self.forward(request, data or b"", None)
        exchange.result.sent_unjudged = True
        sending = self.forward(request, data or b"", None)
        if self.waits:
            judging = adrive(step, settings, size=size, asked=asked)
            return await _both(sending, judging, self.close_response)
        judged = in_thread(drive, step, settings, asked)
        try:
            response = await sending
        finally:
            failed = judged.exception()  # waits for it
        if failed is not None:
            await self.close_response(response)
            raise failed
        return response

    async def drive(self, step: Step[T], size: int = 0) -> T:
        if self.waits:
            return await adrive(step, self.core.settings, size=size)
        return drive(step, self.core.settings)

    def held(self, direction: Direction) -> int:
        return self.core.settings.held(direction)

    async def collect(
        self, direction: Direction, source: Source, codings: Decoder | None = None, begun: bytes = b""
    ) -> bytes | None:
        """The whole body, decoded, or None if it is longer than is held. In memory once."""
        whole = io.BytesIO()
        piece: bytes | None = begun
        while piece is not None:
            for decoded in (piece,) if codings is None else codings.feed(piece):
                whole.write(decoded)
                if whole.tell() > self.held(direction):
                    return None
            piece = await source.read()
        if codings is not None:
            codings.finish()
        return whole.getvalue()

    def too_long(self, direction: Direction, length: str | None) -> bool:
        """Whether a body says by itself, in Content-Length, that it is longer than is held."""
        length = length or ""
        return length.isascii() and length.isdigit() and int(length) > self.held(direction)

    async def _respond(self, exchange: Exchange, request: Any, response: Any) -> Any:
        head = self.response_head(response)
        if head.status == 101:
            await self.drive(exchange.switched())
        if exchange.without_body(head):
            untouched = self.build(exchange, request, response, None)
            exchange.finish()
            return untouched
        try:
            codings = decoder(head.headers.get("content-encoding"))
        except CodingError as error:
            await self.drive(exchange.unreadable("response", str(error)))
            untouched = self.build(exchange, request, response, None)  # where nothing is stopped
            exchange.finish()
            return untouched
        source, begun = self.response_source(response), b""
        if (framing := exchange.framing(head)) is not None:
            events = _EventStream(self, exchange, response, source, framing, codings)
            return self.build(exchange, request, response, events)
        if exchange.may_be_sound(head, codings):
            while len(begun) < 64 and (piece := await source.read()):
                begun += piece
            if exchange.is_sound(head, begun):
                return self.build(
                    exchange, request, response, Stream(self, exchange, response, source, begun)
                )
        data = None
        if not self.too_long("response", head.headers.get("content-length")):
            try:
                data = await self.collect("response", source, codings, begun)
            except CodingError as error:
                await self.drive(exchange.unreadable("response", str(error)))
                raise ImageError(f"the body of the response {error}") from error
        changed = await self.drive(exchange.response(head, data), len(data or b""))
        await self.close_response(response)
        whole = self.build(exchange, request, response, (data or b"") if changed is None else changed)
        exchange.finish()
        return whole

    def _refuse(self, exchange: Exchange, request: Any, direction: Direction, blocked: Blocked) -> Any:
        exchange.stopped(direction, blocked)
        exchange.finish()
        if exchange.settings.mode(direction) == "raise":
            raise blocked.error from None
        return self.build_refusal(exchange, request, exchange.refusal(blocked))


def in_thread(work: Callable[..., R], *args: Any) -> Future[R]:
    """Do ``work`` in a thread of its own."""
    future: Future[R] = Future()
    context = copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work, *args))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, name="policyguard-alongside", daemon=True).start()
    return future


async def _both(
    sending: Coroutine[Any, Any, Any],
    judging: Coroutine[Any, Any, Any],
    close: Callable[[Any], Coroutine[Any, Any, None]],
) -> Any:
    """The response, once its request is judged. A block cancels what is on its way, and closes what came."""
    sent, judged = asyncio.create_task(sending), asyncio.create_task(judging)
    try:
        await asyncio.wait({sent, judged}, return_when=asyncio.FIRST_EXCEPTION)
        if judged.done():
            judged.result()
        return await sent
    except BaseException:
        judged.cancel()
        sent.cancel()
        await asyncio.gather(sent, judged, return_exceptions=True)
        if not sent.cancelled() and sent.exception() is None:
            await close(sent.result())
        raise


class Stream:
    """A response's body handed on as it comes, unjudged (sound). ``read`` and ``close`` as for a Source."""

    def __init__(
        self, flow: Flow, exchange: Exchange, response: Any, source: Source, begun: bytes = b""
    ) -> None:
        self._flow, self._exchange, self._response, self._source = flow, exchange, response, source
        self._begun, self._closed = begun, False

    async def read(self) -> bytes | None:
        """The next bytes; None at the end, where the connection is closed."""
        if self._closed:
            return None
        try:
            piece = await self._next()
        except BaseException:
            await self.close()
            raise
        if piece is None:
            await self.close()
        return piece

    async def close(self) -> None:
        """Close the connection, and tell the callbacks."""
        if not self._closed:
            self._closed = True
            try:
                await self._flow.close_response(self._response)
            finally:
                self._exchange.finish()

    async def _next(self) -> bytes | None:
        begun, self._begun = self._begun, b""
        return begun or await self._source.read()


class _EventStream(Stream):
    """A body of events, each judged before it is handed on."""

    def __init__(
        self,
        flow: Flow,
        exchange: Exchange,
        response: Any,
        source: Source,
        framing: Framing,
        codings: Decoder,
    ) -> None:
        super().__init__(flow, exchange, response, source)
        self._framing = framing
        self._events = Events(
            framing, codings, limit=exchange.settings.max_event, links=exchange.settings.links == "block"
        )
        self._waiting: Iterator[bytes] = iter(())
        self._first, self._last = True, False
        self._unread = False

    async def _next(self) -> bytes | None:
        try:
            return await self._event()
        except Blocked as blocked:
            self._exchange.stopped("response", blocked)
            if self._exchange.settings.mode("response") == "raise":
                raise blocked.error from None
            self._waiting, self._last = iter(()), True
            await self._flow.close_response(self._response)
            return self._exchange.error_event(blocked, self._framing, first=self._first)

    async def _event(self) -> bytes | None:
        try:
            while True:
                for raw in self._waiting:
                    if self._flow.waits and len(raw) > HEAVY:
                        body = await asyncio.to_thread(self._events.open, raw, last=self._last)
                    else:
                        body = self._events.open(raw, last=self._last)
                    event = await self._flow.drive(self._exchange.event(raw, body), len(raw))
                    self._first = False
                    return event
                if self._last:
                    return None
                chunk = await self._source.read()
                self._last = chunk is None
                if self._unread:
                    return None if chunk is None else self._events.decoded(chunk)
                self._waiting = self._events.finish() if chunk is None else self._events.feed(chunk)
        except StreamProblem as problem:
            await self._flow.drive(self._exchange.unreadable("response", str(problem)))
            self._unread = True  # where nothing is stopped
            return self._events.rest() or await self._event()
