"""pico gives the same verdicts on scenes however they are put together, prepared and shared out."""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest

from policyguard import Guard
from policyguard.backends import ReplicatedBackend, TransformersBackend
from policyguard.backends.transformers import ways
from policyguard.backends.transformers.runner import Runner
from policyguard.pictosafe.render import Renderer
from policyguard.pictosafe.scene import draw_scene
from policyguard.verdict import Verdict

POLICY = "pictosafe/l3"

SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"max_batch": 16},
    {"max_batch": 3, "threads": 2},
    {"prefix_cache_bytes": 0},
    {"feature_cache_bytes": 0},
    {"attention": "matmul"},
)
"""Held against one scene at a time and one call after the other."""


def scenes(count: int) -> list[object]:
    dice, renderer = Random(11), Renderer("noto")
    return [renderer.draw(draw_scene(dice)) for _ in range(count)]


def same(found: list[Verdict], expected: list[Verdict], *, within: float = 1e-5) -> None:
    """In order, and in float32 to within rounding."""
    assert [one.evidence.image_sha256 for one in found] == [one.evidence.image_sha256 for one in expected]
    assert [one.outcome for one in found] == [one.outcome for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=within)


@pytest.mark.parametrize("count", [24, pytest.param(1_000, marks=pytest.mark.slow)])
def test_scenes_get_one_verdict_in_any_batch_with_any_number_of_threads_and_replicas(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever is used again, or is not."""
    monkeypatch.setattr(ways, "LONG", 1)
    images = scenes(count)
    with Guard(POLICY, backend=TransformersBackend("pico", dtype="float32", max_batch=1)) as guard:
        expected = list(guard.check_many(images, workers=1))
    wholes = {one.outcome.value for one in expected}
    assert {"complies", "violates"} <= wholes
    for settings in SETTINGS:
        with Guard(POLICY, backend=TransformersBackend("pico", dtype="float32", **settings)) as guard:
            # Another attention, eager too, moves one scene in a thousand by 2e-5.
            same(list(guard.check_many(images)), expected, within=1e-4 if "attention" in settings else 1e-5)
    backend = TransformersBackend("pico", dtype="float32")
    backend.warm()
    backend._load().batching.room = 1  # as after many batches that did not fit
    with Guard(POLICY, backend=backend) as guard:
        same(list(guard.check_many(images)), expected)
        assert set(guard.stats().batch_sizes) == {1}
    if os.name == "posix" and count > 100:
        inner = TransformersBackend("pico", dtype="float32")
        with Guard(POLICY, backend=ReplicatedBackend(inner, 2)) as guard:
            same(list(guard.check_many(images)), expected)
            guard.backend.close()


@pytest.mark.parametrize("count", [12, pytest.param(1_000, marks=pytest.mark.slow)])
def test_explanations_are_those_of_a_second_reading_of_the_prompt(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = scenes(count)
    found = []
    for _ in range(2):
        backend = TransformersBackend("pico", dtype="float32")
        with Guard(POLICY, backend=backend, explain=True) as guard:
            verdicts = list(guard.check_many(images))
            found.append([(one.outcome, one.rationale, one.reason) for one in verdicts])
            stats = guard.stats()
        assert (stats.explained_there, stats.explained_in_full)[len(found) % 2] == 0
        monkeypatch.setattr(Runner, "_from_there", lambda *_: None)
    assert found[0] == found[1]
