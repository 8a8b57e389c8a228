"""The demo finds its own examples: it points at what the verdicts show, and admits it when they do not."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from policyguard import Guard
from policyguard.assessment import Assessment, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.images import decode
from policyguard.testing import FakeBackend

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(demo: ModuleType, blocked: dict[str, set[str]], undecided: str = "chart") -> str:
    """What the demo prints when exactly these images are blocked under these levels."""
    names = {decode(path).frames[0].tobytes(): path.stem for path in (EXAMPLES / "images").glob("*.png")}

    def answer(request: AssessmentRequest) -> Assessment | float:
        name, level = names[request.frame.tobytes()], request.policy.id.rpartition("/")[2]
        if name == undecided:
            return Assessment(Rating.UNDECIDED, 0.5, 1.0, 0.98)
        return 0.97 if level in blocked.get(name, ()) else 0.02

    out = io.StringIO()
    guard = Guard("pictosafe/l1", backend=FakeBackend(answer))
    demo.report(guard, Console(file=out, width=400))
    return out.getvalue()


def row(out: str, image: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(image))


def test_it_points_at_an_image_with_two_answers_and_at_a_pair_with_one_difference(demo: ModuleType) -> None:
    out = printed(demo, {"museum": {"l4"}, "pair-dagger": {"l3"}, "bar": {"l2", "l5"}})
    assert "pair-dagger.png and pair-camera.png differ in" in out
    assert "pictosafe/l3 blocks only pair-dagger.png" in out
    assert "is allowed under pictosafe/l" in out
    assert "on chart.png pico answers UNDECIDED" in out
    assert 5 == row(out, "chart.png").count("UNDECIDED")


def test_it_finds_other_examples_when_the_answers_are_others(demo: ModuleType) -> None:
    out = printed(demo, {"pair-camera": {"l5"}})
    assert "pictosafe/l5 blocks only pair-camera.png" in out
    assert "pair-camera.png is allowed under pictosafe/l" in out
    assert "and blocked under pictosafe/l5" in out


def test_it_admits_that_there_is_nothing_to_show(demo: ModuleType) -> None:
    out = printed(demo, {}, undecided="")
    assert 2 == out.count("pico got something wrong")
    assert "No image was UNDECIDED throughout" in out
    assert 5 == row(out, "chart.png").count("ALLOW")
