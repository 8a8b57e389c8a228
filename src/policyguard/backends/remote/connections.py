"""Kept connections to one server: the bytes of one request, and those of its answer and no others.

httpx says how the server is reached (proxies, certificates) and httpcore speaks HTTP on each connection;
their pool, which looks at every connection for every request, is left out. Covered: a connection on which
more came than one answer is not used again; an answer that begins before its request was sent is told apart.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    import httpcore
    import httpx

__all__ = ["Answer", "Connections", "Stream"]

_NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a host is tried beside the first (RFC 8305)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """``began_early``: before all of its request was sent."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes
    began_early: bool
    connection: Any


class Connections:
    """Those to ``url``'s host, as ``client`` reaches it; the one used last is the next. For one event loop.

    ``most``: how many there are at most. ``connect``: seconds to open one.
    """

    def __init__(self, client: httpx.AsyncClient, url: str, *, most: int, connect: float) -> None:
        import httpx

        target = httpx.URL(url)
        # httpx has no public way to what its proxies and certificates lead to; without one, this raises.
        self._pool: Any = client._transport_for_url(target)._pool  # type: ignore[attr-defined]  # noqa: SLF001
        self._pool._network_backend = _Network()  # noqa: SLF001
        self._origin = (target.raw_scheme, target.raw_host, target.port)
        self._headers = [(b"Host", target.netloc), *client.headers.raw]
        self._extensions = {"timeout": {"connect": connect}}
        self._idle: list[Any] = []
        self._open: set[Any] = set()
        self.slots = asyncio.Semaphore(most)

    async def close(self) -> None:
        for connection in list(self._open):
            await self.drop(connection)

    async def drop(self, connection: Any) -> None:
        """Close a connection, and let nobody use it again."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        await connection.aclose()

    async def ask(
        self,
        method: str,
        target: bytes,
        headers: Mapping[bytes, bytes],
        content: bytes | None,
        read: Callable[[httpcore.Response], Awaitable[bytes]],
    ) -> Answer:
        """Send a request; ``read`` reads the answer's body. Raises what it, httpcore and sockets raise."""
        import httpcore

        scheme, host, port = self._origin
        length = [] if content is None else [(b"Content-Length", b"%d" % len(content))]
        request = httpcore.Request(
            method,
            httpcore.URL(scheme=scheme, host=host, port=port, target=target),
            headers=[*self._headers, *headers.items(), *length],
            content=content,
            extensions=self._extensions,
        )
        async with self.slots:
            return await self._ask(request, read)

    async def _ask(
        self, request: httpcore.Request, read: Callable[[httpcore.Response], Awaitable[bytes]]
    ) -> Answer:
        connection = await self._free()
        try:
            response = await connection.handle_async_request(request)
            stream: Stream = response.extensions["network_stream"]
            try:
                body = await read(response)
            finally:
                await response.aclose()
            answer = Answer(
                response.status,
                {name.lower(): value for name, value in response.headers},
                body,
                stream.began_early,
                connection,
            )
        except BaseException:
            await self.drop(connection)
            raise
        if connection.is_idle() and not _surplus(connection):
            stream.is_between = True
            self._idle.append(connection)
        else:
            await self.drop(connection)
        return answer

    async def _free(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():  # nor is there anything to read
                return connection
            await self.drop(connection)
        import httpcore

        scheme, host, port = self._origin
        origin = httpcore.URL(scheme=scheme, host=host, port=port, target=b"/").origin
        connection = self._pool.create_connection(origin)
        self._open.add(connection)
        return connection


def _surplus(connection: Any) -> bytes:
    """What came behind an answer together with its end."""
    while not hasattr(connection, "_h11_state"):
        connection = connection._connection  # noqa: SLF001 (proxies wrap it)
    surplus: bytes = connection._h11_state.trailing_data[0]  # noqa: SLF001
    return surplus


class _Network:
    """What httpcore opens connections with."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's)
        **options: Any,
    ) -> Stream:
        import httpcore

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                # Where there is but one address, nothing is gained by it, and a cancelled race may leave a
                # socket to the garbage collector.
                delay = None if _is_address(host) else _NEXT_ADDRESS
                _, stream = await loop.create_connection(Stream, host, port, happy_eyeballs_delay=delay)
        except TimeoutError:
            raise httpcore.ConnectTimeout from None
        return stream

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Stream(asyncio.Protocol):
    """The bytes of one connection.

    ``is_between``: the last answer is complete and no request has begun.
    """

    def __init__(self) -> None:
        self.began_early = False
        self.is_between = True
        self._transport: Any = None
        self._socket_transport: Any = None  # below TLS, where there is any
        self._head = b""
        self._received = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._change = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._socket_transport is None:
            self._socket_transport = transport
        self._limit()

    def _limit(self) -> None:
        """Have room when all is sent. With ``high=0``, asyncio's TLS pauses when nothing is left to send."""
        self._transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._change.set()

    def eof_received(self) -> None:
        self._ended = True
        self._change.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._error = True, exc
        self._change.set()
        self._room.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 (httpcore's)
        while not self._received and not self._ended:
            self._change.clear()
            await self._change.wait()
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        if not data and self._error is not None:
            raise self._error
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 (httpcore's)
        """The head of a request waits for the next piece, which ends it if it is empty.

        A server that answers without reading on, and hangs up, has then had all of it.
        """
        if self.is_between and buffer[:1].isalpha():  # what SOCKS proxies are told begins with a number
            self.is_between, self.began_early, self._head = False, False, buffer
            return
        pieces = [piece for piece in (self._head, buffer) if piece]
        self._head = b""
        if not pieces:
            return
        self.is_between |= pieces[0].startswith(b"CONNECT ")
        self.began_early |= self._is_readable()
        if not self._ended:
            self._transport.writelines(pieces)
            await self._room.wait()
            while self._socket_transport.get_write_buffer_size() and not self._ended:  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # TLS tells of its own buffer alone, not of the socket's
            self.began_early |= bool(self._received)
        if self._ended:
            import httpcore

            raise httpcore.WriteError("the connection was closed")  # and there may be an answer to read

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's)
    ) -> Stream:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            self._transport = await loop.start_tls(
                self._transport, self, ssl_context, server_hostname=server_hostname
            )
        self._limit()
        return self

    async def aclose(self) -> None:
        self._ended = True
        self._transport.abort()
        await asyncio.sleep(0)  # closes the socket

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._is_readable()
        return self._transport.get_extra_info(info)

    def _is_readable(self) -> bool:
        """Whether something has come, the end included, in the socket too."""
        if self._received or self._ended:
            return True
        if self._transport.get_extra_info("ssl_object") is not None:
            return False  # TLS has messages of its own, which make a socket readable as well
        from httpcore._utils import is_socket_readable

        return bool(is_socket_readable(self._transport.get_extra_info("socket")))
