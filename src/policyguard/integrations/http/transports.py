"""Transports that judge: between an httpx or httpx2 client and the transport that it sends with.

Timeouts, connections, HTTP/2 and proxies stay the wrapped transport's business; redirects and retries stay
the client's and the SDK's, and each of their requests is judged again (from memory, where it was judged).
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any, Self, Unpack

from policyguard.integrations.http.codings import CodingError, Decoder, decoder
from policyguard.integrations.http.exchange import Blocked, Core, Exchange, Step, T, adrive, drive
from policyguard.integrations.http.family import family_of
from policyguard.integrations.http.message import RequestHead, ResponseHead, joined
from policyguard.integrations.http.settings import settings
from policyguard.integrations.http.streams import Events, Framing, StreamProblem

if TYPE_CHECKING:
    from policyguard.guard import Guard
    from policyguard.integrations.http.result import Direction
    from policyguard.integrations.http.settings import Options

__all__ = ["AsyncGuardedTransport", "GuardedTransport"]

_COMPUTED = (b"content-length", b"content-encoding", b"transfer-encoding")


class _Guarded:
    """What the two transports share: heads read, requests and responses made."""

    _kind: str

    def __init__(self, guard: Guard | Core, transport: Any, **options: Unpack[Options]) -> None:
        # A Core comes from guard_client: the transports of one client share it.
        self._core = guard if isinstance(guard, Core) else Core(settings(guard, **options))
        self._inner, self._family = transport, family_of(transport, self._kind)

    @property
    def wrapped(self) -> Any:
        """The transport that sends."""
        return self._inner

    def _begin(self, request: Any) -> Exchange:
        path, _, query = request.url.raw_path.decode("ascii", "replace").partition("?")
        headers = joined(request.headers.multi_items())
        return self._core.begin(RequestHead(request.method, request.url.host, path, headers, query))

    def _too_long(self, headers: Any) -> bool:
        """Whether a body says by itself that it is longer than is held."""
        length = headers.get("content-length", "")
        return length.isascii() and length.isdigit() and int(length) > self._core.settings.max_body

    def _to_send(self, request: Any, data: bytes, changed: bytes | None) -> Any:
        module = self._family.module
        if changed is None:
            request.stream = module.ByteStream(data)  # what was judged, and nothing else
            return request
        return module.Request(
            request.method,
            request.url,
            headers=_kept(request.headers.raw, _COMPUTED),
            content=changed,
            extensions=request.extensions,
        )

    def _made(self, exchange: Exchange, original: Any, *, dropped: tuple[bytes, ...], stream: Any) -> Any:
        headers = _kept(original.headers.raw, dropped)
        if (header := exchange.verdict_header()) is not None:
            headers.append((header[0].encode(), header[1].encode()))
        extensions = {**original.extensions, "policyguard": exchange.result}
        return self._family.module.Response(
            original.status_code, headers=headers, stream=stream, extensions=extensions
        )

    def _whole(self, exchange: Exchange, original: Any, content: bytes) -> Any:
        """``original`` with ``content``, whose Content-Encoding is undone, as its body."""
        stream = self._family.module.ByteStream(content)
        made = self._made(exchange, original, dropped=_COMPUTED, stream=stream)
        made.headers["content-length"] = str(len(content))
        return made

    def _refused(self, exchange: Exchange, direction: Direction, blocked: Blocked) -> Any:
        exchange.stopped(direction, blocked)
        exchange.finish()
        if exchange.settings.mode(direction) == "raise":
            raise blocked.error from None
        refusal = exchange.refusal(blocked)
        extensions = {"policyguard": exchange.result}
        return self._family.module.Response(
            refusal.status, headers=list(refusal.headers), content=refusal.body, extensions=extensions
        )

    def _stopped(self, exchange: Exchange, framing: Framing, blocked: Blocked, *, first: bool) -> bytes:
        """The last piece of a stream that is stopped."""
        exchange.stopped("response", blocked)
        if exchange.settings.mode("response") == "raise":
            raise blocked.error from None
        return exchange.error_event(blocked, framing, first=first)

    def _events(self, framing: Framing, codings: Decoder) -> Events:
        return Events(framing, codings, limit=self._core.settings.max_event)


class GuardedTransport(_Guarded):
    """A transport for ``Client``. Takes the transport to send with, and the settings of ``guarded_client``.

    Raises ConfigurationError for settings that cannot work, and for a transport of neither package.
    """

    _kind = "BaseTransport"

    def handle_request(self, request: Any) -> Any:
        exchange = self._begin(request)
        try:
            data = self._read_request(request)
            changed = self._drive(exchange.request(data))
        except Blocked as blocked:
            return self._refused(exchange, "request", blocked)
        response = self._inner.handle_request(self._to_send(request, data or b"", changed))
        try:
            return self._respond(exchange, response)
        except Blocked as blocked:
            response.close()
            return self._refused(exchange, "response", blocked)
        except BaseException:
            response.close()
            raise

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._inner.__exit__(*exc)

    def _drive(self, step: Step[T]) -> T:
        return drive(step, self._core.settings)

    def _read_request(self, request: Any) -> bytes | None:
        if hasattr(request, "_content"):
            return self._bounded(request.content)
        return None if self._too_long(request.headers) else self._collect(iter(request.stream), b"")

    def _bounded(self, data: bytes) -> bytes | None:
        return None if len(data) > self._core.settings.max_body else data

    def _collect(self, pieces: Iterator[bytes], begun: bytes) -> bytes | None:
        """The whole, or None if there is more of it than is held. In memory once."""
        whole = io.BytesIO()
        whole.write(begun)
        for piece in pieces:
            whole.write(piece)
            if whole.tell() > self._core.settings.max_body:
                return None
        return whole.getvalue()

    def _respond(self, exchange: Exchange, response: Any) -> Any:
        head = ResponseHead(response.status_code, joined(response.headers.multi_items()))
        if head.status == 101:
            self._drive(exchange.switched())
        if exchange.without_body(head):
            made = self._made(exchange, response, dropped=(), stream=response.stream)
            exchange.finish()
            return made
        try:
            codings = decoder(head.headers.get("content-encoding"))
        except CodingError as error:
            self._drive(exchange.unreadable("response", str(error)))
            raise  # not reached: unreadable blocks
        framing = exchange.framing(head)
        if framing is not None:
            pieces = self._pieces(exchange, response, framing, codings)
            return self._streamed(exchange, response, pieces)
        pieces, begun = iter(response.stream), b""
        if exchange.may_be_sound(head, codings):
            while len(begun) < 64 and (piece := next(pieces, b"")):
                begun += piece
            if exchange.is_sound(head, begun):
                return self._streamed(exchange, response, self._unjudged(exchange, response, begun, pieces))
        data = None
        if not self._too_long(head.headers):
            try:
                data = self._collect(
                    (out for piece in _chain(begun, pieces) for out in codings.feed(piece)), b""
                )
                codings.finish() if data is not None else None
            except CodingError as error:
                self._drive(exchange.unreadable("response", str(error)))
        changed = self._drive(exchange.response(head, data))
        response.close()
        made = self._whole(exchange, response, (data or b"") if changed is None else changed)
        exchange.finish()
        return made

    def _streamed(self, exchange: Exchange, response: Any, pieces: Generator[bytes, None, None]) -> Any:
        def close() -> None:
            pieces.close()  # does the rest, if it has begun
            response.close()
            exchange.finish()

        stream = self._family.sync_stream(pieces, close)
        return self._made(exchange, response, dropped=_COMPUTED, stream=stream)

    def _unjudged(
        self, exchange: Exchange, response: Any, begun: bytes, pieces: Iterator[bytes]
    ) -> Generator[bytes, None, None]:
        try:
            yield from _chain(begun, pieces)
        finally:
            response.close()
            exchange.finish()

    def _pieces(
        self, exchange: Exchange, response: Any, framing: Framing, codings: Decoder
    ) -> Generator[bytes, None, None]:
        events, first = self._events(framing, codings), True
        try:
            try:
                for chunk in response.stream:
                    for raw, body in events.feed(chunk):
                        yield self._drive(exchange.event(raw, body))
                        first = False
                for raw, body in events.finish():
                    yield self._drive(exchange.event(raw, body))
            except StreamProblem as problem:
                self._drive(exchange.unreadable("response", str(problem)))
        except Blocked as blocked:
            yield self._stopped(exchange, framing, blocked, first=first)
        finally:
            response.close()
            exchange.finish()


class AsyncGuardedTransport(_Guarded):
    """``GuardedTransport`` for ``AsyncClient``."""

    _kind = "AsyncBaseTransport"

    async def handle_async_request(self, request: Any) -> Any:
        exchange = self._begin(request)
        try:
            data = await self._read_request(request)
            changed = await self._drive(exchange.request(data), len(data or b""))
        except Blocked as blocked:
            return self._refused(exchange, "request", blocked)
        response = await self._inner.handle_async_request(self._to_send(request, data or b"", changed))
        try:
            return await self._respond(exchange, response)
        except Blocked as blocked:
            await response.aclose()
            return self._refused(exchange, "response", blocked)
        except BaseException:
            await response.aclose()
            raise

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._inner.__aexit__(*exc)

    async def _drive(self, step: Step[T], size: int = 0) -> T:
        return await adrive(step, self._core.settings, size=size)

    async def _read_request(self, request: Any) -> bytes | None:
        limit = self._core.settings.max_body
        if hasattr(request, "_content"):
            return None if len(request.content) > limit else request.content
        return None if self._too_long(request.headers) else await self._collect(aiter(request.stream), None)

    async def _collect(self, pieces: AsyncIterator[bytes], codings: Decoder | None) -> bytes | None:
        whole = io.BytesIO()
        async for piece in pieces:
            for out in (piece,) if codings is None else codings.feed(piece):
                whole.write(out)
                if whole.tell() > self._core.settings.max_body:
                    return None
        if codings is not None:
            codings.finish()
        return whole.getvalue()

    async def _respond(self, exchange: Exchange, response: Any) -> Any:
        head = ResponseHead(response.status_code, joined(response.headers.multi_items()))
        if head.status == 101:
            await self._drive(exchange.switched())
        if exchange.without_body(head):
            made = self._made(exchange, response, dropped=(), stream=response.stream)
            exchange.finish()
            return made
        try:
            codings = decoder(head.headers.get("content-encoding"))
        except CodingError as error:
            await self._drive(exchange.unreadable("response", str(error)))
            raise  # not reached: unreadable blocks
        framing = exchange.framing(head)
        if framing is not None:
            pieces = self._pieces(exchange, response, framing, codings)
            return self._streamed(exchange, response, pieces)
        pieces, begun = aiter(response.stream), b""
        if exchange.may_be_sound(head, codings):
            while len(begun) < 64 and (piece := await anext(pieces, b"")):
                begun += piece
            if exchange.is_sound(head, begun):
                return self._streamed(exchange, response, self._unjudged(exchange, response, begun, pieces))
        data = None
        if not self._too_long(head.headers):
            try:
                data = await self._collect(_achain(begun, pieces), codings)
            except CodingError as error:
                await self._drive(exchange.unreadable("response", str(error)))
        changed = await self._drive(exchange.response(head, data), len(data or b""))
        await response.aclose()
        made = self._whole(exchange, response, (data or b"") if changed is None else changed)
        exchange.finish()
        return made

    def _streamed(self, exchange: Exchange, response: Any, pieces: AsyncGenerator[bytes, None]) -> Any:
        async def close() -> None:
            await pieces.aclose()  # does the rest, if it has begun
            await response.aclose()
            exchange.finish()

        stream = self._family.async_stream(pieces, close)
        return self._made(exchange, response, dropped=_COMPUTED, stream=stream)

    async def _unjudged(
        self, exchange: Exchange, response: Any, begun: bytes, pieces: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        try:
            async for piece in _achain(begun, pieces):
                yield piece
        finally:
            await response.aclose()
            exchange.finish()

    async def _pieces(
        self, exchange: Exchange, response: Any, framing: Framing, codings: Decoder
    ) -> AsyncGenerator[bytes, None]:
        events, first = self._events(framing, codings), True
        try:
            try:
                async for chunk in response.stream:
                    for raw, body in events.feed(chunk):
                        yield await self._drive(exchange.event(raw, body))
                        first = False
                for raw, body in events.finish():
                    yield await self._drive(exchange.event(raw, body))
            except StreamProblem as problem:
                await self._drive(exchange.unreadable("response", str(problem)))
        except Blocked as blocked:
            yield self._stopped(exchange, framing, blocked, first=first)
        finally:
            await response.aclose()
            exchange.finish()


def _kept(headers: Any, dropped: tuple[bytes, ...]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def _chain(begun: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if begun:
        yield begun
    yield from pieces


async def _achain(begun: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if begun:
        yield begun
    async for piece in pieces:
        yield piece
