"""A model that does not get the image is found out with its first answer, and no harmless one is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backends.remote import other_servers
from backends.remote.other_servers import SERVERS, whole
from backends.remote.server import ToyServer, shows_image
from backends.remote.support import backend, backend_on, picture, policy
from policyguard import Guard, Outcome
from policyguard.backends.remote import sight
from policyguard.cache import MemoryCache
from policyguard.dialects import Dialect, PicoDialect, SafeguardDialect
from policyguard.errors import ConfigurationError

ALL = lambda path, body: "completions" in path  # noqa: E731


def looks(server: ToyServer) -> list[dict[str, Any]]:
    """The requests that are about no image of the guard's caller."""
    return [
        body
        for path, body in server.calls
        if "completions" in path and (not shows_image(path, body) or "Which colour" in json.dumps(body))
    ]


def check(server: ToyServer, count: int = 1, **options: Any) -> list[Outcome]:
    under = "pictosafe/l3" if isinstance(options.get("dialect"), PicoDialect) else policy()
    with backend(server, **options) as backend_:
        guard = Guard(under, backend=backend_)
        return [guard.check(picture(shade)).outcome for shade in range(count)]


DIALECTS = pytest.mark.parametrize("dialect", [SafeguardDialect(), PicoDialect()], ids=["free", "labels"])


@DIALECTS
@pytest.mark.parametrize("cached", [False, True])
def test_a_server_that_drops_images_is_a_wrong_setup_at_the_first_one(
    server: ToyServer, dialect: Dialect, cached: bool
) -> None:
    server.blind = True
    under = "pictosafe/l3" if dialect.name == "pico" else policy()
    with backend(server, dialect=dialect) as backend_:
        guard = Guard(under, backend=backend_, cache=MemoryCache() if cached else None)
        for _ in range(2):
            with pytest.raises(
                ConfigurationError, match="does not see images: an image makes the prompt only 0"
            ):
                guard.check(picture())
        with pytest.raises(ConfigurationError, match="does not see images"):
            asyncio.run(guard.acheck(picture()))
        with pytest.raises(ConfigurationError, match="does not see images"):
            list(guard.check_many([picture(shade) for shade in range(5)]))


@DIALECTS
def test_one_request_more_shows_that_images_arrive_and_the_next_thousand_need_none(
    server: ToyServer, dialect: Dialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "EVERY", 10)
    server.default.unsafe = 0.0
    assert set(check(server, 10, dialect=dialect)) == {Outcome.COMPLIES}
    assert len(looks(server)) == 1
    server.calls.clear()
    check(server, 31, dialect=dialect)
    assert len(looks(server)) == 4


def test_many_first_images_at_once_are_looked_at_once(server: ToyServer) -> None:
    with backend(server, concurrency=8) as backend_:
        found = list(Guard(policy(), backend=backend_).check_many([picture(n) for n in range(24)]))
    assert {verdict.outcome for verdict in found} == {Outcome.COMPLIES}
    assert len(looks(server)) == 1


def test_a_server_that_stops_passing_images_on_is_found_out_later(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sight, "EVERY", 5)
    with backend(server) as backend_:
        guard = Guard(policy(), backend=backend_)
        guard.check(picture())
        server.blind = True
        with pytest.raises(ConfigurationError, match="does not see images"):
            list(guard.check_many([picture(shade) for shade in range(6)]))


def test_each_of_several_servers_is_looked_at(server: ToyServer) -> None:
    with ToyServer() as other:
        other.blind = True
        with (
            backend_on([server.url, other.url], concurrency=2) as backend_,
            pytest.raises(ConfigurationError, match=other.url.split("/")[2]),
        ):
            list(Guard(policy(), backend=backend_).check_many([picture(n) for n in range(16)]))


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("blind", [False, True])
def test_servers_without_scores_are_looked_at_too(server: ToyServer, kind: str, blind: bool) -> None:
    def answers(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return SERVERS[kind](body, rating="safe", category="none")

    other_servers.install(server, answers)
    server.fault_at, server.blind = ALL, blind
    if blind:
        with pytest.raises(ConfigurationError, match="does not see images"):
            check(server)
    else:
        assert check(server, 3) == [Outcome.COMPLIES] * 3
        assert sum(not shows_image("completions", body) for body in looks(server)) <= 2


def test_a_small_image_that_takes_few_tokens_is_no_reason_to_refuse(server: ToyServer) -> None:
    """Some models make one token of every 28 x 28 pixels: then one of ours is counted."""

    def counted(handler: Any, answer: Any) -> None:
        side = json.dumps(handler.body).count("data:image/") and (4 if len(server.bodies()) == 1 else 250)
        handler.send_json(200, answer | {"usage": {"prompt_tokens": 500 + side}})

    server.fault, server.fault_at = counted, ALL
    assert check(server, dialect=PicoDialect()) == [Outcome.COMPLIES]


@pytest.mark.parametrize("told", [None, {}, {"prompt_tokens": 0}, {"prompt_tokens": 1}])
def test_where_prompts_are_not_counted_the_model_has_to_name_colours(
    server: ToyServer, told: dict[str, int] | None
) -> None:
    server.fault, server.fault_at = (
        lambda handler, answer: handler.send_json(200, answer | {"usage": told}),
        ALL,
    )
    server.counts_prompts = False
    assert check(server, 3) == [Outcome.COMPLIES] * 3
    server.blind = True
    with pytest.raises(ConfigurationError, match=r"asked for the colour of a .* 'I see no image\.'"):
        check(server)


@pytest.mark.parametrize("answer", ["red", "Red or blue.", "It is colourful.", "", "safe", "blue"])
def test_a_guess_is_no_colour(server: ToyServer, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server.counts_prompts = False

    def guess(handler: Any, honest: Any) -> None:
        asked = "Which colour" in json.dumps(handler.body)
        handler.send_json(200, whole(answer) if asked else honest)

    server.fault = guess
    with pytest.raises(ConfigurationError, match="asked for the colour"):
        check(server)


def test_where_prompts_are_not_counted_a_guard_with_labels_alone_is_used_with_a_note(
    server: ToyServer,
) -> None:
    server.counts_prompts = False
    with backend(server, dialect=PicoDialect()) as backend_:
        verdict = Guard("pictosafe/l3", backend=backend_).check(picture())
    assert verdict.outcome is Outcome.COMPLIES
    assert any("whether the model sees images is unknown" in note for note in verdict.evidence.notes)


@pytest.mark.parametrize(
    ("status", "message", "outcome"),
    [
        (400, "a request for this model needs an image", Outcome.COMPLIES),
        (422, "messages: text content blocks must be non-empty", Outcome.COMPLIES),
        (503, "busy", Outcome.ERROR),
    ],
)
def test_a_look_that_is_refused_or_fails(
    server: ToyServer, status: int, message: str, outcome: Outcome
) -> None:
    def without(handler: Any, answer: Any) -> None:
        handler.send_json(status, {"error": {"message": message}})

    server.fault = without
    server.fault_at = lambda path, body: ALL(path, body) and not shows_image(path, body)
    assert check(server) == [outcome]
    server.fault = None
    assert check(server) == [Outcome.COMPLIES]


def test_an_answer_that_is_none_is_not_looked_at(server: ToyServer) -> None:
    server.fault = lambda handler, answer: handler.send_json(200, {"choices": []})
    assert check(server) == [Outcome.ERROR]
    assert looks(server) == []
