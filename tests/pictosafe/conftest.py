"""Guards for the benchmark to measure: real Guards, on backends that know or ignore the truth."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policyguard import Guard
from policyguard.backends.base import AssessmentRequest
from policyguard.pictosafe.benchmark import Benchmark, Sizes, draw_benchmark
from policyguard.pictosafe.rules import LEVELS, is_unsafe
from policyguard.testing import FakeBackend

SIZES = Sizes(scenes=40, pairs=16, held_out=24, flips=6)


@pytest.fixture(scope="session")
def benchmark() -> Benchmark:
    return draw_benchmark(5, sizes=SIZES)


@pytest.fixture(scope="session")
def oracle(benchmark: Benchmark) -> Callable[[AssessmentRequest], float]:
    """Answers with the exact label of the scene that the frame shows."""
    scenes = {shot.source().tobytes(): shot.scene for shot in benchmark.all_shots()}  # type: ignore[union-attr]

    def answer(request: AssessmentRequest) -> float:
        return float(is_unsafe(request.policy, scenes[request.frame.tobytes()]))

    return answer


@pytest.fixture
def guard_with() -> Callable[[object], Guard]:
    """A guard whose backend answers as told."""

    def build(answer: object) -> Guard:
        return Guard(policy=LEVELS[0], backend=FakeBackend(answer))  # type: ignore[arg-type]

    return build
