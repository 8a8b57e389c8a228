"""``Guard.stats``: what a guard counts about itself."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from backends.transformers.support import picture, policy, requests, tiny_backend
from policyguard import Guard
from policyguard.backends import CascadeBackend, GuardStats, Stage
from policyguard.backends.stats import Counters
from policyguard.testing import FakeBackend

LONG = policy(words="None of it may be shown. " * 20)


def test_a_local_guard_counts_passes_batches_tokens_and_prefixes() -> None:
    guard = Guard(LONG, backend=tiny_backend("qwen3_vl"))
    assert guard.stats() == GuardStats()
    one = guard.backend
    same = [picture(n, (64, 64)) for n in range(8)]
    assert len(list(guard.check_many(same))) == 8
    stats = guard.stats()
    assert (stats.images, stats.cached, stats.frames) == (8, 0, 8)
    assert sum(stats.batch_sizes.values()) == stats.passes
    assert stats.prefix_hits + stats.prefix_misses == stats.passes + 2  # the two that show that it sees
    assert stats.prefix_misses == 1
    assert stats.tokens_reused > stats.tokens_computed > 0
    assert stats.tokens_padding == 0 == stats.padding_share
    assert set(stats.seconds) == {"decode", "judge", "prepare", "wait", "model", "read"}
    assert all(seconds >= 0 for seconds in stats.seconds.values())
    assert json.loads(json.dumps(stats.to_dict()))["frames"] == 8

    other = guard.with_policy(policy("other"))
    assert other.stats().images == 0
    assert other.stats().passes == stats.passes  # the model is the same
    assert other.backend is one


def test_padding_counts_where_frames_of_one_batch_differ_in_size() -> None:
    backend = tiny_backend("qwen3_vl")
    unequal = requests(2, LONG)
    runner = backend._load()
    runner.attempt(backend._plans_of(runner, LONG)[0], unequal, runner.see(unequal))
    stats = backend.stats()
    assert stats.batch_sizes == {2: 1}
    assert stats.tokens_padding > 0
    assert 0 < stats.padding_share < 0.5


def test_counts_from_many_threads_add_up() -> None:
    counters = Counters()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(400):
            pool.submit(lambda: (counters.add(batch=2, tokens_computed=3), counters.say("once")))
    stats = counters.snapshot()
    assert (stats.passes, stats.frames, stats.tokens_computed) == (400, 800, 1200)
    assert stats.fallbacks == ("once",)


def test_a_fallback_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    for _ in range(3):
        counters.say("a batch did not fit")
    assert [record.getMessage() for record in caplog.records] == ["a batch did not fit"]


def test_a_guard_without_a_model_here_counts_images_and_seconds_only() -> None:
    guard = Guard(policy(), backend=FakeBackend(0.1), cache="memory")
    for _ in range(2):
        guard.check(picture(1))
    stats = guard.stats()
    assert (stats.images, stats.cached, stats.passes) == (2, 1, 0)
    assert set(stats.seconds) == {"decode", "judge"}
    assert GuardStats(images=2, cached=1, seconds=stats.seconds) == stats


@pytest.mark.parametrize("normalise", [False, True])
def test_each_image_counts_once(normalise: bool) -> None:
    guard = Guard(policy(), backend=FakeBackend(0.1))
    list(guard.check_many([picture(1), b"no image", picture(2)], normalise=normalise))
    assert guard.stats().images == 3


def test_guards_in_a_row_are_told_apart_and_summed_up() -> None:
    cheap, strong = tiny_backend("qwen3_vl"), tiny_backend("qwen2_5_vl")
    row = CascadeBackend(
        [Stage(backend=cheap, band=(0.0, 1.0), name="cheap"), Stage(backend=strong, name="strong")]
    )
    guard = Guard(LONG, backend=row)
    guard.check(picture(1))
    stats = guard.stats()
    assert list(stats.stages) == ["cheap", "strong"]
    assert stats.passes == sum(one.passes for one in stats.stages.values()) == 2


def test_what_another_process_counted_is_added_up() -> None:
    there, here = Counters(), Counters()
    told = there.snapshot()
    for turn in range(2):
        there.add(batch=2, tokens_computed=5)
        there.spent("model", 1.0)
        there.note("words: why")
        there.say("a batch did not fit")
        there.set(threads=turn + 1)
        now = there.snapshot()
        here.absorb(now.since(told))
        told = now
    assert here.snapshot() == there.snapshot()


def test_seconds_before_the_first_pass_are_told_with_it() -> None:
    counters = Counters()
    counters.spent("prepare", 2.0)
    assert counters.news() == GuardStats()
    counters.add(batch=1)
    told = counters.news()
    assert (told.passes, told.seconds) == (1, {"prepare": 2.0})
    assert counters.news() == GuardStats()
