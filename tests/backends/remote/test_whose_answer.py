"""No image gets the answer to another one, whatever a proxy does with a connection that is kept."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from PIL import Image

from backends.remote.server import ToyServer, shows_image
from backends.remote.support import backend, picture, policy
from policyguard import Guard, Outcome
from policyguard.backends.remote.client import JsonClient
from policyguard.backends.remote.connections import Stream
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError

IDS: dict[str, Callable[[Any], str | None]] = {
    "the request's": lambda handler: f"chatcmpl-{handler.headers['X-Request-Id']}",
    "its own": lambda handler: f"chatcmpl-{secrets.token_hex(12)}",
    "short": lambda handler: "chatcmpl-1",
    "none": lambda handler: None,
}
TIED = ["the request's", "its own"]


def bodies_of(handler: Any, answer: Any, ids: str) -> bytes:
    return json.dumps(answer | {"id": IDS[ids](handler)}).encode()


def by_length(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def in_chunks(body: bytes) -> bytes:
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks


def after_a_hint(body: bytes) -> bytes:
    return b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + by_length(body)


def install(server: ToyServer, ids: str, fault: Callable[[Any, Any], None]) -> None:
    """Let ``fault`` answer about images; all other answers are plain ones, with an id of the same kind."""

    def send(handler: Any, answer: Any) -> None:
        if shows_image(handler.path, handler.body):
            fault(handler, answer)
        else:
            handler.wfile.write(by_length(bodies_of(handler, answer, ids)))

    server.fault, server.fault_at = send, lambda path, body: path.endswith("completions")


FRAMINGS = [by_length, in_chunks, after_a_hint]


def check(server: ToyServer, count: int = 6) -> list[Outcome]:
    """Of images of which every second one is unsafe."""
    for shade in range(1, count, 2):
        server.show(picture(shade), unsafe=0.97)
    with Guard(policy(), backend=backend(server, concurrency=1)) as guard:
        return [guard.check(picture(shade)).outcome for shade in range(count)]


RIGHT = [Outcome.COMPLIES, Outcome.VIOLATES] * 3


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_that_is_sent_twice_in_one_piece_is_read_once(
    server: ToyServer, framing: Callable[[bytes], bytes], ids: str
) -> None:
    install(
        server, ids, lambda handler, answer: handler.wfile.write(framing(bodies_of(handler, answer, ids)) * 2)
    )
    assert check(server) == RIGHT


@pytest.mark.parametrize("ids", IDS)
def test_an_answer_that_is_sent_again_a_moment_later_is_read_once(server: ToyServer, ids: str) -> None:
    def twice(handler: Any, answer: Any) -> None:
        message = by_length(bodies_of(handler, answer, ids))
        handler.wfile.write(message)
        handler.wfile.flush()
        handler.wfile.write(message)

    install(server, ids, twice)
    # Where the second one comes while the next request is being sent, that one has no answer.
    assert all(outcome in (right, Outcome.ERROR) for outcome, right in zip(check(server), RIGHT, strict=True))


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("junk", [b"\r\n", b" ", b"\0", b"HTTP/1.1 200 OK\r\n", b'{"choices": []}'])
def test_nothing_behind_an_answer_is_the_beginning_of_the_next(
    server: ToyServer, junk: bytes, ids: str
) -> None:
    def send(handler: Any, answer: Any) -> None:
        handler.wfile.write(by_length(bodies_of(handler, answer, ids)) + junk)

    install(server, ids, send)
    assert check(server) == RIGHT


@pytest.mark.parametrize("ids", TIED)
def test_answers_that_are_one_request_late_are_errors(server: ToyServer, ids: str) -> None:
    """Of a proxy that gives every request the answer to the one before it, and the first one its own."""
    late: list[bytes] = []

    def one_late(handler: Any, answer: Any) -> None:
        late.append(by_length(bodies_of(handler, answer, ids)))
        handler.wfile.write(late[max(0, len(late) - 2)])

    install(server, ids, one_late)
    found = check(server)
    assert found[0] is Outcome.COMPLIES
    assert set(found[1:]) == {Outcome.ERROR}


@pytest.mark.parametrize("ids", TIED)
def test_after_the_answer_to_another_request_only_tied_answers_are_read(server: ToyServer, ids: str) -> None:
    first: list[bytes] = []

    def again(handler: Any, answer: Any) -> None:
        message = by_length(bodies_of(handler, answer, ids))
        first.append(message)
        handler.wfile.write(first[0] if len(first) == 2 else message)

    install(server, ids, again)
    lost = [Outcome.COMPLIES] + [Outcome.ERROR] * 5
    assert check(server) == (RIGHT if ids == "the request's" else lost)


def test_a_cache_may_answer_an_equal_request_alike(server: ToyServer) -> None:
    kept: dict[str, Any] = {}

    def cached(handler: Any, answer: Any) -> None:
        request = json.dumps(server.bodies()[-1])
        answer = deepcopy(answer) | {"id": f"chatcmpl-{secrets.token_hex(12)}"}
        handler.send_json(200, kept.setdefault(request, answer))

    server.fault = cached
    assert check(server) == RIGHT
    with Guard(policy(), backend=backend(server)) as guard:
        assert [guard.check(picture(0)).outcome for _ in range(3)] == [Outcome.COMPLIES] * 3


def test_an_answer_that_begins_before_its_request_was_sent_is_an_error(server: ToyServer) -> None:
    """Of a server that answers without having seen the image."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        async def call() -> None:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
            client = JsonClient(Endpoint.parse(url), timeout=5.0, connections=1)
            try:
                await client.call("POST", "/chat/completions", b"{}", within=5.0)
            finally:
                await client.close()

        def answer_at_once() -> None:
            connection, _ = listening.accept()
            connection.sendall(by_length(b'{"choices": []}'))
            answered.set()
            connection.recv(1 << 16)
            done.wait()
            connection.close()

        answered, done = threading.Event(), threading.Event()
        threading.Thread(target=answer_at_once, daemon=True).start()
        original = Stream.write

        async def write(stream: Any, buffer: bytes, **options: Any) -> None:
            await asyncio.to_thread(answered.wait, 5)
            await original(stream, buffer, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Stream, "write", write)
            with pytest.raises(CallError, match="before its request was sent"):
                asyncio.run(call())
        done.set()


def test_a_server_that_answers_before_it_has_read_the_image_does_not_comply(server: ToyServer) -> None:
    """It has read the head of a request that no socket's buffer holds, and takes the rest afterwards."""
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # or it grows as it is read
    ready: list[bytes] = []

    def keep(handler: Any, answer: Any) -> None:
        ready.append(by_length(bodies_of(handler, answer, "its own")))
        handler.wfile.write(ready[-1])

    server.context, server.fault = 100_000, keep
    noise = Image.frombytes("RGB", (1400, 1400), secrets.token_bytes(3 * 1400**2))
    with Guard(policy(), backend=backend(server)) as guard:
        assert guard.check(noise).outcome is Outcome.COMPLIES
        server.early = ready[-1]
        for verdict in (guard.check(noise), asyncio.run(guard.acheck(noise))):
            assert verdict.outcome is Outcome.ERROR
            assert "began before its request was sent" in verdict.reason
    assert len(ready) == 1


def test_each_request_has_an_id_of_its_own(server: ToyServer) -> None:
    ids: list[str] = []

    def note(handler: Any, answer: Any) -> None:
        ids.append(handler.headers["X-Request-Id"])
        handler.send_json(200, answer)

    server.fault, server.fault_at = note, lambda path, body: path.endswith("completions")
    check(server)
    assert len(ids) == len(set(ids)) >= 6
    assert all(len(one) == 32 for one in ids)


SIZES = [(24, 24), (24, 240), (240, 240), (480, 240)]


def of_sizes(server: ToyServer, rounds: int, unsafe: int = -1) -> list[list[Outcome]]:
    """What becomes of images of four sizes, round by round; in the last one, that of ``unsafe`` is."""
    with Guard(policy(), backend=backend(server, concurrency=1)) as guard:
        found = []
        for number in range(rounds):
            images = [picture(number, size) for size in SIZES]
            if number == rounds - 1 and unsafe >= 0:
                server.show(images[unsafe], unsafe=0.97)
            found.append([guard.check(image).outcome for image in images])
        return found


@pytest.mark.parametrize("unsafe", range(4))
def test_an_answer_that_counts_another_prompt_is_that_to_another_request(
    server: ToyServer, unsafe: int
) -> None:
    """Of a proxy in front of a server without ids, which from some point on mixes up what it passes on."""
    kept: list[Any] = []

    def late(handler: Any, answer: Any) -> None:
        answer = answer | {"id": ""}
        kept.append(answer)
        handler.send_json(200, kept[-2] if len(kept) > 2 * len(SIZES) else answer)

    server.fault = late
    found = of_sizes(server, 4, unsafe=unsafe)
    assert found[:2] == [[Outcome.COMPLIES] * 4] * 2
    assert found[3][unsafe] is not Outcome.COMPLIES


def test_an_answer_of_always_the_same_length_is_an_error_once_lengths_are_known(server: ToyServer) -> None:
    kept: list[Any] = []

    def stuck(handler: Any, answer: Any) -> None:
        kept.append(answer | {"id": ""})
        handler.send_json(200, kept[0] if len(kept) > 2 * len(SIZES) else kept[-1])

    server.fault = stuck
    assert of_sizes(server, 3)[2] == [Outcome.COMPLIES] + [Outcome.ERROR] * 3


def test_an_answer_without_a_count_is_an_error_once_there_were_some(server: ToyServer) -> None:
    count = [0]

    def silent(handler: Any, answer: Any) -> None:
        count[0] += 1
        usage = {"completion_tokens": 1} if count[0] > 2 * len(SIZES) else answer["usage"]
        server.counts_prompts = count[0] <= 2 * len(SIZES)
        handler.send_json(200, answer | {"usage": usage})

    server.fault = silent
    assert of_sizes(server, 3)[2] == [Outcome.ERROR] * 4


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_server_whose_counts_waver_is_not_held_to_them(server: ToyServer, every: int) -> None:
    """As of a service that asks several providers, or counts what it had not cached."""
    count = [0]

    def wavering(handler: Any, answer: Any) -> None:
        count[0] += 1
        tokens = answer["usage"]["prompt_tokens"] + 100 * (count[0] % every == 0)
        handler.send_json(200, answer | {"usage": answer["usage"] | {"prompt_tokens": tokens}})

    server.fault = wavering
    found = of_sizes(server, 12)
    assert [outcome for outcomes in found for outcome in outcomes].count(Outcome.ERROR) <= 1
    assert found[-1] == [Outcome.COMPLIES] * 4


def test_a_server_that_counts_otherwise_from_now_on_is_learnt_anew(server: ToyServer) -> None:
    more = [0]

    def changed(handler: Any, answer: Any) -> None:
        tokens = answer["usage"]["prompt_tokens"] + more[0]
        handler.send_json(200, answer | {"usage": answer["usage"] | {"prompt_tokens": tokens}})

    server.fault = changed
    with Guard(policy(), backend=backend(server, concurrency=1)) as guard:
        before = [guard.check(picture(shade)).outcome for shade in range(3)]
        more[0] = 50
        after = [guard.check(picture(shade)).outcome for shade in range(3, 6)]
    assert before == [Outcome.COMPLIES] * 3
    assert after == [Outcome.ERROR, Outcome.COMPLIES, Outcome.COMPLIES]
