"""A URL taken apart by one strict reader, so that what is checked is what is asked for."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from policyguard.errors import FetchError

from .addresses import Address, literal

__all__ = ["Target", "parse"]

_LONGEST = 8192
_SHOWN = 200
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_KEPT = "!$%&'()*+,-./:;=?@_~[]|{}^`\"<>"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads. ``host`` is lower-case ASCII; ``address`` is set where the host is an address."""

    host: str
    port: int
    path: str
    address: Address | None

    @property
    def authority(self) -> str:
        """What the header ``Host`` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"https://{self.authority}{self.path}"


def parse(url: str, ports: Collection[int]) -> Target:
    """Take ``url`` apart. Raises FetchError for everything but a plain https URL on one of ``ports``."""
    if not isinstance(url, str) or len(url) > _LONGEST:
        raise FetchError("the address is no text, or too long")
    shown = ascii(url[:_SHOWN])
    if _UNSAFE.search(url):
        raise FetchError(f"the address {shown} has spaces, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        port = 443 if parts.port is None else parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise FetchError(f"the address {shown} is not a URL: {error}") from error
    if parts.scheme != "https":
        raise FetchError(f"the address {shown} does not begin with https://")
    if "[" in parts.netloc and ":" not in host:
        raise FetchError(f"the host of {shown} is no plain address")
    if "@" in parts.netloc:
        raise FetchError(f"the address of {ascii(host)[:_SHOWN]} holds credentials")
    if port not in ports:
        raise FetchError(f"the address {shown} names port {port}")
    name = _ascii(host, shown)
    try:
        address = literal(name)
    except ValueError as error:
        raise FetchError(f"the host of {shown} is no plain address: {error}") from error
    if address is None:
        _check_name(name, shown)
    path = quote(parts.path or "/", safe=_KEPT)
    query = f"?{quote(parts.query, safe=_KEPT)}" if parts.query else ""
    return Target(name, port, path + query, address)


def _ascii(host: str, shown: str) -> str:
    """The host in lower-case ASCII, by IDNA: wide digits and dots become plain ones."""
    if host.isascii():
        return host.lower()
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise FetchError(f"the host of {shown} is not a name that IDNA allows") from error


def _check_name(name: str, shown: str) -> None:
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise FetchError(f"the host of {shown} is not a name")
    if len(labels) < 2 or labels[-1] in ("localhost", "local", "internal", "onion", "arpa"):
        raise FetchError(f"the host of {shown} is not a public name")
