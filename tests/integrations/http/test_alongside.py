"""when="alongside": a request is on its way while it is judged, and its answer waits for the verdict."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from integrations.http.calling import CHAT, Way, chat
from integrations.http.pictures import GREEN, RED, _judge, colour_guard, data_uri, picture
from integrations.http.upstream import Answer, Asked, Upstream, json_answer
from policyguard import ConfigurationError, Guard, PolicyViolation
from policyguard.assessment import Failure, FailureKind
from policyguard.integrations.http import HttpResult, guarded_async_client, guarded_client
from policyguard.testing import FakeBackend

ALONGSIDE: dict[str, Any] = {"when": "alongside"}
ANSWER = {"choices": [{"message": {"tool_calls": [{"function": {"name": "delete", "arguments": "{}"}}]}}]}


class Waiting:
    """A guard whose model answers only once the provider has the request."""

    def __init__(self, upstream: Upstream, answer: Answer | None = None) -> None:
        self.arrived = threading.Event()
        guard, _ = colour_guard()
        self.guard = Guard(guard.policies[0], backend=FakeBackend(self._assess))

        def respond(_asked: Asked) -> Answer:
            self.arrived.set()
            return answer or json_answer(ANSWER)

        upstream.respond = respond

    def _assess(self, request: Any) -> Any:
        self.arrived.wait()
        return _judge(request)


def test_the_request_is_out_while_it_is_judged(way: Way, upstream: Upstream) -> None:
    waiting = Waiting(upstream)
    sent = chat(data_uri(picture(GREEN)))
    reply = way.send(waiting.guard, "POST", upstream.url + CHAT, json=sent, options=ALONGSIDE)
    assert (200, ANSWER, sent) == (reply.status, reply.json, upstream.asked[0].json)
    assert (1, 1, True) == (
        reply.result.images_checked,
        reply.result.images_seen,
        reply.result.sent_unjudged,
    )


def test_the_answer_to_a_blocked_image_is_discarded(way: Way, upstream: Upstream) -> None:
    waiting = Waiting(upstream)
    sent = chat(data_uri(picture(RED)))
    reply = way.send(waiting.guard, "POST", upstream.url + CHAT, json=sent, options=ALONGSIDE)
    assert (403, "image_policy_violation", 1) == (reply.status, reply.error["code"], upstream.calls)
    assert b"delete" not in reply.body
    assert ("request", True) == (reply.result.blocked, reply.result.sent_unjudged)
    with pytest.raises(PolicyViolation):
        way.send(
            Waiting(upstream).guard,
            "POST",
            upstream.url + CHAT,
            json=sent,
            options=ALONGSIDE | {"on_block": "raise"},
        )


def test_a_stream_is_given_up_when_its_request_is_blocked(way: Way, upstream: Upstream) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b'data: {"choices": []}\n\n' * 999

    waiting = Waiting(upstream, Answer(endless(), "text/event-stream"))
    sent = chat(data_uri(picture(RED)))
    reply = way.send(waiting.guard, "POST", upstream.url + CHAT, json=sent, options=ALONGSIDE)
    assert (403, False) == (reply.status, b"choices" in reply.body)


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_a_block_cancels_what_the_provider_has_not_answered(family: Any, upstream: Upstream) -> None:
    told = threading.Event()

    def respond(_asked: Asked) -> Answer:
        told.wait()
        return json_answer(ANSWER)

    upstream.respond = respond

    async def ask() -> Any:
        async with guarded_async_client(colour_guard()[0], family=family, when="alongside") as client:
            return await client.post(upstream.url + CHAT, json=chat(data_uri(picture(RED))), timeout=None)

    try:
        assert 403 == asyncio.run(ask()).status_code  # the provider has still said nothing
    finally:
        told.set()


def test_what_is_known_or_needs_no_model_is_decided_before(way: Way, upstream: Upstream) -> None:
    guard, _ = colour_guard()
    document = {"file_data": data_uri(b"%PDF-1.7 " + bytes(range(90)), "application/pdf")}
    for sent in (chat("https://example.com/a.png"), document):
        reply = way.send(guard, "POST", upstream.url + CHAT, json=sent, options=ALONGSIDE)
        assert (403, 0, False) == (reply.status, upstream.calls, reply.result.sent_unjudged)
    reply = way.send(guard, "POST", upstream.url + CHAT, json={"text": "words"}, options=ALONGSIDE)
    assert (200, False) == (reply.status, reply.result.sent_unjudged)


def test_an_image_that_was_blocked_is_not_sent_again(upstream: Upstream) -> None:
    results: list[HttpResult] = []
    options = ALONGSIDE | {"on_result": results.append}
    with guarded_client(colour_guard()[0], family="httpx", **options) as client:
        for _ in range(3):
            assert 403 == client.post(upstream.url + CHAT, json=chat(data_uri(picture(RED)))).status_code
    assert 1 == upstream.calls
    assert [True, False, False] == [result.sent_unjudged for result in results]


def test_an_outage_of_the_guard_discards_the_answer(way: Way, upstream: Upstream) -> None:
    guard, backend = colour_guard()
    backend.enqueue(Failure(FailureKind.ERROR, "the server is down", retryable=True))
    sent = chat(data_uri(picture(GREEN)))
    reply = way.send(guard, "POST", upstream.url + CHAT, json=sent, options=ALONGSIDE)
    assert (503, "true") == (reply.status, reply.headers["x-should-retry"])
    assert b"delete" not in reply.body


def test_what_fails_on_the_way_is_told_as_ever() -> None:
    with Upstream() as gone:
        url = gone.url
    with (
        guarded_client(colour_guard()[0], family="httpx", when="alongside") as client,
        pytest.raises(httpx.ConnectError),
    ):
        client.post(url + CHAT, json=chat(data_uri(picture(GREEN))))

    async def ask() -> None:
        async with guarded_async_client(colour_guard()[0], family="httpx", when="alongside") as client:
            await client.post(url + CHAT, json=chat(data_uri(picture(GREEN))))

    with pytest.raises(httpx.ConnectError):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "options", [{"on_block": "replace"}, {"on_block": {"request": "replace"}}, {"urls": "fetch"}]
)
def test_what_would_change_the_request_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="alongside"):
        guarded_client(colour_guard()[0], family="httpx", **ALONGSIDE, **options)
    with pytest.raises(ConfigurationError, match="when is"):
        guarded_client(colour_guard()[0], family="httpx", when="after")  # type: ignore[arg-type]
    guarded_client(colour_guard()[0], family="httpx", on_block={"response": "replace"}, **ALONGSIDE).close()


def test_answers_are_judged_as_ever(way: Way, upstream: Upstream) -> None:
    waiting = Waiting(upstream, json_answer({"image": data_uri(picture(RED))}))
    sent = chat(data_uri(picture(GREEN)))
    reply = way.send(waiting.guard, "POST", upstream.url + CHAT, json=sent, options=ALONGSIDE)
    assert (403, "response") == (reply.status, reply.result.blocked)


def test_alongside_and_watched_nothing_is_stopped(way: Way, upstream: Upstream) -> None:
    waiting = Waiting(upstream)
    options = ALONGSIDE | {"on_block": "watch"}
    sent = chat(data_uri(picture(RED)))
    reply = way.send(waiting.guard, "POST", upstream.url + CHAT, json=sent, options=options)
    assert (200, ANSWER, "request") == (reply.status, reply.json, reply.result.would_block)
