"""on_block="watch": nothing is stopped or changed, and all is reported as it would have been."""

from __future__ import annotations

import gzip
import json
import logging
from typing import Any

import httpx
import pytest

from integrations.http.calling import CHAT, WAYS, Way, chat
from integrations.http.pictures import GREEN, RED, b64, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Upstream, json_answer
from policyguard import PolicyViolation
from policyguard.integrations.http import HttpResult, guarded_client

WATCH: dict[str, Any] = {"on_block": "watch"}
RED_URI = data_uri(picture(RED))
SMALL = {"max_body": 4096, "max_event": 1024}

REQUESTS: dict[str, Any] = {
    "an image that violates": json.dumps(chat(RED_URI)).encode(),
    "an address": json.dumps(chat("https://example.com/a.png")).encode(),
    "a document": json.dumps(
        {"file_data": "data:application/pdf;base64," + b64(b"%PDF-1.7 " + bytes(range(90)))}
    ).encode(),
    "broken JSON": b'{"a": "' + RED_URI.encode(),
    "a key twice": b'{"a": 1, "a": "' + RED_URI.encode() + b'"}',
    "a body that is too long": json.dumps({"text": "x" * 9000}).encode(),
    "a file": picture(RED),
    "in pieces, too long": [b'{"text": "', b"x" * 9000, b'"}'],
}
EVENT = b"data: " + json.dumps({"image": RED_URI}).encode() + b"\n\n"
WORDS = b'data: {"text": "words"}\n\n'
PIECES = [b"data: " + json.dumps({"t": piece}).encode() + b"\n\n" for piece in (RED_URI[:30], RED_URI[30:])]
STREAM = "text/event-stream"
ANSWERS: dict[str, Answer] = {
    "an image that violates": json_answer({"data": [{"b64_json": b64(picture(RED))}]}),
    "an address": json_answer({"data": [{"url": "https://cdn.example.com/a.png"}]}),
    "broken JSON": Answer(b'{"data": [{"b64_json": "iVBORw0KGgo'),
    "a body that is too long": json_answer({"text": "x" * 9000}),
    "an unknown coding": Answer(b"x" * 9000, "text/plain", headers={"content-encoding": "zz"}),
    "an event that violates": Answer([WORDS, EVENT, WORDS], STREAM),
    "an image in pieces": Answer([*PIECES, WORDS], STREAM),
    "events and one that is too long": Answer(
        [WORDS + EVENT + b"data: " + b"y" * 3000, b"y" * 3000 + b"\n\n", WORDS], STREAM
    ),
    "an event that is cut short": Answer([WORDS, b"data: " + b"iVBORw0KGgo" * 9], STREAM),
    "lines": Answer(json.dumps({"image": RED_URI}).encode() + b"\n{}\n", "application/x-ndjson"),
}


def whole(body: Any) -> bytes:
    return body if isinstance(body, bytes) else b"".join(body)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_would_be_blocked_arrives_to_the_byte(way: Way, upstream: Upstream, name: str) -> None:
    results: list[HttpResult] = []
    options = WATCH | SMALL | {"on_result": results.append}
    content = REQUESTS[name]
    if not isinstance(content, bytes):
        content = iter(content) if "async" not in way.name else _later(content)
    reply = way.send(colour_guard()[0], "POST", upstream.url + CHAT, content=content, options=options)
    assert (200, whole(REQUESTS[name])) == (reply.status, upstream.asked[0].body)
    (result,) = results
    assert (None, "request", ("request", "response")) == (result.blocked, result.would_block, result.watched)
    assert result.reason
    assert result.to_dict()["would_block"] == "request"
    assert result.request.watched
    assert json.loads(reply.headers["x-policyguard-verdict"])["watched"] is True


async def _later(content: Any) -> Any:
    for piece in content:
        yield piece


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_would_be_blocked_is_handed_on_to_the_byte(
    way: Way, upstream: Upstream, name: str
) -> None:
    answer = ANSWERS[name]
    upstream.respond = lambda _asked: answer
    results: list[HttpResult] = []
    options = WATCH | SMALL | {"on_result": results.append}
    reply = way.send(colour_guard()[0], "POST", upstream.url + CHAT, json={}, options=options)
    assert (200, whole(answer.body)) == (reply.status, reply.body)
    (result,) = results
    assert (None, "response") == (result.blocked, result.would_block)
    assert result.response.watched


def test_a_compressed_answer_is_judged_and_handed_on(way: Way, upstream: Upstream) -> None:
    body = json.dumps({"image": RED_URI}).encode()
    upstream.respond = lambda _asked: Answer(gzip.compress(body), headers={"content-encoding": "gzip"})
    reply = way.send(colour_guard()[0], "POST", upstream.url + CHAT, json={}, options=WATCH)
    assert (body, "response") == (reply.body, reply.result.would_block)


def test_what_would_pass_is_marked_too(way: Way, upstream: Upstream) -> None:
    sent = chat(data_uri(picture(GREEN)))
    reply = way.send(colour_guard()[0], "POST", upstream.url + CHAT, json=sent, options=WATCH)
    assert (None, 1, True) == (
        reply.result.would_block,
        reply.result.images_checked,
        reply.result.request.watched,
    )
    assert reply.result.response.watched


def test_addresses_are_fetched_and_judged_and_stay_in_the_request(upstream: Upstream) -> None:
    class Shelf:
        def fetch(self, url: str) -> Any:
            from policyguard.images.fetch import Fetched

            return Fetched(picture(RED), "image/png", url)

    results: list[HttpResult] = []
    options = {**WATCH, "urls": "fetch", "fetcher": Shelf(), "on_result": results.append}
    with guarded_client(colour_guard()[0], family="httpx", **options) as client:
        client.post(upstream.url + CHAT, json=chat("https://example.com/a.png"))
    assert upstream.asked[0].json == chat("https://example.com/a.png")
    assert "request" == results[0].would_block
    assert "violates" == results[0].request.items[0].verdict.outcome


def test_each_direction_is_watched_or_not(upstream: Upstream) -> None:
    upstream.answer({"data": [{"b64_json": b64(picture(RED))}]})
    both: Any = {"request": "watch", "response": "raise"}
    with guarded_client(colour_guard()[0], family="httpx", on_block=both) as client:
        with pytest.raises(PolicyViolation):
            client.post(upstream.url + CHAT, json=chat(RED_URI))
        assert 1 == upstream.calls
    both = {"request": "reject", "response": "watch"}
    with guarded_client(colour_guard()[0], family="httpx", on_block=both) as client:
        assert 403 == client.post(upstream.url + CHAT, json=chat(RED_URI)).status_code
        assert 200 == client.post(upstream.url + CHAT, json={}).status_code


def test_a_guard_that_cannot_work_stops_nothing_and_says_so(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    guard, backend = colour_guard()
    backend.close()
    results: list[HttpResult] = []
    with (
        caplog.at_level(logging.WARNING, "policyguard"),
        guarded_client(guard, family="httpx", on_block="watch", on_result=results.append) as client,
    ):
        assert 200 == client.post(upstream.url + CHAT, json=chat(RED_URI)).status_code
    assert (0, "request") == (results[0].images_checked, results[0].would_block)
    assert any("would have been blocked" in record.getMessage() for record in caplog.records)


def test_no_socket_is_opened_in_secret(upstream: Upstream) -> None:
    results: list[HttpResult] = []
    with guarded_client(
        colour_guard()[0], family="httpx", on_block="watch", on_result=results.append
    ) as client:
        client.get(upstream.url + "/x", headers={"upgrade": "websocket"})
    assert "request" == results[0].would_block


def test_a_damaged_body_is_an_error_as_without_the_guard(upstream: Upstream) -> None:
    upstream.respond = lambda _asked: Answer(b"no gzip at all", headers={"content-encoding": "gzip"})
    with httpx.Client() as plain, pytest.raises(httpx.DecodingError):
        plain.get(upstream.url)
    from policyguard.errors import ImageError

    for way in WAYS:
        with pytest.raises(ImageError, match="damaged"):
            way.send(colour_guard()[0], "GET", upstream.url + "/x", options=WATCH)
