"""A TLS connection to one checked address, every step of which ends at one deadline.

``http.client`` speaks HTTP over it. It takes the socket as given, so nothing resolves the name a second time
and no proxy comes in between.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from policyguard.errors import FetchError

from .addresses import Address
from .url import Target

__all__ = ["Clock", "connect"]

_OVERHEAD = 64 * 1024
_TRIED = 4


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
    connection is made. OSError and ssl.SSLError are the caller's to name.
    """
    fault: OSError | None = None
    for address in addresses[:_TRIED]:
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
            fault = error
            continue
        except BaseException:
            sock.close()
            raise
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = cast("Any", _Wire(secure, clock, max_bytes + _OVERHEAD))
        return connection, secure
    raise fault or FetchError(f"{target.host} has no address")
