"""Fetching over real TLS on loopback: what is taken, and every way in which a server is cut short."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from images.fetch_server import Server, Talk, client_context, drip, serve
from policyguard.errors import ConfigurationError
from policyguard.images.fetch import Fetched, Fetcher, FetchError
from policyguard.images.fetch.addresses import Address

LOOPBACK = ipaddress.ip_address("127.0.0.1")
BODY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40


def only_loopback(address: Address) -> bool:
    """Stands in for the public internet: all other addresses of this machine stay forbidden."""
    return address == LOOPBACK


def fetcher(server: Server, **options: Any) -> Fetcher:
    settings: dict[str, Any] = {
        "resolver": lambda *_: ["127.0.0.1"],
        "permitted": only_loopback,
        "ssl_context": client_context(),
        "ports": {server.port},
        "timeout": 100.0,
    }
    return Fetcher(**{**settings, **options})


def url(server: Server, path: str = "/a.png", host: str = "good.example") -> str:
    return f"https://{host}:{server.port}{path}"


def answer(body: bytes = BODY, *headers: str, status: str = "200 OK", length: int | None = None) -> Talk:
    length = len(body) if length is None else length
    head = [f"HTTP/1.1 {status}", "Content-Type: image/png", *headers]
    if length >= 0:
        head.append(f"Content-Length: {length}")
    sent = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1") + body
    return lambda sock, _: sock.sendall(sent)


def test_an_image_is_fetched_with_the_name_in_tls_and_host() -> None:
    with serve(answer()) as server:
        got = fetcher(server).fetch(url(server, "/ä b.png?q=1&r=ü#part".replace(" ", "")))
    assert got == Fetched(BODY, "image/png", url(server, "/%C3%A4b.png?q=1&r=%C3%BC"))
    assert server.names == ["good.example"]
    head = server.asked[0].split("\r\n")
    assert head[0] == "GET /%C3%A4b.png?q=1&r=%C3%BC HTTP/1.1"
    assert f"Host: good.example:{server.port}" in head
    assert "Accept-Encoding: identity" in head
    assert not [line for line in head if line.lower().startswith(("cookie", "authorization", "referer"))]


def test_an_image_is_fetched_without_blocking_the_event_loop() -> None:
    with serve(answer()) as server:
        assert asyncio.run(fetcher(server).afetch(url(server))).data == BODY


def test_a_chunked_body_is_put_together() -> None:
    chunked = (
        b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:1000], BODY[1000:])) + b"0\r\n\r\n"
    )
    with serve(answer(chunked, "Transfer-Encoding: chunked", length=-1)) as server:
        assert fetcher(server).fetch(url(server)).data == BODY


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serve(answer()) as server:
        assert fetcher(server).fetch(url(server)).data == BODY


def to(location: str) -> Talk:
    return answer(b"", f"Location: {location}", status="302 Found")


def test_redirects_are_followed_to_the_last_allowed() -> None:
    def talk(sock: ssl.SSLSocket, path: str) -> None:
        step = int(path[1:])
        (answer() if step == 3 else to(f"/{step + 1}"))(sock, path)

    with serve(talk) as server:
        assert fetcher(server).fetch(url(server, "/0")).final_url == url(server, "/3")
        with pytest.raises(FetchError, match="more than 2 times"):
            fetcher(server, max_redirects=2).fetch(url(server, "/0"))


def spied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that sockets are told to connect to."""
    tried: list[str] = []

    class Spy(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address[0])
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Spy)
    return tried


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.2:{port}/", "https://[::1]:{port}/", "https://private.example:{port}/",
        "http://good.example:{port}/", "https://good.example/", "https://user@good.example:{port}/",
        "https://2130706434:{port}/", "https://169.254.169.254/latest/meta-data/", "file:///etc/passwd",
        "//127.0.0.2:{port}/", "https:\\\\127.0.0.2/", "javascript:0", "https://0x7f.2:{port}/",
    ],
)  # fmt: skip
def test_a_redirect_to_what_may_not_be_fetched_leads_nowhere(
    location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolver(host: str, _: int) -> list[str]:
        return ["10.0.0.7"] if host == "private.example" else ["127.0.0.1"]

    tried = spied(monkeypatch)

    def talk(sock: ssl.SSLSocket, path: str) -> None:
        to(location.format(port=server.port))(sock, path)

    with serve(talk) as server, pytest.raises(FetchError):
        fetcher(server, resolver=resolver).fetch(url(server))
    assert tried == ["127.0.0.1"]
    assert len(server.asked) == 1


def test_a_name_that_changes_its_address_between_two_steps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is public when it is first asked for and private after the redirect to itself."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    tried = spied(monkeypatch)
    with serve(to("/again")) as server, pytest.raises(FetchError, match="not public"):
        fetcher(server, resolver=lambda *_: next(answers)).fetch(url(server))
    assert tried == ["127.0.0.1"]


def test_the_name_is_resolved_once_per_step(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolver(host: str, _: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    def forbidden(*args: object, **options: object) -> Any:
        raise AssertionError("the system's resolver was asked")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    with serve(answer()) as server:
        fetcher(server, resolver=resolver).fetch(url(server))
    assert asked == ["good.example"]


@pytest.mark.parametrize("host", ["wrong.example", "sub.good.example"])
def test_a_certificate_for_another_name_is_refused(host: str) -> None:
    with serve(answer()) as server, pytest.raises(FetchError, match="certificate"):
        fetcher(server).fetch(url(server, host=host))
    assert server.asked == []


def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    with serve(answer()) as server, pytest.raises(FetchError, match="certificate"):
        fetcher(server, ssl_context=None).fetch(url(server))
    assert server.asked == []


def test_a_context_that_does_not_verify_is_refused() -> None:
    lax = ssl.create_default_context()
    lax.check_hostname = False
    with pytest.raises(ConfigurationError):
        Fetcher(ssl_context=lax)


@pytest.mark.parametrize(
    "options", [{"max_bytes": 0}, {"timeout": 0}, {"timeout": -1}, {"max_redirects": -1}, {"ports": ()}]
)
def test_a_fetcher_without_bounds_cannot_be_made(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Fetcher(**options)


BOMB = gzip.compress(bytes(5_000_000))
REFUSED: dict[str, tuple[Talk, str]] = {
    "gzip bomb": (answer(BOMB, "Content-Encoding: gzip"), "compressed"),
    "brotli": (answer(BODY, "Content-Encoding: br"), "compressed"),
    "gzip as a transfer encoding": (answer(BOMB, "Transfer-Encoding: gzip, chunked", length=-1), "encoded"),
    "a length over the bound": (answer(b"x", length=2_000_000), "more than"),
    "a body over the bound": (answer(bytes(1_100_000), length=-1), "more"),
    "a shorter body than announced": (answer(BODY, length=len(BODY) + 5), "before the end"),
    "an empty body": (answer(b""), "nothing"),
    "a broken chunk": (answer(b"zz\r\n", "Transfer-Encoding: chunked", length=-1), "HTTP"),
    "a chunked body that stops": (answer(b"ff\r\nabc", "Transfer-Encoding: chunked", length=-1), "HTTP"),
    "not found": (answer(status="404 Not Found"), "404"),
    "no content": (answer(b"", status="204 No Content"), "204"),
    "part of it": (answer(status="206 Partial Content"), "206"),
    "a server error": (answer(status="503 Busy"), "503"),
    "a redirect to nowhere": (answer(b"", status="301 Moved"), "nowhere"),
    "no HTTP": (lambda sock, _: sock.sendall(b"SSH-2.0-x\r\n"), "HTTP"),
    "silence and a close": (lambda *_: None, "HTTP"),
    "endless headers": (lambda sock, _: sock.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9000), "HTTP"),
    "one endless header": (lambda sock, _: sock.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 900_000), "HTTP"),
}


@pytest.mark.parametrize(("talk", "message"), REFUSED.values(), ids=list(REFUSED))
def test_an_answer_that_is_not_one_plain_image_is_refused(talk: Talk, message: str) -> None:
    with serve(talk) as server, pytest.raises(FetchError, match=message):
        fetcher(server, max_bytes=1_000_000).fetch(url(server))


def test_a_longer_body_than_announced_is_cut_where_it_was_to_end() -> None:
    with serve(answer(BODY + b"more", length=len(BODY))) as server:
        assert fetcher(server).fetch(url(server)).data == BODY


def test_a_body_that_ends_with_the_connection_is_read_to_its_end() -> None:
    body = BODY * 30
    for talk in (answer(body, length=-1), answer(body, "Connection: close")):
        with serve(talk) as server:
            assert fetcher(server).fetch(url(server)).data == body


def test_a_body_just_at_the_bound_is_taken() -> None:
    with serve(answer(bytes(5000))) as server:
        assert len(fetcher(server, max_bytes=5000).fetch(url(server)).data) == 5000
        with pytest.raises(FetchError):
            fetcher(server, max_bytes=4999).fetch(url(server))


def test_no_more_than_the_bound_is_read_of_an_endless_body() -> None:
    sent = 0

    def talk(sock: ssl.SSLSocket, _: str) -> None:
        nonlocal sent
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while sent < 200_000_000:
            sock.sendall(bytes(65536))
            sent += 65536

    with serve(talk) as server, pytest.raises(FetchError, match="more"):
        fetcher(server, max_bytes=100_000).fetch(url(server))
    assert sent < 50_000_000  # what the buffers of two sockets take, and not the whole


SLOW: dict[str, Talk] = {
    "no answer": drip(b""),
    "headers byte by byte": drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"y"),
    "a body byte by byte": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"y"),
    "chunks byte by byte": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "interim answers without end": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
}
"""None of them ends by itself: whoever stops waiting for it does so at a deadline of his own."""


@pytest.mark.parametrize("talk", SLOW.values(), ids=list(SLOW))
def test_a_slow_server_is_left_at_the_deadline(talk: Talk) -> None:
    with serve(talk) as server, pytest.raises(FetchError, match="took longer"):
        fetcher(server, timeout=1.0).fetch(url(server))


def test_redirects_share_one_deadline() -> None:
    def talk(sock: ssl.SSLSocket, _: str) -> None:
        time.sleep(0.7)
        to("/again")(sock, "")

    with serve(talk) as server, pytest.raises(FetchError, match="took longer"):
        fetcher(server, timeout=1.5, max_redirects=50).fetch(url(server))
    assert len(server.asked) <= 4


def test_a_resolver_that_hangs_is_left_at_the_deadline() -> None:
    answer_now = threading.Event()

    def hang(*_: object) -> list[str]:
        answer_now.wait()
        return ["127.0.0.1"]

    with pytest.raises(FetchError, match=r"longer than 0\.5 s"):
        Fetcher(resolver=hang, timeout=0.5).fetch("https://good.example/")
    answer_now.set()


def test_a_port_that_accepts_and_never_speaks_tls_is_left_at_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_port = silent.getsockname()[1]
        with pytest.raises(FetchError, match="took longer"):
            Fetcher(
                resolver=lambda *_: ["127.0.0.1"], permitted=only_loopback, ports={silent_port}, timeout=1.0
            ).fetch(f"https://good.example:{silent_port}/")


@pytest.mark.parametrize(
    "error", [OSError("no route"), UnicodeError("label"), ValueError("x"), socket.gaierror(8, "?")]
)
def test_whatever_the_resolver_raises_is_a_fetch_error(error: Exception) -> None:
    def broken(*_: object) -> list[str]:
        raise error

    with pytest.raises(FetchError):
        Fetcher(resolver=broken).fetch("https://good.example/")


def test_the_next_address_is_tried_when_one_is_dead() -> None:
    with serve(answer()) as server:
        allowed: Callable[[Address], bool] = lambda address: address.is_loopback  # noqa: E731
        both = fetcher(server, resolver=lambda *_: ["127.0.0.9", "127.0.0.1"], permitted=allowed)
        assert both.fetch(url(server)).data == BODY
