"""Fetches an image from a public https address, and from nowhere else.

Covered: https only, on port 443; no credentials; a host all of whose addresses are public, however written;
the connection goes to the very address that was checked, with the certificate verified for the name; each
redirect is checked again; no proxy is used, no cookie or header of the caller sent; nothing compressed is
accepted; bytes are counted as they come; one deadline for everything, name resolution included.
``http.client`` speaks HTTP over a socket that is connected here, so nothing resolves the name a second time.
Not covered: that the server learns which address asks, and when; and what the bytes are (``images.decode``
judges that).
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast
from urllib.parse import urljoin

from policyguard.errors import ConfigurationError, FetchError, UsageError
from policyguard.images.fetch.addresses import Address, Target, is_public, parse

__all__ = [
    "Clock",
    "Fetched",
    "Fetcher",
    "Resolver",
    "connect",
    "resolve",
    "system_resolver",
]


_OVERHEAD = 64 * 1024
_MAX_ATTEMPTS = 4
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 64 * 1024
_HEADERS = {
    "Accept": "image/png, image/jpeg, image/webp, image/gif",
    "Accept-Encoding": "identity",
    "User-Agent": "policyguard",
    "Connection": "close",
}


class Clock:
    """One deadline for all that is done to fetch one image."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left. Raises FetchError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise FetchError(f"it took longer than {self.seconds:g} s")
        return left


class _Raw(io.RawIOBase):
    """What the server sends, read against the deadline, and never more of it than ``limit`` bytes."""

    def __init__(self, sock: ssl.SSLSocket, clock: Clock, limit: int) -> None:
        self._sock, self._clock, self._left = sock, clock, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._left <= 0:
            raise FetchError("the server sends more than is read")
        self._sock.settimeout(self._clock.left())
        count = self._sock.recv_into(memoryview(buffer)[: self._left])
        self._left -= count
        return count


class _Wire:
    """As much of a socket as ``http.client`` uses. Whoever connected closes it."""

    def __init__(self, sock: ssl.SSLSocket, clock: Clock, limit: int) -> None:
        self._sock, self._clock = sock, clock
        self._raw = _Raw(sock, clock, limit)

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._clock.left())
        self._sock.sendall(data)

    def makefile(self, *_: object, **__: object) -> io.BufferedReader:
        return io.BufferedReader(self._raw, 16 * 1024)

    def close(self) -> None:
        """Nothing: ``http.client`` closes a socket while it still reads from the file made of it."""


def connect(
    target: Target,
    addresses: Sequence[Address],
    *,
    context: ssl.SSLContext,
    clock: Clock,
    max_bytes: int,
    permitted: Callable[[Address], bool],
) -> tuple[http.client.HTTPConnection, ssl.SSLSocket]:
    """A connection to the first of ``addresses`` that answers, its certificate checked for the target's host.

    The socket comes with it, to be closed.

    Raises FetchError, also if one of the addresses is not ``permitted``: the check stands where the
    connection is made. OSError and ssl.SSLError are left to the caller.
    """
    failure: OSError | None = None
    for address in addresses[:_MAX_ATTEMPTS]:
        if not permitted(address):
            raise FetchError(f"{target.host} has an address that is not public")
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(clock.left() / min(2, len(addresses)))
            sock.connect((str(address), target.port))
            sock.settimeout(clock.left())
            # An address gets no SNI by its specification; the certificate is checked against it all the same.
            secure = context.wrap_socket(sock, server_hostname=target.host)
        except OSError as error:
            sock.close()
            failure = error
            continue
        except BaseException:
            sock.close()
            raise
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = cast("Any", _Wire(secure, clock, max_bytes + _OVERHEAD))
        return connection, secure
    raise failure or FetchError(f"{target.host} has no address")


Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""From a host's name and port to its addresses, written out. May raise OSError."""


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver knows."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in entries))


def resolve(host: str, port: int, resolver: Resolver, clock: Clock) -> list[Address]:
    """The addresses of ``host``. The resolver runs in its own thread: nothing can stop it midway.

    Raises FetchError.
    """
    answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(list(resolver(host, port)))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True, name="policyguard-resolve").start()
    try:
        answer = answers.get(timeout=clock.left())
    except queue.Empty:
        raise FetchError(f"it took longer than {clock.seconds:g} s") from None
    if isinstance(answer, Exception):
        raise FetchError(f"the name {host} cannot be resolved: {answer}") from answer
    try:
        addresses = [ipaddress.ip_address(text) for text in answer]
    except ValueError as error:
        raise FetchError(f"the name {host} has an address that cannot be read: {error}") from error
    if not addresses:
        raise FetchError(f"the name {host} has no address")
    return addresses


@dataclass(frozen=True, slots=True)
class Fetched:
    """The body, its declared media type in lower case, and the URL where redirects ended."""

    data: bytes = field(repr=False)
    media_type: str | None
    final_url: str


class Fetcher:
    """Fetches images by URL. Thread-safe; keeps no connection open.

    Args:
        max_bytes: longest body that is accepted; at least 1.
        timeout: seconds for one image, name resolution and redirects included.
        max_redirects: how many redirects are followed, each checked like the first address.
        resolver: from host and port to addresses; default: the system's.
        ports: ports that a URL may name.
        permitted: which addresses may be connected to; default: public ones. For tests and closed networks:
            whoever widens it lets strangers' URLs reach what it names.
        ssl_context: for a certificate authority of one's own; must verify.

    Raises ConfigurationError for settings that cannot work.
    """

    def __init__(
        self,
        *,
        max_bytes: int = 20 * 2**20,
        timeout: float = 10.0,
        max_redirects: int = 3,
        resolver: Resolver | None = None,
        ports: Collection[int] = frozenset({443}),
        permitted: Callable[[Address], bool] = is_public,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if max_bytes < 1 or not timeout > 0 or max_redirects < 0 or not ports:
            raise ConfigurationError("a fetcher needs bounds: max_bytes and timeout above 0, and a port")
        context = ssl.create_default_context() if ssl_context is None else ssl_context
        if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
            raise ConfigurationError("a fetcher's ssl_context must verify certificates and host names")
        self._max_bytes, self._timeout, self._max_redirects = max_bytes, timeout, max_redirects
        self._resolver, self._ports = resolver or system_resolver, frozenset(ports)
        self._permitted, self._context = permitted, context

    def fetch(self, url: str) -> Fetched:
        """Fetch one image. Raises FetchError for everything that stands in the way."""
        clock = Clock(self._timeout)
        for _ in range(self._max_redirects + 1):
            target = parse(url, self._ports)
            with _boundary(target, clock):
                result = self._get(target, clock)
            if isinstance(result, Fetched):
                return result
            url = urljoin(target.url, result)
        raise FetchError(f"it is redirected more than {self._max_redirects} times")

    async def afetch(self, url: str) -> Fetched:
        """``fetch``, in a thread."""
        return await asyncio.to_thread(self.fetch, url)

    def _get(self, target: Target, clock: Clock) -> Fetched | str:
        """The body, or the address that ``target`` redirects to."""
        if target.address is not None:
            addresses = [target.address]
        else:
            addresses = resolve(target.host, target.port, self._resolver, clock)
        if not all(self._permitted(address) for address in addresses):
            raise FetchError(f"{target.host} has an address that is not public")
        connection, sock = connect(
            target,
            addresses,
            context=self._context,
            clock=clock,
            max_bytes=self._max_bytes,
            permitted=self._permitted,
        )
        with closing(sock):
            connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", target.authority)
            for name, value in _HEADERS.items():
                connection.putheader(name, value)
            connection.endheaders()
            with closing(connection.getresponse()) as response:
                return self._read(target, response)

    def _read(self, target: Target, response: http.client.HTTPResponse) -> Fetched | str:
        if response.status in _REDIRECTS:
            location = response.getheader("Location")
            if not location:
                raise FetchError(f"{target.host} redirects to nowhere")
            return location
        if response.status != 200:
            raise FetchError(f"{target.host} answers with status {response.status}")
        if (coding := response.getheader("Content-Encoding") or "identity").strip().lower() != "identity":
            raise FetchError(f"{target.host} sends it compressed ({ascii(coding)[:40]})")
        if (transfer := (response.getheader("Transfer-Encoding") or "").strip().lower()) not in (
            "",
            "chunked",
        ):
            raise FetchError(f"{target.host} sends it encoded ({ascii(transfer)[:40]})")
        if response.length is not None and response.length > self._max_bytes:
            raise FetchError(self._too_long())
        pieces, count = [], 0
        while piece := response.read(_PIECE):
            count += len(piece)
            if count > self._max_bytes:
                raise FetchError(self._too_long())
            pieces.append(piece)
        if response.length:
            raise FetchError(f"{target.host} stopped {response.length} bytes before the end")
        if not count:
            raise FetchError(f"{target.host} sends nothing")
        media_type = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
        return Fetched(b"".join(pieces), media_type[:100] or None, target.url)

    def _too_long(self) -> str:
        return f"it has more than {self._max_bytes / 2**20:g} MiB"


@contextmanager
def _boundary(target: Target, clock: Clock) -> Iterator[None]:
    """Turn what sockets, TLS and HTTP raise into FetchError."""
    try:
        yield
    except (FetchError, UsageError):
        raise
    except TimeoutError as error:
        raise FetchError(f"{target.host} took longer than {clock.seconds:g} s to answer") from error
    except ssl.SSLCertVerificationError as error:
        raise FetchError(f"{target.host} has no valid certificate: {error.verify_message}") from error
    except http.client.HTTPException as error:
        raise FetchError(f"{target.host} does not speak HTTP: {type(error).__name__}") from error
    except Exception as error:
        raise FetchError(f"{target.host} cannot be read from: {type(error).__name__}: {error}") from error
