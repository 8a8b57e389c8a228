# ruff: noqa: E501, SIM905 (tables: one trick after another)
"""No way of writing down an address leads to one that is not public: no connection is even tried."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from policyguard.images.fetch import Fetcher, FetchError
from policyguard.images.fetch.addresses import is_public

LITERALS = """
127.0.0.1 127.0.0.2 127.255.255.254 127.1 127.0.1 0 0.0.0.0 0.1.2.3 2130706433 0x7f000001 0x7F.0.0.1 0x7f.1
017700000001 0177.0.0.1 0177.0.1 127.0.0.01 00127.0.0.1 0x7f.0x0.0x0.0x1 1.2.3 3232235777 0xc0a80101 0300.0250.1.1
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.254 192.168.0.1 192.168.255.255 100.64.0.1 100.100.100.200
100.127.255.254 169.254.0.1 169.254.169.254 169.254.170.2 0xa9fea9fe 2852039166 0251.0376.0251.0376 168.63.129.16
192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.9 224.0.0.1
239.255.255.250 240.0.0.1 255.255.255.255 256.256.256.256 1.2.3.4.5 127.0.0.1. 127.0.0.1%00 127.0.0.1%2f
[::1] [::] [0:0:0:0:0:0:0:1] [::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:169.254.169.254]
[::ffff:10.0.0.1] [::ffff:0:127.0.0.1] [::ffff:8.8.8.8] [64:ff9b::127.0.0.1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::10.0.0.1]
[64:ff9b::8.8.8.8] [2002:7f00:1::] [2002:a9fe:a9fe::1] [2002:a00:1::] [2002:c0a8:101::] [2001:0:4136:e378::1]
[2001::1] [2001:0:7f00:1::] [2001:db8::1] [3fff::1] [2606:4700::5efe:7f00:1] [2606:4700::200:5efe:10.0.0.1]
[fe80::1] [fe80::1%25eth0] [fe80::1%eth0] [fec0::1] [fc00::1] [fd00::1] [fd00:ec2::254] [fd20:ce::254] [ff02::1]
[ff0e::1] [100::1] [5f00::1] [2001:2::1] [2001:10::1] [2001:20::1] [4000::1] [::1 127.0.0.1]
""".split()

NAMES = """
localhost LOCALHOST localhost. localhost.localdomain foo.localhost printer.local metadata metadata.google.internal
instance-data intranet db.internal 127.0.0.1.nip.example ①②⑦.⓪.⓪.① １２７.０.０.１ 127。0。0。1 169。254。169。254 ⑯⑨.254.169.254
lоcalhost.example.. -a.example a..example .example example. a_b*.example
""".split()

URLS = [
    "http://good.example/x.png",
    "HTTP://good.example/x.png",
    "//good.example/x.png",
    "good.example/x.png",
    "ftp://good.example/x.png",
    "file:///etc/passwd",
    "gopher://good.example/",
    "data:image/png;base64,AAAA",
    "https://good.example:80/",
    "https://good.example:8443/",
    "https://good.example:22/",
    "https://good.example:99999/",
    "https://good.example:x/",
    "https://user@good.example/",
    "https://user:secret@good.example/",
    "https://good.example@127.0.0.1/",
    "https://@good.example/",
    "https://good.example\\@127.0.0.1/",
    "https://127.0.0.1\\.good.example/",
    "https://good.example /",
    "https://good.example\r\nHost: x/",
    "https://good.example/\r\nX: y",
    "https://good.example\t/",
    "https://good.example\0/",
    " https://good.example/",
    "https://",
    "https:///x.png",
    "https://[::1/",
    "https://[v1.x]/",
    "https://]/",
    "https://good%2eexample/",
    "https://good.example%00.evil.example/",
    "https://a" + "b" * 70 + ".example/",
    "https://good.example/" + "x" * 9000,
]


class Tried(Exception):  # noqa: N818
    """A connection was tried."""


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that a socket is told to connect to; none is reached."""
    tried: list[Any] = []

    class Spy(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address)
            raise ConnectionRefusedError

        def connect_ex(self, address: Any) -> int:
            tried.append(address)
            return 111

    monkeypatch.setattr(socket, "socket", Spy)
    return tried


def private(host: str, port: int) -> list[str]:
    """A resolver whose every name leads home."""
    return ["127.0.0.1"]


@pytest.mark.parametrize("host", LITERALS + NAMES)
def test_a_host_that_is_not_public_is_not_connected_to(host: str, connections: list[Any]) -> None:
    with pytest.raises(FetchError):
        Fetcher(resolver=private).fetch(f"https://{host}/x.png")
    assert connections == []


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_is_not_plain_https_is_not_resolved(url: str, connections: list[Any]) -> None:
    asked: list[str] = []
    with pytest.raises(FetchError):
        Fetcher(resolver=lambda host, _: asked.append(host) or ["93.184.215.14"]).fetch(url)  # type: ignore[func-returns-value]
    assert (asked, connections) == ([], [])


def test_there_are_more_than_a_hundred_tricks() -> None:
    assert len(LITERALS + NAMES) >= 100


@pytest.mark.parametrize("hidden", ["127.0.0.1", "::1", "fe80::1%eth0", "169.254.169.254", "::ffff:10.0.0.1"])
def test_one_address_that_is_not_public_among_public_ones_is_enough(
    hidden: str, connections: list[Any]
) -> None:
    for addresses in (["93.184.215.14", hidden], [hidden, "93.184.215.14"]):
        with pytest.raises(FetchError, match="not public"):
            Fetcher(resolver=lambda *_, found=addresses: found).fetch("https://good.example/")
    assert connections == []


@pytest.mark.parametrize("answer", [[], ["nonsense"], [""], ["127.1"], ["0x7f.1"], ["1.2.3.4/8"]])
def test_an_answer_of_the_resolver_that_is_no_address_is_refused(
    answer: list[str], connections: list[Any]
) -> None:
    with pytest.raises(FetchError):
        Fetcher(resolver=lambda *_: answer).fetch("https://good.example/")
    assert connections == []


def test_the_checked_addresses_are_the_ones_connected_to(connections: list[Any]) -> None:
    answers = iter([["93.184.215.14", "93.184.215.15"], ["127.0.0.1"]])
    with pytest.raises(FetchError):
        Fetcher(resolver=lambda *_: next(answers)).fetch("https://rebinding.example/")
    assert connections == [("93.184.215.14", 443), ("93.184.215.15", 443)]


@pytest.mark.parametrize("url", ["https://93.184.215.14/x", "https://[2606:4700::6810:84e5]/x"])
def test_a_public_address_is_connected_to(url: str, connections: list[Any]) -> None:
    with pytest.raises(FetchError):
        Fetcher().fetch(url)
    assert [address[1] for address in connections] == [443]


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "2606:4700::6810:84e5", "2a00:1450:4001::200e"]
)
def test_ordinary_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
