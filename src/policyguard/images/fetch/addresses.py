"""Takes a URL apart by one strict reader, so that what is checked is what is requested.

Covered: every special-purpose block of the IANA registries for IPv4 and IPv6, the metadata addresses of
clouds that lie outside them, and IPv6 addresses that carry an IPv4 one (mapped, compatible, 6to4, Teredo,
ISATAP, NAT64): none of these is public here, whatever it carries. Not covered: public addresses that a
network routes to itself.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote, urlsplit

from policyguard.errors import FetchError

__all__ = [
    "Address",
    "Target",
    "is_public",
    "literal",
    "parse",
]


Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_NOT_PUBLIC_V4 = tuple(
    ipaddress.IPv4Network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, among them the metadata of the machine
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    ipaddress.IPv6Network(block)
    for block in (
        "2001::/23",  # Teredo, ORCHID, benchmarks and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
_LONGEST = 8192
_QUOTED = 200
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_KEPT = "!$%&'()*+,-./:;=?@_~[]|{}^`\"<>"
_ISATAP = (0x00005EFE, 0x02005EFE)


def is_public(address: Address) -> bool:
    """Whether anyone on the internet may be reached under ``address``, and nobody else."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not any(address in block for block in _NOT_PUBLIC_V4)
    if address.scope_id is not None or address not in _PUBLIC_V6 or not address.is_global:
        return False
    isatap = (int(address) >> 32) & 0xFFFFFFFF in _ISATAP
    return not isatap and not any(address in block for block in _NOT_PUBLIC_V6)


def literal(host: str) -> Address | None:
    """The address that ``host`` writes out, or None for a name.

    Raises ValueError for what some programs read as an address and others as a name: 127.1, 0x7f000001,
    2130706433, 0177.0.0.1, a scope.
    """
    if ":" in host:
        if "%" in host:
            raise ValueError("an address with a scope")
        return ipaddress.IPv6Address(host)
    last = host.rpartition(".")[2]
    if last.isdecimal() or last.startswith("0x"):
        return ipaddress.IPv4Address(host)
    return None


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
        raise FetchError("the address is not text, or too long")
    quoted = ascii(url[:_QUOTED])
    if _UNSAFE.search(url):
        raise FetchError(f"the address {quoted} has spaces, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        port = 443 if parts.port is None else parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise FetchError(f"the address {quoted} is not a URL: {error}") from error
    if parts.scheme != "https":
        raise FetchError(f"the address {quoted} does not begin with https://")
    if "[" in parts.netloc and ":" not in host:
        raise FetchError(f"the host of {quoted} is not a plain address")
    if "@" in parts.netloc:
        raise FetchError(f"the address of {ascii(host)[:_QUOTED]} contains credentials")
    if port not in ports:
        raise FetchError(f"the address {quoted} names port {port}, which is not allowed")
    name = _ascii(host, quoted)
    try:
        address = literal(name)
    except ValueError as error:
        raise FetchError(f"the host of {quoted} is not a plain address: {error}") from error
    if address is None:
        _check_name(name, quoted)
    path = quote(parts.path or "/", safe=_KEPT)
    query = f"?{quote(parts.query, safe=_KEPT)}" if parts.query else ""
    return Target(name, port, path + query, address)


def _ascii(host: str, quoted: str) -> str:
    """The host in lower-case ASCII, by IDNA: wide digits and dots become plain ones."""
    if host.isascii():
        return host.lower()
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise FetchError(f"the host of {quoted} is not a name that IDNA allows") from error


def _check_name(name: str, quoted: str) -> None:
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise FetchError(f"the host of {quoted} is not a name")
    if len(labels) < 2 or labels[-1] in ("localhost", "local", "internal", "onion", "arpa"):
        raise FetchError(f"the host of {quoted} is not a public name")
