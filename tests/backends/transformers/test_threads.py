"""One backend serves many threads, and event loops."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from backends.transformers.support import (
    PlainDialect,
    assessments,
    distance,
    furthest,
    picture,
    policy,
    requests,
    tiny_backend,
)
from policyguard.assessment import Reading
from policyguard.backends.base import AssessmentRequest, Backend
from support.tiny_models import FAMILIES, Family


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_threads_get_the_answers_that_one_thread_gets(family: Family) -> None:
    """Pictures of many sizes, several policies, both readings: nothing leaks between requests."""
    policies = [policy(f"p{n}", rules=1 + n) for n in range(3)]
    asked = [
        AssessmentRequest(picture(n), policies[n % 3], Reading.EXPLAIN if n % 5 == 0 else Reading.FAST)
        for n in range(24)
    ]
    alone = tiny_backend(family)
    expected = [assessments(alone.assess([request]))[0] for request in asked]
    shared = tiny_backend(family)  # not loaded yet: eight threads come to load it at once
    with ThreadPoolExecutor(8) as pool:
        found = [found for [found] in pool.map(lambda one: assessments(shared.assess([one])), asked * 2)]
    for one, two in zip(expected * 2, found, strict=True):
        assert distance(one, two) < 1e-5
        assert (one.rating, one.category, one.rationale) == (two.rating, two.category, two.rationale)


def test_batches_from_threads_do_not_mix() -> None:
    shared = tiny_backend("qwen2_5_vl")
    batches = [requests(3, policy(f"p{n}", rules=2)) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: assessments(shared.assess(batch)), batches))
    for batch, answers in zip(batches, found, strict=True):
        assert furthest(assessments(shared.assess(batch)), answers) < 1e-5


def test_an_event_loop_gets_the_same_answers_and_is_not_blocked() -> None:
    """The model waits for what only a loop that goes on can do."""
    backend = tiny_backend("qwen3_vl")
    expected = assessments(backend.assess(requests(4, policy())))
    begun, released = Event(), Event()

    def held(*_: object) -> None:
        begun.set()
        released.wait()

    backend._load().loaded.model.register_forward_pre_hook(held)

    async def judge() -> list[object]:
        work = asyncio.gather(*(backend.aassess([request]) for request in requests(4, policy())))
        await asyncio.to_thread(begun.wait)
        released.set()
        return [answer for [answer] in await work]

    assert furthest(expected, assessments(asyncio.run(judge()))) < 1e-5


def test_closing_waits_for_the_batch_that_runs() -> None:
    backend = tiny_backend("qwen3_vl").__enter__()
    backend.warm()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(backend.assess, requests(4, policy()))
        while not running.running():
            pass
        backend.close()
        error = running.exception()
    if error is None:
        assessments(running.result())
    else:  # closed before the batch began
        assert "is closed" in str(error)


def test_it_is_a_backend() -> None:
    backend = tiny_backend("qwen3_vl", PlainDialect())
    assert isinstance(backend, Backend)
    assert backend.preferred_batch == 4
    assert tiny_backend("qwen3_vl", max_batch=7).preferred_batch == 7
