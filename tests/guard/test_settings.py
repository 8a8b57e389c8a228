"""What a guard is built with: a deadline for each check, a cache, several servers."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from policyguard import Action, ConfigurationError, Guard, Outcome
from policyguard.errors import ModelLoadError
from policyguard.testing import FakeBackend
from support.clock import SpentTime
from support.guards import Watched, picture, png, policy, shade

WAYS = ["check", "acheck", "check_many", "check_many in workers", "acheck_many"]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "BASE_URL", "API_KEY", "CACHE"):
        monkeypatch.delenv(f"POLICYGUARD_{name}", raising=False)


def checked(guard: Guard, images: list[Any], way: str) -> list[Any]:
    async def collect() -> list[Any]:
        return [verdict async for verdict in guard.acheck_many(images)]

    if way == "check":
        return [guard.check(image) for image in images]
    if way == "acheck":
        return [asyncio.run(guard.acheck(image)) for image in images]
    if way == "acheck_many":
        return asyncio.run(collect())
    return list(guard.check_many(images, workers=3 if "workers" in way else None))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SpentTime:
    clock = SpentTime()
    for module in ("checker", "rounds"):
        monkeypatch.setattr(f"policyguard.checking.{module}.monotonic", clock)
    return clock


class SlowFile(io.BytesIO):
    """Takes 200 seconds to read."""

    def __init__(self, data: bytes, clock: SpentTime) -> None:
        super().__init__(data)
        self._clock = clock

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._clock.wait(200.0 if data else 0.0)
        return data


@pytest.mark.parametrize("way", WAYS)
def test_every_request_carries_the_deadline_of_its_image(way: str, clock: SpentTime) -> None:
    backend = FakeBackend()
    assert checked(Guard(policy(), backend=backend, timeout=50.0), [png()] * 3, way)[-1].allowed
    assert [clock() + 50.0] * 3 == [request.deadline for request in backend.requests]


def test_without_a_timeout_there_is_no_deadline() -> None:
    backend = FakeBackend()
    Guard(policy(), backend=backend).check(png())
    assert [None] == [request.deadline for request in backend.requests]


@pytest.mark.parametrize("way", WAYS)
def test_decoding_that_takes_too_long_is_an_error_and_nothing_is_asked(way: str, clock: SpentTime) -> None:
    backend = FakeBackend()
    verdict = checked(Guard(policy(), backend=backend, timeout=100.0), [SlowFile(png(), clock)], way)[0]
    assert (Outcome.ERROR, Action.BLOCK, "did not finish within 100 s") == (
        verdict.outcome,
        verdict.action,
        verdict.reason,
    )
    assert backend.calls == 0


@pytest.mark.parametrize("way", WAYS)
def test_the_time_that_decoding_took_is_missing_from_the_time_to_answer(way: str, clock: SpentTime) -> None:
    """By the clock of the caller's thread, which may be the one that decodes."""
    backend, start = FakeBackend(), clock()
    guard = Guard(policy(), backend=backend, timeout=1000.0)
    assert checked(guard, [png(), SlowFile(png(1), clock)], way)[-1].allowed
    deadlines = {shade(request): request.deadline or 0.0 for request in backend.requests}
    assert start + 1000.0 <= deadlines[0] <= clock() + 1000.0
    assert deadlines[1] <= clock() + 800.0


def test_one_that_is_late_takes_no_other_of_its_batch_with_it(clock: SpentTime) -> None:
    backend = FakeBackend(preferred_batch=3)
    guard = Guard(policy(), backend=backend, timeout=100.0)
    verdicts = list(guard.check_many([picture(), SlowFile(png(), clock), picture()]))
    assert [True, False, True] == [verdict.allowed for verdict in verdicts]


def test_waiting_for_its_turn_among_many_does_not_use_up_an_image_s_time(clock: SpentTime) -> None:
    def during(requests: Any) -> None:
        if shade(requests[0]) == 0:
            clock.wait(600.0)

    guard = Guard(policy(), backend=Watched(during), timeout=500.0)
    assert all(verdict.allowed for verdict in guard.check_many([png(n) for n in range(4)]))


def test_what_is_to_be_asked_a_second_time_is_not_asked_past_the_deadline(clock: SpentTime) -> None:
    rules = [
        {"id": "ads", "title": "Ads", "unsafe": ["adverts"], "action": "allow"},
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
    ]
    backend = Watched(lambda _: clock.wait(200.0))
    verdict = Guard(policy(rules=rules), backend=backend, timeout=100.0).check(picture(230))
    assert (1, False, Outcome.ERROR) == (backend.calls, verdict.allowed, verdict.outcome)


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_cannot_be_is_refused(timeout: float) -> None:
    with pytest.raises(ConfigurationError, match="timeout"):
        Guard(policy(), backend=FakeBackend(), timeout=timeout)


def test_another_policy_keeps_the_timeout() -> None:
    assert Guard(policy(), backend=FakeBackend(), timeout=3.0).with_policy(policy()).timeout == 3.0


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("way", WAYS)
def test_a_cache_answers_for_what_was_asked_before_and_says_so(kind: str, way: str, tmp_path: Path) -> None:
    backend = FakeBackend(0.1)
    cache = "memory" if kind == "memory" else tmp_path / "verdicts.sqlite"
    with Guard(policy(), backend=backend, cache=cache) as guard:
        first, again = (checked(guard, [png(9)], way)[0] for _ in range(2))
        strict = guard.with_policy(policy(defaults={"threshold": 0.05}))
        assert strict.check(png(9)).outcome is Outcome.VIOLATES
    assert (1, False, True, first.score) == (backend.calls, first.cached, again.cached, again.score)
    assert not backend.closed


def test_a_cache_is_shared_by_the_guards_it_is_given_to_and_closed_by_none() -> None:
    from policyguard.cache import open_cache

    cache, backend = open_cache("memory"), FakeBackend(0.1)
    with Guard(policy(), backend=backend, cache=cache) as guard:
        guard.check(png(9))
    with Guard(policy(), backend=backend, cache=cache) as guard:
        assert guard.check(png(9)).cached
    assert backend.calls == 1


def test_the_environment_names_a_cache_for_the_backends_that_a_guard_builds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "verdicts.sqlite"
    monkeypatch.setenv("POLICYGUARD_CACHE", str(path))
    with Guard("pictosafe/l3") as guard:
        assert "Cached" in type(guard.backend).__name__
    backend = FakeBackend()
    assert Guard(policy(), backend=backend).backend is backend


def test_several_servers_are_named_by_a_list_or_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"]
    with Guard("safeedit/l3", base_url=addresses, model="guard") as guard:
        assert "127.0.0.1:10" in repr(guard.backend)
    monkeypatch.setenv("POLICYGUARD_BASE_URL", f"{addresses[0]}, {addresses[1]},")
    with Guard("safeedit/l3", model="guard") as guard:
        assert "127.0.0.1:10" in repr(guard.backend)


@pytest.mark.parametrize(
    "settings",
    [
        *({"timeout": seconds} for seconds in ("5", True, 0, float("inf"))),
        *({"base_url": url} for url in ([], "", " , ", 5, [5], ["http://gpu/v1", ""], b"http://gpu/v1")),
        *({"base_url": "http://gpu/v1", "api_key": key} for key in (5, b"key")),
        {"base_url": "http://gpu/v1", "model": "m\udcff"},
    ],
    ids=repr,
)
def test_settings_of_a_wrong_type_or_without_content_are_refused(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(ConfigurationError):
        Guard("pictosafe/l3", **{"model": "guard"} | settings)


def test_a_key_without_a_server_is_refused_and_one_with_a_server_or_from_the_environment_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigurationError, match="no base_url names one"):
        Guard("safeedit/l3", model="gpt-5-mini", api_key="sk-1")
    monkeypatch.setenv("POLICYGUARD_API_KEY", "sk-1")
    Guard("pictosafe/l3").close()
    with pytest.raises(ModelLoadError, match="no name of a model that runs here"):
        Guard("safeedit/l3", model="gpt-5-mini")
    monkeypatch.setenv("POLICYGUARD_BASE_URL", "http://127.0.0.1:9/v1")
    Guard("safeedit/l3", model="gpt-5-mini", api_key="sk-1").close()
    monkeypatch.delenv("POLICYGUARD_BASE_URL")
    monkeypatch.setenv("POLICYGUARD_MODEL", "omni-moderation")  # a service of one address, with a key
    Guard("modules/sexual", api_key="sk-1", subset=True).close()


def test_an_environment_that_names_no_server_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICYGUARD_BASE_URL", " , ")
    with pytest.raises(ConfigurationError, match="POLICYGUARD_BASE_URL"):
        Guard("pictosafe/l3")


def test_a_cache_of_a_wrong_type_is_named_by_its_type() -> None:
    with pytest.raises(ConfigurationError, match="of type int"):
        Guard(policy(), backend=FakeBackend(), cache=5)  # type: ignore[arg-type]
