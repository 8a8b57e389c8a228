"""A shadow judges a share of what a guard judges; it never acts, delays or fails an answer."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import logging
import pickle  # noqa: TID251 (that a verdict can be pickled is what is tested)
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from policyguard import Action, ConfigurationError, Guard, Outcome, PolicyError, Shadow
from policyguard.assessment import Failure, FailureKind
from policyguard.authoring import ImageChange
from policyguard.backends import RemoteBackend
from policyguard.cache import CachedBackend, MemoryCache
from policyguard.testing import FakeBackend
from policyguard.verdict import ShadowCheck, Verdict
from support.guards import Watched, picture, png, policy
from support.waiting import wait_until

LIVE = policy()
STRICT = policy(id="strict", defaults={"threshold": 0.2})
ALWAYS = png(90)


@contextmanager
def held() -> Iterator[tuple[Watched, threading.Event]]:
    """A backend for a shadow that answers nothing until it is let go."""
    go = threading.Event()
    try:
        yield Watched(lambda _: go.wait()), go
    finally:
        go.set()


def idle(guard: Guard) -> Any:
    """The first shadow's counts once it has nothing left to do."""

    def done() -> bool:
        stats = guard.shadow_stats()[0]
        return stats.sampled == stats.compared + stats.dropped + stats.failed

    wait_until(done)
    return guard.shadow_stats()[0]


def test_a_policy_beside_the_live_one_judges_the_same_image_and_does_not_act() -> None:
    with Guard(LIVE, backend=Watched(), shadow=STRICT) as guard:
        verdict = guard.check(picture(90))
        (check,) = verdict.shadows
        shadow = check.wait()
    assert verdict.allowed
    assert verdict.outcome is Outcome.COMPLIES
    assert shadow is not None
    assert (shadow.outcome, shadow.action) == (Outcome.VIOLATES, Action.BLOCK)
    assert shadow.evidence.policies[0]["id"] == "strict"
    assert (check.name, check.state, check.verdict) == ("strict 1.0.0", "judged", shadow)


def test_a_guard_may_be_a_shadow_with_a_model_of_its_own() -> None:
    other = Guard([LIVE, STRICT], backend=FakeBackend(0.9), explain=True)
    with Guard(LIVE, backend=FakeBackend(0.1), shadow=Shadow(other, name="next model")) as guard:
        shadow = guard.check(picture()).shadows[0].wait()
        assert shadow is not None
        assert shadow.rationale == "scripted"
        assert guard.shadow_stats()[0].name == "next model"
    assert other.check(picture()).outcome is Outcome.VIOLATES, "it stays its owner's to close"


@pytest.mark.parametrize("way", ["check", "acheck", "check_many", "acheck_many", "acheck_as_completed"])
def test_every_way_to_check_has_shadows(way: str) -> None:
    async def many() -> list[Any]:
        if way == "acheck":
            return [await guard.acheck(picture(90))]
        return [verdict async for verdict in getattr(guard, way)([picture(90)])]

    with Guard(LIVE, backend=Watched(), shadow=STRICT) as guard:
        if way == "check":
            verdicts = [guard.check(picture(90))]
        elif way == "check_many":
            verdicts = list(guard.check_many([picture(90)]))
        else:
            verdicts = asyncio.run(many())
        last = verdicts[-1][1] if way == "acheck_as_completed" else verdicts[-1]
        (check,) = last.shadows
        check.wait()
        assert check.state == "judged"


def test_the_answer_does_not_wait_for_the_shadow() -> None:
    with held() as (slow, go), Guard(LIVE, backend=Watched(), shadow=Guard(STRICT, backend=slow)) as guard:
        verdicts = [guard.check(picture(shade)) for shade in range(20)]
        assert all(verdict.allowed for verdict in verdicts)
        assert {check.state for verdict in verdicts for check in verdict.shadows} == {"waiting"}
        assert verdicts[0].shadows[0].wait(0.01) is None
        go.set()
        assert idle(guard).compared == 20


def test_what_finds_the_queue_full_is_dropped_and_counted() -> None:
    with held() as (slow, go):
        shadow = Shadow(Guard(STRICT, backend=slow), room=3)
        with Guard(LIVE, backend=Watched(), shadow=shadow) as guard:
            guard.check(picture())
            wait_until(lambda: slow.running)  # one is being judged, three may wait
            verdicts = [guard.check(picture(shade)) for shade in range(10)]
            assert [v.shadows[0].state for v in verdicts] == ["waiting"] * 3 + ["dropped"] * 7
            assert verdicts[-1].shadows[0].wait() is None, "nobody waits for what will not come"
            go.set()
            stats = idle(guard)
    assert (stats.sampled, stats.compared, stats.dropped, stats.failed) == (11, 4, 7, 0)


def test_large_images_fill_the_queue_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyguard.checking.shadow._PIXELS", 100)
    with (
        held() as (slow, go),
        Guard(LIVE, backend=Watched(), shadow=Guard(STRICT, backend=slow)) as guard,
    ):
        guard.check(picture())
        wait_until(lambda: slow.running)
        states = [guard.check(picture(side=side)).shadows[0].state for side in (30, 1)]
        assert states == ["waiting", "dropped"], "one image may be larger, if it waits alone"
        go.set()


FAILURES: list[Any] = [
    Failure(FailureKind.ERROR, "the server is down"),
    RuntimeError("it broke"),
    ConfigurationError("the key is wrong"),
    MemoryError(),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_what_goes_wrong_in_a_shadow_reaches_no_answer(
    failure: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "policyguard.shadow")
    with Guard(LIVE, backend=Watched(), shadow=Guard(STRICT, backend=FakeBackend(failure))) as guard:
        for _ in range(3):
            verdict = guard.check(picture())
            assert verdict.allowed
            verdict.shadows[0].wait()
            assert verdict.shadows[0].state == "failed"
        stats = guard.shadow_stats()[0]
    assert (stats.failed, stats.compared, stats.changed) == (3, 0, 0), "a failure is no disagreement"
    assert len(caplog.records) == 1, "said once, not for every image"


def test_what_on_compared_raises_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    compared: list[ImageChange] = []

    def report(change: ImageChange) -> None:
        compared.append(change)
        raise RuntimeError("the disk is full")

    with Guard(LIVE, backend=Watched(), shadow=Shadow(STRICT, on_compared=report)) as guard:
        for _ in range(2):
            guard.check(picture(90)).shadows[0].wait()
        wait_until(lambda: len(compared) == 2)
    assert "on_compared" in caplog.text
    change = compared[0]
    assert (change.changed, change.weaker, change.shift, change.rules) == (True, False, 0.0, ("arms",))
    assert change.before.evidence.image_sha256 == change.after.evidence.image_sha256


def test_disagreements_are_counted_by_direction_and_rule() -> None:
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"], "threshold": 0.9},
        {"id": "smoke", "title": "Smoke", "unsafe": ["smoke"], "threshold": 0.3},
    ]
    live = policy(rules=rules)
    after = policy(rules=[rules[0] | {"threshold": 0.3}, rules[1] | {"threshold": 0.9}])
    guards = {
        shares: Guard(live, backend=FakeBackend(0.45, rules=dict(shares)), shadow=after)
        for shares in ((("arms", 1.0),), (("smoke", 1.0),), (("arms", 0.5), ("smoke", 0.5)))
    }
    results = []
    for guard in guards.values():
        guard.check(picture()).shadows[0].wait()
        results.append(guard.shadow_stats()[0])
        guard.close()
    assert [(s.changed, s.weaker, s.stronger, dict(s.rules)) for s in results] == [
        (1, 0, 1, {"arms": 1}),
        (1, 1, 0, {"smoke": 1}),
        (0, 0, 0, {}),
    ]


def in_sample(data: bytes, share: float) -> bool:
    return int(hashlib.sha256(data).hexdigest()[:13], 16) < share * 16**13


def test_the_share_is_chosen_by_the_hash_of_the_image() -> None:
    images = [png(shade) for shade in range(64)]
    guard = Guard(LIVE, backend=Watched(), shadow=Shadow(STRICT, share=0.25))
    expected = [in_sample(data, 0.25) for data in images]
    for _ in range(2):
        assert [bool(verdict.shadows) for verdict in guard.check_many(images)] == expected
    assert 4 < sum(expected) < 28
    assert idle(guard).sampled == 2 * sum(expected)


def test_what_was_not_judged_is_not_compared(tmp_path: Path) -> None:
    guard = Guard(LIVE, backend=FakeBackend(RuntimeError("down")), shadow=STRICT)
    assert guard.check(picture()).shadows == ()
    assert guard.check(tmp_path / "absent.png").shadows == ()
    assert guard.shadow_stats()[0].sampled == 0


def test_thresholds_are_tried_without_asking_the_model_again() -> None:
    inner = Watched()
    backend = CachedBackend(inner, MemoryCache())
    same_words = policy(defaults={"threshold": 0.2})
    with Guard(LIVE, backend=backend, shadow=same_words) as guard:
        shadow = guard.check(ALWAYS).shadows[0].wait()
    assert shadow is not None
    assert shadow.cached
    assert shadow.outcome is Outcome.VIOLATES
    assert inner.started == 1


def test_an_image_that_its_owner_changes_afterwards_is_judged_as_it_was() -> None:
    with held() as (slow, go), Guard(LIVE, backend=Watched(), shadow=Guard(LIVE, backend=slow)) as guard:
        image = picture(90)
        verdict = guard.check(image)
        image.paste((255, 255, 255), (0, 0, 8, 8))
        go.set()
        shadow = verdict.shadows[0].wait()
        assert shadow is not None
        assert shadow.score == verdict.score


def test_closing_drops_what_waits_and_is_waited_for_by_nobody() -> None:
    with held() as (slow, go):
        guard = Guard(LIVE, backend=Watched(), shadow=Guard(STRICT, backend=slow))
        verdicts = [guard.check(picture(shade)) for shade in range(5)]
        wait_until(lambda: slow.running)
        closing = threading.Thread(target=guard.close)
        closing.start()
        assert [v.shadows[0].wait() for v in verdicts[1:]] == [None] * 4
        go.set()
        closing.join()
        assert verdicts[0].shadows[0].state == "judged"
        assert guard.shadow_stats()[0].dropped == 4
        guard.close()


def test_after_close_nothing_is_taken_in_and_answers_still_come() -> None:
    guard = Guard(LIVE, backend=Watched(), shadow=STRICT)
    guard.close()
    verdict = guard.check(picture())
    assert verdict.allowed
    assert verdict.shadows[0].state == "dropped"


def test_a_program_that_leaves_its_shadow_working_ends() -> None:
    program = """
from PIL import Image
from policyguard import Guard
from policyguard.testing import FakeBackend
slow = Guard("pictosafe/l5", backend=FakeBackend(0.9, delay=0.2))
guard = Guard("pictosafe/l3", backend=FakeBackend(0.1), shadow=slow)
verdicts = [guard.check(Image.new("RGB", (8, 8), (n, 0, 0))) for n in range(40)]
print(sum(check.state == "judged" for verdict in verdicts for check in verdict.shadows) < 40)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


def test_a_verdict_with_shadows_stays_a_value() -> None:
    with held() as (slow, go), Guard(LIVE, backend=Watched(), shadow=Guard(STRICT, backend=slow)) as guard:
        verdict = guard.check(ALWAYS)
        plain = Guard(LIVE, backend=Watched()).check(ALWAYS)
        assert verdict == plain
        assert len({verdict, plain}) == 1
        assert "shadows" not in verdict.to_dict()
        early = pickle.loads(pickle.dumps(verdict))
        assert early.shadows[0].state == "dropped"
        assert early.shadows[0].wait() is None
        go.set()
        shadow = verdict.shadows[0].wait()
        late = pickle.loads(pickle.dumps(verdict))
        assert (late.shadows[0].state, late.shadows[0].wait()) == ("judged", shadow)
        assert copy.deepcopy(verdict).shadows[0] is verdict.shadows[0]
        with pytest.raises(AttributeError, match="cannot be changed"):
            verdict.shadows = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shadow(LIVE, share=0), "share must be above 0"),
        (lambda: Shadow(LIVE, share=1.5), "share must be above 0"),
        (lambda: Shadow(LIVE, share=True), "share must be above 0"),
        (lambda: Shadow(LIVE, share="0.1"), "share must be above 0"),  # type: ignore[arg-type]
        (lambda: Shadow(LIVE, room=0), "room must be a whole number"),
        (lambda: Shadow(LIVE, name=""), "name is empty"),
        (lambda: Shadow(Shadow(LIVE)), "a shadow of a shadow"),
        (lambda: Shadow(LIVE, on_compared="print"), "on_compared cannot be called"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_work_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_shadow_that_cannot_be_loaded_is_refused_at_once() -> None:
    with pytest.raises(PolicyError, match="no-such-policy"):
        Guard(LIVE, backend=FakeBackend(), shadow="no-such-policy")


def test_a_shadow_on_the_same_server_has_calls_of_its_own() -> None:
    backend = RemoteBackend("http://127.0.0.1:9/v1", model="some-model")
    cached = CachedBackend(backend, MemoryCache())
    try:
        beside, beside_cached = backend.aside(), cached.aside()
        assert isinstance(beside_cached, CachedBackend)
        assert beside_cached.cache is cached.cache, "what one asked the other knows"
        assert beside_cached.inner is not backend
        assert beside.model == backend.model
        assert beside._servers is not backend._servers
        beside.close()
        beside_cached.close()
        assert backend._closed is False
    finally:
        backend.close()
    local = FakeBackend()
    assert local.aside() is local


def test_a_copied_check_says_what_was_known() -> None:
    check = ShadowCheck("next")
    assert repr(check) == "<ShadowCheck next: waiting>"
    check.settle("failed")
    assert pickle.loads(pickle.dumps(check)).state == "failed"


def test_a_verdict_in_a_model_of_pydantic_goes_through_json() -> None:
    """As apps put it into their answers, and as an agent's state keeps it."""

    class Answer(BaseModel):
        verdict: Verdict

    plain = Guard(LIVE, backend=Watched()).check(ALWAYS)
    checks = (ShadowCheck("waits"), ShadowCheck("next", "judged", plain))
    verdict = replace(plain, shadows=checks)
    assert Answer(verdict=verdict).verdict.shadows[0] is checks[0]
    again = Answer.model_validate_json(Answer(verdict=verdict).model_dump_json()).verdict
    assert again == verdict
    known = [(check.name, check.state, check.wait()) for check in again.shadows]
    assert known == [("waits", "dropped", None), ("next", "judged", plain)]
