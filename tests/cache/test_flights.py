"""Single flight: however many ask the same at once, one asks the model, and nobody hangs when it fails."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from cache.support import assessment, picture, policy, request
from policyguard import Guard, Outcome
from policyguard.assessment import Assessment, Failure, FailureKind
from policyguard.backends.base import AssessmentRequest
from policyguard.cache import CachedBackend, MemoryCache
from policyguard.errors import ConfigurationError
from policyguard.testing import FakeBackend
from support.clock import deadline
from support.guards import Watched
from support.waiting import until, wait_until

CALLERS = 64


def cached(backend: FakeBackend) -> CachedBackend:
    return CachedBackend(backend, MemoryCache())


def together(callers: int, call: Callable[[], object]) -> list[object]:
    gate = threading.Barrier(callers)

    def enter(_: int) -> object:
        gate.wait()
        return call()

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(enter, range(callers)))


def test_64_threads_that_ask_the_same_at_once_cost_one_call() -> None:
    backend = FakeBackend(0.9, delay=0.2)
    guard = Guard(policy(), backend=backend, cache="memory")
    found = together(CALLERS, lambda: guard.check(picture()).outcome)
    assert [Outcome.VIOLATES] * CALLERS == found
    assert 1 == len(backend.requests)


def test_64_tasks_that_ask_the_same_at_once_cost_one_call() -> None:
    backend = FakeBackend(0.9, delay=0.2)
    guard = Guard(policy(), backend=backend, cache="memory")

    async def main() -> list[Outcome]:
        return [v.outcome for v in await asyncio.gather(*(guard.acheck(picture()) for _ in range(CALLERS)))]

    assert [Outcome.VIOLATES] * CALLERS == asyncio.run(main())
    assert 1 == len(backend.requests)


def test_equal_images_in_one_batch_are_asked_about_once() -> None:
    backend = FakeBackend(0.1, preferred_batch=8)
    guard = Guard(policy(), backend=backend, cache="memory")
    assert 12 == len(list(guard.check_many([picture(1), picture(2), picture(1)] * 4)))
    assert 2 == len(backend.requests)


def test_callers_with_other_thresholds_at_the_same_time_get_their_own_decision() -> None:
    backend = FakeBackend(0.4, delay=0.1)
    inner = cached(backend)
    mild, strict = policy(), policy(threshold=0.3)

    async def main() -> list[Outcome]:
        guards = [Guard(one, backend=inner) for one in (mild, strict)]
        return [v.outcome for v in await asyncio.gather(*(guard.acheck(picture()) for guard in guards))]

    assert [Outcome.COMPLIES, Outcome.VIOLATES] == asyncio.run(main())


def joined(inner: CachedBackend) -> Callable[[], int]:
    """How many have asked so far what ``inner`` was asked: whoever leads a flight, and who follows."""
    number, join = itertools.count(), inner._flights.join
    joins: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Any:
        flight = join(*arguments, **options)
        joins.append(next(number))
        return flight

    inner._flights.join = counting  # type: ignore[method-assign]
    return lambda: len(joins)


def test_a_failure_goes_to_all_who_wait_and_is_not_stored() -> None:
    backend = Watched(lambda _: wait_until(lambda: asked() >= 8))
    backend.enqueue(Failure(FailureKind.ERROR, "the server is down"))
    inner = cached(backend)
    asked = joined(inner)
    guard = Guard(policy(), backend=inner)
    assert [Outcome.ERROR] * 8 == together(8, lambda: guard.check(picture()).outcome)
    assert 1 == len(backend.requests)
    assert [Outcome.COMPLIES, Outcome.COMPLIES] == [guard.check(picture()).outcome for _ in range(2)]
    assert 2 == len(backend.requests)


def test_a_call_that_raises_leaves_the_others_to_ask_for_themselves_at_once() -> None:
    first, others = threading.Semaphore(1), threading.Barrier(15)

    def during(_: object) -> None:
        if first.acquire(blocking=False):
            wait_until(lambda: asked() >= 16)
        else:
            others.wait()  # opens once all of them are inside
        raise RuntimeError("gone")

    backend = Watched(during)
    inner = cached(backend)
    asked = joined(inner)
    guard = Guard(policy(), backend=inner)
    assert [Outcome.ERROR] * 16 == together(16, lambda: guard.check(picture()).outcome)
    assert backend.started == 16
    assert inner.cache.info().entries <= 1


def test_a_mistake_in_the_set_up_raises_for_everyone() -> None:
    backend = FakeBackend(ConfigurationError("no such model"), delay=0.05)
    inner = cached(backend)

    def call() -> object:
        with pytest.raises(ConfigurationError, match="no such model"):
            inner.assess([request()])
        return True

    assert all(together(8, call))


class Gated(FakeBackend):
    """Answers a coroutine when ``gate`` is opened."""

    def __init__(self, answer: float) -> None:
        super().__init__(answer)
        self.gate = asyncio.Event()
        self.entered = 0

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        self.entered += 1
        await self.gate.wait()
        return self.assess(requests)


def test_cancelling_the_one_who_asks_neither_cancels_nor_hangs_the_others() -> None:
    async def main() -> None:
        backend = Gated(0.9)
        inner = cached(backend)
        leader = asyncio.create_task(inner.aassess([request()]))
        await until(lambda: backend.entered == 1)
        followers = [asyncio.create_task(inner.aassess([request()])) for _ in range(5)]
        await asyncio.sleep(0.05)
        leader.cancel()
        await until(lambda: backend.entered == 2)
        assert leader.cancelled()
        backend.gate.set()
        found = await asyncio.gather(*followers)
        assert all(isinstance(one[0], Assessment) for one in found)
        assert 1 == backend.calls

    asyncio.run(main())


def test_cancelling_one_who_waits_disturbs_nobody() -> None:
    async def main() -> None:
        backend = Gated(0.9)
        inner = cached(backend)
        tasks = [asyncio.create_task(inner.aassess([request()])) for _ in range(4)]
        await until(lambda: backend.entered == 1)
        await asyncio.sleep(0.05)
        tasks[-1].cancel()
        await asyncio.sleep(0.05)
        backend.gate.set()
        assert 3 == len(await asyncio.gather(*tasks[:3]))
        assert 1 == backend.calls

    asyncio.run(main())


def test_a_blocking_check_inside_the_event_loop_that_asks_does_not_wait_for_itself() -> None:
    async def main() -> None:
        backend = Gated(0.9)
        inner = cached(backend)
        leader = asyncio.create_task(inner.aassess([request()]))
        await until(lambda: backend.entered == 1)
        assert isinstance(inner.assess([request()])[0], Assessment)
        backend.gate.set()
        await leader

    asyncio.run(main())


def test_nobody_waits_past_its_own_deadline_for_another_s_answer() -> None:
    release = threading.Event()

    def slow(_: AssessmentRequest) -> float:
        release.wait()
        return 0.1

    inner = cached(FakeBackend(slow))
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(inner.assess, [request()])
        wait_until(lambda: len(inner._flights))
        (late,) = inner.assess([request(deadline=deadline(0.1))])
        release.set()
        assert isinstance(late, Failure)
        assert (FailureKind.ERROR, True) == (late.kind, late.retryable)
        assert isinstance(leader.result()[0], Assessment)


def test_a_failure_for_want_of_time_is_the_leader_s_alone() -> None:
    def hurried(one: AssessmentRequest) -> Failure | float:
        if one.deadline is None:
            return 0.1
        under_way.set()
        wait_until(lambda: deadline(0.0) > one.deadline)
        return Failure(FailureKind.ERROR, "timed out", retryable=True)

    under_way = threading.Event()
    inner = cached(FakeBackend(hurried))
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(inner.assess, [request(deadline=deadline(0.3))])
        under_way.wait()
        (patient,) = inner.assess([request()])
        assert isinstance(patient, Assessment)
        assert isinstance(leader.result()[0], Failure)


def test_two_batches_that_share_questions_in_opposite_order_do_not_wait_for_each_other_forever() -> None:
    inner = cached(FakeBackend(0.1, delay=0.05))
    orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["a", "c", "b"]] * 4
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda names: inner.assess([request(name) for name in names]), orders))
    assert all(len(one) == 3 and all(isinstance(result, Assessment) for result in one) for one in found)


class Drifting(FakeBackend):
    """Its weights change while it answers."""

    revision = "0"

    @property
    def model(self):  # type: ignore[no-untyped-def]
        return replace(super().model, revision=self.revision)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
        found = super().assess(requests)
        self.revision = "1"
        return found


def test_an_answer_during_which_the_model_changed_is_stored_under_neither() -> None:
    backend = Drifting(0.1)
    guard = Guard(policy(), backend=backend, cache="memory")
    assert [False, False, True] == [guard.check(picture()).cached for _ in range(3)]


def test_nothing_is_left_behind_by_ten_thousand_questions() -> None:
    backend = FakeBackend(0.1)
    inner = CachedBackend(backend, MemoryCache(max_entries=100))
    for number in range(10_000):
        inner.assess([request(str(number))])
    assert (0, 100) == (len(inner._flights), inner.cache.info().entries)


@pytest.mark.parametrize("answers", [[], [assessment(), assessment()]])
def test_a_backend_that_gives_too_few_or_too_many_answers_gives_failures(answers: list[Assessment]) -> None:
    class Wrong(FakeBackend):
        def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]:
            return list(answers)

    inner = cached(Wrong())
    assert isinstance(inner.assess([request()])[0], Failure)
    assert 0 == inner.cache.info().entries


def test_a_closed_backend_answers_nothing_from_the_cache() -> None:
    backend, cache = FakeBackend(0.1), MemoryCache()
    inner = CachedBackend(backend, cache, owns_inner=True)
    inner.assess([request()])
    inner.close()
    assert backend.closed
    assert 1 == cache.info().entries
    with pytest.raises(ConfigurationError, match="closed"):
        inner.assess([request()])
