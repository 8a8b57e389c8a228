"""A misbehaving server never lets a picture through, whatever it does and whichever way it is asked."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from backends.remote.faults import BODIES, SCORES, TRANSPORT, WORDS, Fault
from backends.remote.server import ToyServer
from backends.remote.support import ask, backend, picture, policy
from policyguard import ConfigurationError, Guard, Outcome, Verdict
from policyguard.assessment import Assessment, Failure, FailureKind
from policyguard.backends.remote.client import JsonClient
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError

TIMEOUT = 0.25
"""Seconds to wait for a server that keeps us waiting; any other one has plenty of time."""
SLOW = {"no answer", "slow body", "slow head"}


def check(guard: Guard, **options: Any) -> list[Verdict]:
    return [guard.check(picture(1), **options)]


def check_many(guard: Guard, **options: Any) -> list[Verdict]:
    return list(guard.check_many([picture(1), picture(2)], **options))


def acheck(guard: Guard, **options: Any) -> list[Verdict]:
    return [asyncio.run(guard.acheck(picture(1), **options))]


def acheck_many(guard: Guard, **options: Any) -> list[Verdict]:
    async def collect() -> list[Verdict]:
        return [verdict async for verdict in guard.acheck_many([picture(1), picture(2)], **options)]

    return asyncio.run(collect())


WAYS: dict[str, Callable[..., list[Verdict]]] = {
    "check": check,
    "check_many": check_many,
    "acheck": acheck,
    "acheck_many": acheck_many,
}

# Where in the conversation the server fails: by what the assistant has said, and how much is asked for.
PLACES: dict[str, tuple[Callable[[dict[str, Any]], bool], dict[str, Fault]]] = {
    "rating": (lambda body: body["messages"][-1]["content"] == '{"rating": "', TRANSPORT | BODIES | SCORES),
    "rules": (
        lambda body: body["messages"][-1]["content"].endswith('"category": "'),
        TRANSPORT | BODIES | SCORES,
    ),
    "words": (lambda body: body["max_tokens"] > 1, TRANSPORT | BODIES | WORDS),
}
CASES = [
    pytest.param(place, fault, id=f"{place}-{fault}")
    for place, (_, faults) in PLACES.items()
    for fault in faults
]


def guarded(server: ToyServer, **options: Any) -> Guard:
    """A guard that would allow every picture: rule scores are read, and stay under their thresholds."""
    server.default.unsafe = 0.2
    server.default.rules = {"A": 0.1, "B": 0.9}
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"], "threshold": 0.1},
        {"id": "drinks", "title": "Drinks", "unsafe": ["alcohol"]},
    ]
    return Guard(policy(rules=rules), backend=backend(server, **options))


def patience(fault: str) -> float:
    return TIMEOUT if fault in SLOW else 100.0


@pytest.mark.parametrize("way", WAYS)
def test_without_a_fault_the_same_guard_allows(server: ToyServer, way: str) -> None:
    guard = guarded(server)
    assert all(verdict.allowed for verdict in WAYS[way](guard, explain=True))
    guard.backend.close()


@pytest.mark.parametrize(("place", "fault"), CASES)
def test_no_fault_lets_a_picture_through(server: ToyServer, place: str, fault: str) -> None:
    at, faults = PLACES[place]
    guard = guarded(server, timeout=patience(fault))
    server.fault = faults[fault]
    server.fault_at = lambda path, body: path.endswith("/completions") and at(body)
    ways = WAYS if place == "rating" else ["acheck_many"] if fault in SLOW else ["check", "acheck_many"]
    for way in ways:
        try:
            verdicts = WAYS[way](guard, explain=place == "words")
        except ConfigurationError:
            continue
        assert verdicts
        for verdict in verdicts:
            assert not verdict.allowed, f"{way}: {verdict.summary()}"
            assert not verdict.outcome.judged or verdict.outcome is Outcome.VIOLATES
            assert verdict.reason
    guard.backend.close()


@pytest.mark.parametrize("fault", ["401", "403", "404 path", "404 model", "405", "301"])
@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_set_up_raises_at_once(server: ToyServer, way: str, fault: str) -> None:
    server.fault = (TRANSPORT | SCORES)[fault]
    guard = guarded(server)
    with pytest.raises(ConfigurationError):
        WAYS[way](guard)
    guard.backend.close()


@pytest.mark.parametrize(
    ("fault", "retryable"),
    [
        *[(fault, True) for fault in ("429", "500", "503", "reset", "no answer", "not http", "empty body")],
        *[(fault, False) for fault in ("400", "501", "huge body")],
    ],
)
def test_a_failure_says_whether_to_try_again(server: ToyServer, fault: str, retryable: bool) -> None:
    server.fault = (TRANSPORT | BODIES)[fault]
    with backend(server, timeout=patience(fault)) as guard:
        (failure,) = guard.assess([ask(picture())])
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ERROR
    assert failure.retryable is retryable
    assert "127.0.0.1" in failure.reason or "answer" in failure.reason


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("refusal", FailureKind.REFUSED), ("cut off", FailureKind.ERROR), ("other text", FailureKind.ERROR)],
)
def test_what_is_wrong_with_an_explanation_is_told_apart(
    server: ToyServer, fault: str, kind: FailureKind
) -> None:
    server.fault, server.fault_at = WORDS[fault], lambda path, body: body.get("max_tokens", 0) > 1
    with backend(server) as guard:
        (failure,) = guard.assess([ask(picture(), explain=True)])
    assert isinstance(failure, Failure)
    assert failure.kind is kind


@pytest.mark.parametrize("fault", ["500", "reset", "html", "no answer"])
def test_a_failing_tokenizer_fails_the_picture_and_is_asked_again(server: ToyServer, fault: str) -> None:
    server.fault, server.fault_at = (TRANSPORT | BODIES)[fault], lambda path, body: path == "/tokenize"
    with backend(server, timeout=1.0 if fault in SLOW else 100.0) as guard:
        (failure,) = guard.assess([ask(picture())])
        assert isinstance(failure, Failure)
        server.fault = None
        (found,) = guard.assess([ask(picture())])
        assert isinstance(found, Assessment)
    assert "logprob_token_ids" in server.bodies()[-1]


@pytest.mark.parametrize("tokens", [["1"], [-1], [1.5], [True], None, {}])
def test_token_ids_that_are_none_fail_the_picture(server: ToyServer, tokens: Any) -> None:
    server.fault = lambda handler, answer: handler.send_json(200, {"tokens": tokens})
    server.fault_at = lambda path, body: path == "/tokenize"
    with backend(server) as guard:
        (failure,) = guard.assess([ask(picture())])
    assert isinstance(failure, Failure)


def test_one_bad_picture_does_not_touch_the_others(server: ToyServer) -> None:
    server.show(picture(4), unsafe=0.5)
    server.fault = TRANSPORT["reset"]
    server.fault_at = lambda path, body: (
        "category" in str(body["messages"][-1:]) if "messages" in body else False
    )
    with backend(server) as guard:
        results = guard.assess([ask(picture(shade)) for shade in range(8)])
    assert [isinstance(result, Failure) for result in results] == [shade == 4 for shade in range(8)]


def test_a_server_that_is_not_there_is_an_error(server: ToyServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        guard = guarded(server)
        lost = Guard(policy(), base_url=f"http://127.0.0.1:{port}/v1", model="toy-guard")
        verdict = lost.check(picture())
        assert (verdict.outcome, verdict.allowed) == (Outcome.ERROR, False)
        lost.close()
        guard.backend.close()


@pytest.mark.parametrize("what", ["policy", "picture"])
def test_a_too_long_prompt_is_blamed_on_policy_or_picture(server: ToyServer, what: str) -> None:
    with backend(server) as guard:
        if what == "policy":
            server.context = 100
            with pytest.raises(ConfigurationError, match=r"policy 'house' is too long"):
                guard.assess([ask(picture())])
        else:
            large, small = guard.assess([ask(picture(size=(1024, 1024 + 1))), ask(picture())])
            assert isinstance(large, Failure)
            assert large.kind is FailureKind.UNSCANNABLE
            assert isinstance(small, Assessment)


REFUSALS = [
    (400, "At most 0 image(s) may be provided in one prompt.", ConfigurationError),
    (400, "default chat template is no longer allowed", ConfigurationError),
    (422, [{"type": "extra_forbidden", "loc": ["body", "continue_final_message"]}], ConfigurationError),
    (400, "top_logprobs is greater than max allowed: 5", ConfigurationError),
    (400, "cannot identify image file <_io.BytesIO object>", FailureKind.UNSCANNABLE),
    (400, "absolute aspect ratio must be smaller than 200, got 300.0", FailureKind.UNSCANNABLE),
    (413, "Payload Too Large", FailureKind.UNSCANNABLE),
    (400, "bad luck", FailureKind.ERROR),
    *((400, words, ConfigurationError) for words in ("Invalid model name x", "model x not found")),
    *((400, f"{words} API key provided", ConfigurationError) for words in ("Incorrect", "No", "invalid")),
]


@pytest.mark.parametrize(("status", "words", "meaning"), REFUSALS)
def test_a_refusal_is_of_the_set_up_or_of_the_picture(
    server: ToyServer, status: int, words: Any, meaning: Any
) -> None:
    server.fault = lambda handler, answer: handler.send_json(status, {"detail": words})
    with backend(server) as guard:
        if meaning is ConfigurationError:
            with pytest.raises(ConfigurationError):
                guard.assess([ask(picture())])
            return
        (failure,) = guard.assess([ask(picture())])
    assert isinstance(failure, Failure)
    assert failure.kind is meaning


@pytest.mark.parametrize("words", ["image ", "load ", "context ", "a", "model "])
def test_an_error_message_of_megabytes_costs_no_time(server: ToyServer, words: str) -> None:
    message = words * (6_000_000 // len(words))
    server.fault = lambda handler, answer: handler.send_json(
        400, {"error": {"message": message, "param": message[:1_000_000]}}
    )
    with backend(server) as guard:
        (failure,) = guard.assess([ask(picture())])
    assert isinstance(failure, Failure)
    assert failure.kind is FailureKind.ERROR


def _in_pieces(number: int) -> Fault:
    def send(handler: Any, answer: Any) -> None:
        body = json.dumps(answer).encode()
        body = b" " * (number - 1) + body
        handler.close_connection = True
        pieces = [*(body[i : i + 1] for i in range(number - 1)), body[number - 1 :]]
        message = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + message + b"0\r\n\r\n")

    return send


@pytest.mark.parametrize(("number", "fine"), [(1, True), (100, True), (2000, True), (9000, False)])
def test_an_answer_in_very_many_pieces_is_not_read_to_its_end(
    server: ToyServer, number: int, fine: bool
) -> None:
    server.fault = _in_pieces(number)
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment) is fine
    assert fine or (isinstance(found, Failure) and "too many pieces" in found.reason)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_an_answer_of_megabytes_is_not_parsed(server: ToyServer, path: str) -> None:
    def large(handler: Any, answer: Any) -> None:
        handler.send_json(200, answer | {"id": "x" * 2**21, "tokens": list(range(2**18))})

    server.fault, server.fault_at = large, lambda called, body: called == path
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Failure)
    assert "longer than 1 MiB" in found.reason


def test_a_list_of_very_many_models_is_read(server: ToyServer) -> None:
    """OpenRouter's is over a megabyte."""
    models = [{"id": f"maker/model-{number}", "description": "d" * 2000} for number in range(1500)]
    server.fault = lambda handler, answer: handler.send_json(200, {"data": [*models, *answer["data"]]})
    server.fault_at = lambda path, body: path == "/v1/models"
    with backend(server) as guard:
        guard.warm()


def test_a_key_at_the_edge_of_what_is_looked_at_is_not_shown_in_part(server: ToyServer) -> None:
    key = "sk-very-secret-0123456789"
    echo = "QUJD" * 990 + " " + key * 3
    server.fault = lambda handler, answer: handler.send_json(400, {"error": {"message": echo}})
    with backend(server, api_key=key) as guard:
        (failure,) = guard.assess([ask(picture())])
    assert isinstance(failure, Failure)
    assert "sk-" not in failure.reason


def test_time_that_is_up_is_not_told_as_a_negative_number(server: ToyServer) -> None:
    async def call() -> None:
        connection = JsonClient(Endpoint.parse(server.url), timeout=5.0, connections=1)
        try:
            await connection.call("GET", "/models", None, within=-0.00321)
        finally:
            await connection.close()

    with pytest.raises(CallError, match=r"time is up$"):
        asyncio.run(call())
