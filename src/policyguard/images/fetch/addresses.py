"""Which addresses on the network are public, and how an address may be written.

Covered: every special-purpose block of the IANA registries for IPv4 and IPv6, the metadata addresses of
clouds that lie outside them, and IPv6 addresses that carry an IPv4 one (mapped, compatible, 6to4, Teredo,
ISATAP, NAT64): none of these is public here, whatever it carries. Not covered: public addresses that a
network routes to itself.
"""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

__all__ = ["Address", "is_public", "literal"]

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
