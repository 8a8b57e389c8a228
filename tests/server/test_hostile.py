"""Requests that nobody sends by mistake, over plain sockets: all are refused, none passes or hangs."""

from __future__ import annotations

import base64
import json
import re
import socket
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from integrations.http.pictures import GREEN, data_uri, picture
from policyguard.server.door import PatientProtocol
from server.support import TURNED, Service, serving
from support.waiting import wait_until

IMAGE = picture(GREEN)
JSON = json.dumps({"image": data_uri(IMAGE), "policy": "colours"}).encode()


def request(
    *headers: str,
    body: bytes = JSON,
    target: str = "/v1/check",
    method: str = "POST",
    host: str | None = "Host: localhost",
    length: str | None = "",
    kind: str = "Content-Type: application/json",
    version: str = "HTTP/1.1",
) -> bytes:
    """A request as it goes over the wire; each part can be what it must not be."""
    lines = [f"{method} {target} {version}", *([host] if host else []), *([kind] if kind else []), *headers]
    lines += [] if "Connection: keep-alive" in headers else ["Connection: close"]
    if length is not None:
        lines.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def form(*parts: tuple[str, bytes], boundary: str = "xx") -> bytes:
    pieces = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
        for name, value in parts
    ]
    return b"".join(pieces) + f"--{boundary}--\r\n".encode()


def png_bomb() -> bytes:
    """A small file that says it is 40,000 pixels square, and holds a great many zeros."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    size = (40_000).to_bytes(4, "big")
    header = size + size + bytes([8, 2, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**7)))
        + chunk(b"IEND", b"")
    )


FORM = "Content-Type: multipart/form-data; boundary=xx"
WITH_TE = "Transfer-Encoding: chunked"
HOSTILE: dict[str, bytes] = {
    # Lying lengths, and two readers who would see two requests.
    "a length and chunks": request(WITH_TE, body=chunked(JSON)),
    "two lengths": request("Content-Length: 5"),
    "a length of two numbers": request(length="5, 6"),
    "a negative length": request(length="-1"),
    "a length with a sign": request(length="+5"),
    "a length in hex": request(length="0x10"),
    "a length beyond all bounds": request(length="9" * 30),
    "a length above the limit": request(length=str(2**40)),
    "a length that is longer than the body": request(length=str(len(JSON) + 50)),
    "chunks whose size is no number": request(WITH_TE, length=None, body=b"zz\r\nabc\r\n0\r\n\r\n"),
    "chunks whose size is negative": request(WITH_TE, length=None, body=b"-5\r\nabc\r\n0\r\n\r\n"),
    "chunks that never end": request(WITH_TE, length=None, body=b"5\r\nabcde\r\n"),
    "a coding that is none": request("Transfer-Encoding: xchunked", length=None, body=chunked(JSON)),
    "two codings": request("Transfer-Encoding: chunked, identity", length=None, body=chunked(JSON)),
    "a coding twice": request(WITH_TE, WITH_TE, length=None, body=chunked(JSON)),
    "a body that is compressed": request("Content-Encoding: gzip", body=zlib.compress(JSON)),
    # Headers.
    "a space before the colon": request("Content-Length : 5", length=None),
    "a header that goes on": request("X-A: b\r\n c: d\r\nX-B:\x00"),
    "a header without a name": request(": x"),
    "a null in a header": request("X-A: \x00"),
    "a second host": request("Host: attacker.example"),
    "no host": request(host=None),
    "another's host": request(host="Host: attacker.example"),
    "headers of a megabyte": request("X-A: " + "a" * 2**20),
    "thousands of headers": request(*(f"X-{n}: {n}" for n in range(5000))),
    # What is no HTTP.
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(190) + b"\r\n\r\n",
    "HTTP/0.9": b"GET /v1/policies\r\n\r\n",
    "another version": request(version="HTTP/3.7"),
    "a tunnel": request(method="CONNECT", target="attacker.example:443"),
    "an echo": request(method="TRACE"),
    # Path tricks.
    "up and out": request(target="/v1/check?policy=../../../etc/passwd"),
    "up and out, escaped": request(target="/v1/check?policy=%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    "a file of the folder by its path": request(target="/v1/check?policy=./colours.yaml"),
    "a name with a null": request(target="/v1/check?policy=colours%00"),
    "a home folder": request(target="/v1/check?policy=~root/colours"),
    "an address as a policy": request(target="/v1/check?policy=file:///etc/passwd"),
    "a name of a megabyte": request(body=json.dumps({"image": "aaaa", "policy": "a" * 2**20}).encode()),
    "a thousand policies": request(
        body=json.dumps({"image": "aaaa", "policy": [f"p{n}" for n in range(1000)]}).encode()
    ),
    "a reload that climbs": request(target="/v1/policies/..%2f..%2fetc%2fpasswd/reload", body=b""),
    "a reload with a null": request(target="/v1/policies/colours%00/reload", body=b""),
    "another server's address": request(
        target="http://attacker.example/v1/check", host="Host: attacker.example"
    ),
    # Keys in addresses.
    "a key in the query": request(target="/v1/check?policy=colours&api_key=secret"),
    "a key in the path": request(target="/v1/policies/pgk_abcdef/reload", body=b""),
    # Bodies.
    "a bomb": request(kind=FORM, body=form(("policy", b"colours"), ("image", png_bomb()))),
    "JSON that is nested deep": request(body=b"[" * 200_000),
    "a number without end": request(body=b'{"image": ' + b"9" * 200_000 + b"}"),
    "ten thousand parts": request(kind=FORM, body=form(*[("policy", b"colours")] * 10_000)),
    "two images": request(kind=FORM, body=form(("image", IMAGE), ("image", IMAGE), ("policy", b"colours"))),
    "two boundaries": request(kind=FORM + "; boundary=yy", body=form(("image", IMAGE))),
    "parts without an end": request(kind=FORM, body=form(("image", IMAGE))[:-6]),
    "text before the parts": request(kind=FORM, body=b"hello\r\n" + form(("image", IMAGE))),
    "an image from elsewhere": request(
        body=b'{"image": "http://169.254.169.254/latest/", "policy": "colours"}'
    ),
    "a file of this machine": request(body=b'{"image": "file:///etc/passwd", "policy": "colours"}'),
    "a data URI of a file": request(body=b'{"image": "data:/etc/passwd", "policy": "colours"}'),
    "a picture in SVG": request(
        body=json.dumps(
            {
                "image": "data:image/svg+xml;base64,"
                + base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(),
                "policy": "colours",
            }
        ).encode()
    ),
}
"""Over 40 of them."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PatientProtocol, "header_seconds", 0.5)
        with serving(tmp_path_factory.mktemp("policies"), body_seconds=0.5) as running:
            yield running


def sent(service: Service, data: bytes) -> bytes:
    """All that comes back, until the service ends the connection: it always does."""
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        with suppress(OSError):  # it may have hung up already
            connection.sendall(data)
        received = bytearray()
        with suppress(ConnectionResetError):
            while data := connection.recv(2**16):
                received += data
        return bytes(received)


def refused(answer: bytes) -> bool:
    """Nothing but a refusal, or a verdict that does not allow."""
    codes = [int(code) for code in re.findall(rb"HTTP/1.1 (\d\d\d) ", answer)]
    return b'"allowed":true' not in answer and all(
        400 <= code < 500 or (code == 200 and b'"allowed":false' in answer) for code in codes
    )


def test_there_are_more_than_forty() -> None:
    assert len(HOSTILE) > 40


@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_refused(service: Service, case: str) -> None:
    before = service.backend.calls
    answer = sent(service, HOSTILE[case])
    assert refused(answer), answer[:500]
    wait_until(lambda: service.state.room.held == 0)
    assert before == service.backend.calls
    assert b"root:" not in answer


def test_after_all_of_them_the_service_is_as_before(service: Service) -> None:
    for data in HOSTILE.values():
        sent(service, data)
    assert service.check(IMAGE).json()["allowed"]
    room = service.state.room
    wait_until(lambda: room.held == room.waiting == room.judging == 0)


def test_a_plain_request_is_none_of_them(tmp_path: Path) -> None:
    """What the tests above rest on."""
    with serving(tmp_path) as service:
        assert b'"allowed":true' in sent(service, request())


def test_a_second_request_within_the_first_is_not_answered(service: Service) -> None:
    inner = request(target="/v1/policies", method="GET", body=b"", kind="")
    answer = sent(service, request(body=inner))
    assert 1 == answer.count(b"HTTP/1.1 ")
    assert refused(answer)


def test_two_requests_on_one_connection_get_two_answers_in_order(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        answer = sent(service, request("Connection: keep-alive") + request(target="/v1/check?policy=none"))
    assert [b"200", b"404"] == re.findall(rb"HTTP/1.1 (\d\d\d) ", answer)


def test_headers_that_do_not_end_end_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "header_seconds", 0.2)
    with serving(tmp_path) as service:
        for begun in (b"", b"POST /v1/check HTTP/1.1\r\nHost: loc"):
            assert b"" == sent(service, begun)
        assert service.check(IMAGE).json()["allowed"]


@pytest.mark.parametrize("begun", [b"", b"{", JSON[:-1]])
def test_a_body_that_does_not_end_is_408(tmp_path: Path, begun: bytes) -> None:
    with serving(tmp_path, body_seconds=0.2) as service:
        answer = sent(service, request(length=str(len(JSON)), body=begun))
        assert b"HTTP/1.1 408" in answer
        wait_until(lambda: service.state.room.held == 0)
        assert 0 == service.backend.calls


def test_a_client_that_hangs_up_leaves_nothing_behind(service: Service) -> None:
    before = service.backend.calls
    for part in (JSON[:10], JSON):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(request(length=str(len(JSON)), body=part))
    wait_until(lambda: service.state.room.held == service.state.room.judging == 0)
    assert service.backend.calls <= before + 1
    assert service.check(IMAGE).json()["allowed"]


def test_leave_to_send_too_much_is_not_given(tmp_path: Path) -> None:
    with serving(tmp_path, body_limit=1) as service:
        head = request("Expect: 100-continue", length=str(2**21), body=b"")
        answer = sent(service, head)
        assert b"HTTP/1.1 413" in answer
        assert b"100 Continue" not in answer


def test_more_bodies_than_there_is_memory_for_are_told_to_come_back(tmp_path: Path) -> None:
    with serving(tmp_path, body_limit=1, memory=1) as service:
        large = request(length=str(2**20), body=bytes(2**20 - 1))
        with socket.create_connection(("127.0.0.1", service.port)) as first:
            first.sendall(large)
            wait_until(lambda: service.state.room.held == 2**20 - 1)
            answer = sent(service, request())
            assert b"HTTP/1.1 429" in answer
            assert b"retry-after: " in answer.lower()
        wait_until(lambda: service.state.room.held == 0)
        assert service.check(IMAGE).json()["allowed"]


def test_announcing_large_bodies_keeps_nobody_out(tmp_path: Path) -> None:
    with serving(tmp_path, body_limit=1, memory=1) as service, ExitStack() as held:
        for _ in range(20):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.sendall(request(length=str(2**20), body=b"{"))
        wait_until(lambda: service.state.room.held == 20)
        assert service.check(IMAGE).json()["allowed"]


def test_broken_characters_break_no_answer(service: Service) -> None:
    turned = {"type": "image_url", "image_url": {"url": TURNED}}
    message = {"role": "user", "content": [turned, {"type": "text", "text": "\ud800"}]}
    body = json.dumps({"input_type": "request", "structured_messages": [message]}).encode()
    answer = sent(service, request(target="/beta/litellm_basic_guardrail_api", body=body))
    assert b"200 OK" in answer
    assert b"\\ud800" in answer


def test_a_bug_is_500_with_our_body_and_in_the_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path) as service:
        service.state.room.turn = None  # type: ignore[method-assign, assignment]
        answer = service.check(IMAGE)
    assert (500, False, "bug") == (
        answer.status_code,
        answer.json()["allowed"],
        answer.json()["error"]["code"],
    )
    assert "Traceback" in caplog.text
    assert "Traceback" not in answer.text


def test_a_body_that_goes_on_after_the_answer_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientProtocol, "header_seconds", 0.2)
    with serving(tmp_path) as service, socket.create_connection(("127.0.0.1", service.port)) as connection:
        refusable = ("Connection: keep-alive", "Sec-Fetch-Site: cross-site")
        connection.sendall(request(WITH_TE, *refusable, length=None, body=b""))
        assert b"403" in connection.recv(2**16)
        with pytest.raises(OSError, match=r".+"):  # noqa: PT012
            while True:
                connection.sendall(b"1\r\na\r\n")
        assert service.check(IMAGE).json()["allowed"]
