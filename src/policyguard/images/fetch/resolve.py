"""Names to addresses, within the deadline."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

from policyguard.errors import FetchError

from .addresses import Address
from .connection import Clock

__all__ = ["Resolver", "resolve", "system_resolver"]

Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""From a host's name and port to its addresses, written out. May raise OSError."""


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver knows."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def resolve(host: str, port: int, resolver: Resolver, clock: Clock) -> list[Address]:
    """The addresses of ``host``. The resolver runs in a thread of its own, for nothing can stop it midway.

    Raises FetchError.
    """
    answers: queue.SimpleQueue[Sequence[str] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(list(resolver(host, port)))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="policyguard-resolve").start()
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
