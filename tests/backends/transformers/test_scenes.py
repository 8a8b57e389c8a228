"""pico gives the same verdicts on scenes however they are put together, prepared and shared out."""

from __future__ import annotations

import os
from random import Random

import pytest

from policyguard import Guard
from policyguard.backends import ReplicatedBackend, TransformersBackend
from policyguard.pictosafe.render import Renderer
from policyguard.pictosafe.scene import draw_scene
from policyguard.verdict import Verdict

POLICY = "pictosafe/l3"


def scenes(count: int) -> list[object]:
    dice, renderer = Random(11), Renderer("noto")
    return [renderer.draw(draw_scene(dice)) for _ in range(count)]


def same(found: list[Verdict], expected: list[Verdict]) -> None:
    """In order, and in float32 to within rounding."""
    assert [one.evidence.image_sha256 for one in found] == [one.evidence.image_sha256 for one in expected]
    assert [one.outcome for one in found] == [one.outcome for one in expected]
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], abs=1e-5)


@pytest.mark.parametrize("count", [24, pytest.param(1_000, marks=pytest.mark.slow)])
def test_scenes_get_one_verdict_in_any_batch_with_any_number_of_threads_and_replicas(count: int) -> None:
    images = scenes(count)
    with Guard(POLICY, backend=TransformersBackend("pico", dtype="float32", max_batch=1)) as guard:
        expected = list(guard.check_many(images, workers=1))
    wholes = {one.outcome.value for one in expected}
    assert {"complies", "violates"} <= wholes
    for settings in ({}, {"max_batch": 16}, {"max_batch": 3, "threads": 2}):
        with Guard(POLICY, backend=TransformersBackend("pico", dtype="float32", **settings)) as guard:
            same(list(guard.check_many(images)), expected)
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
