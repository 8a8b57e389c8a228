"""Which frames go through the model together, and what becomes of a batch that does not fit."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from backends.transformers.support import (
    assessments,
    furthest,
    picture,
    policy,
    shared_backend,
    tiny_backend,
)
from policyguard import Guard
from policyguard.assessment import Assessment, Failure
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.stats import Counters
from policyguard.backends.transformers.batching import MOST_ON_GPU, WASTE, Batching, is_out_of_memory
from support.tiny_models import FAMILIES, Family

LARGE, SMALL = (448, 448), (64, 64)


def batching(family: Family = "qwen3_vl", most: int = 4, **options: Any) -> Batching:
    processor = shared_backend(family)._load().loaded.processor
    return Batching(processor, most, Counters(), **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_frame_is_in_one_batch_and_little_of_it_is_padding(family: Family) -> None:
    dice = random.Random(3)
    made = batching(family)
    for count in (0, 1, 7, 60):
        sizes = [(dice.randrange(40, 500), dice.randrange(40, 500)) for _ in range(count)]
        found = made.batches(sizes)
        assert sorted(index for batch in found for index in batch) == list(range(count))
        for batch in found:
            lengths = [made.tokens(sizes[index]) or 0 for index in batch]
            assert len(batch) <= 4
            assert max(lengths) * len(batch) - sum(lengths) <= WASTE * max(lengths) * len(batch)


def test_frames_of_one_size_fill_batches_in_order() -> None:
    assert batching().batches([SMALL] * 10) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batching().batches([LARGE, SMALL, LARGE, SMALL]) == [[1, 3], [0, 2]]


def test_where_a_processor_cannot_count_frames_are_only_sorted() -> None:
    made = Batching(object(), 4, Counters())
    assert made.tokens(SMALL) is None
    assert made.batches([LARGE, SMALL, LARGE, SMALL, LARGE]) == [[1, 3, 0, 2], [4]]


def test_a_batch_that_did_not_fit_makes_later_ones_half_as_large_and_says_so_once() -> None:
    made = batching()
    each = made.tokens(LARGE) or 0
    made.halve([LARGE] * 4)
    assert made.room == 2 * each
    assert made.batches([LARGE] * 4) == [[0, 1], [2, 3]]
    assert made.batches([SMALL] * 4) == [[0, 1, 2, 3]]  # they are small enough
    made.halve([LARGE] * 2)
    assert made.batches([LARGE] * 2) == [[0], [1]]  # a batch of one is never refused
    assert made._counters.snapshot().fallbacks == (
        "a batch did not fit into memory: batches are made smaller from now on",
    )


@dataclass
class OnGpu:
    """Numbers as a GPU's allocator gives them."""

    now: int = 1_000
    most: int = 1_000
    left: int = 0

    def used(self) -> int:
        return self.now

    def peak(self) -> int:
        return self.most

    def free(self) -> int:
        return self.left


def test_on_a_gpu_the_room_follows_from_what_a_pass_took() -> None:
    gpu = OnGpu()
    made = batching(most=16, grows=True, memory=gpu)
    each = made.tokens(LARGE) or 0
    with made.measured([LARGE]):
        gpu.most, gpu.left = 1_000 + 10 * each, 10 * each * 40
    assert made.room == 32 * each  # 80 percent of the 40 that there is memory for
    assert made.most == MOST_ON_GPU
    assert [len(batch) for batch in made.batches([LARGE] * 70)] == [32, 32, 6]
    with made.measured([LARGE] * 32):
        gpu.left = 0  # a pass that shows nothing new, as its peak is no higher
    assert made.room == 32 * each
    fixed = batching(most=16, memory=gpu)
    with fixed.measured([LARGE]):
        gpu.most, gpu.left = gpu.most + 10**6, 10**12
    assert fixed.most == 16


def too_small_for(tokens: int, error: Exception, model: Any) -> list[int]:
    """``model``, of which a subclass raises ``error`` for passes of more than so many tokens; their sizes."""
    sizes: list[int] = []

    class Small(type(model)):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            sizes.append(kwargs["input_ids"].numel())
            if sizes[-1] > tokens:
                raise error
            return super().forward(*args, **kwargs)

    model.__class__ = Small
    return sizes


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
    ],
)
def test_memory_that_is_too_small_loses_no_picture(error: Exception) -> None:
    same = [AssessmentRequest(picture(seed, (96, 96)), policy()) for seed in range(16)]
    expected = assessments(tiny_backend("qwen3_vl", max_batch=16).assess(same))
    backend = tiny_backend("qwen3_vl", max_batch=16)
    one = backend.assess(same[:1])
    before = backend.stats()
    backend.assess(same[:1])
    each = backend.stats().since(before).tokens_computed
    sizes = too_small_for(5 * each, error, backend._load().loaded.model)
    found = assessments(backend.assess(same))
    assert furthest(found, expected) < 1e-5
    assert furthest(assessments(one), expected[:1]) < 1e-5
    first = len(sizes)
    assert first < 16  # halves, not one by one
    assert furthest(assessments(backend.assess(same)), expected) < 1e-5
    assert len(sizes) - first == 4  # batches of four fit, and no other is tried
    assert len(backend.stats().fallbacks) == 1


def test_a_picture_that_fits_nowhere_is_an_error_and_the_others_are_judged() -> None:
    backend = tiny_backend("qwen3_vl", max_batch=8)
    asked = [AssessmentRequest(picture(n, LARGE if n == 3 else SMALL), policy()) for n in range(8)]
    backend.assess(asked[:1])
    too_small_for(150, torch.OutOfMemoryError("CUDA out of memory"), backend._load().loaded.model)
    found = backend.assess(asked)
    assert [type(one) for one in found] == [Failure if n == 3 else Assessment for n in range(8)]
    assert isinstance(found[3], Failure)
    assert "out of memory on an image of 448 x 448" in found[3].reason


@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_in_order_and_the_same_whatever_the_batches(family: Family) -> None:
    """Mixed shapes, several policies, every size of batch: logits in float32 differ by less than 1e-5."""
    both = [policy("one"), policy("two", rules=2)]
    asked = [AssessmentRequest(picture(seed), both[seed % 3 == 0]) for seed in range(17)]
    alone = [assessments(shared_backend(family).assess([request]))[0] for request in asked]
    for most in (2, 5, 17):
        found = assessments(tiny_backend(family, max_batch=most).assess(asked))
        assert furthest(found, alone) < 1e-5


def test_many_images_are_prepared_while_the_model_runs_and_come_in_order() -> None:
    backend = tiny_backend("qwen3_vl")
    assert backend.preferred_workers == 2
    images = [picture(seed) for seed in range(30)]
    guard = Guard(policy(), backend=backend)
    one_by_one = [guard.check(image).evidence.image_sha256 for image in images]
    assert [one.evidence.image_sha256 for one in guard.check_many(images)] == one_by_one


def test_what_counts_as_too_little_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("a kernel is broken"))
