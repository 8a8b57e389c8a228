"""The demo finds its own examples: it points at what the verdicts show, and admits it when they do not."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from cli.support import Captured
from policyguard import Guard
from policyguard.assessment import Assessment, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.cli import main
from policyguard.cli.demo import draw, report
from policyguard.images import decode
from policyguard.runs.exits import ExitCode
from policyguard.testing import FakeBackend

IMAGES = Path(__file__).parents[2] / "examples" / "images"


def printed(blocked: dict[str, set[str]], undecided: str = "chart") -> str:
    """What the demo prints when exactly these images are blocked under these levels."""
    names = {image.tobytes(): name for name, image in draw().items()}

    def answer(request: AssessmentRequest) -> Assessment | float:
        name, level = names[request.frame.tobytes()], request.policy.id.rpartition("/")[2]
        if name == undecided:
            return Assessment(Rating.UNDECIDED, 0.5, 1.0, 0.98)
        return 0.97 if level in blocked.get(name, ()) else 0.02

    out = io.StringIO()
    guard = Guard("pictosafe/l1", backend=FakeBackend(answer))
    report(guard, Console(file=out, width=400))
    return out.getvalue()


def row(out: str, image: str) -> str:
    return next(line for line in out.splitlines() if line.startswith(image))


def test_it_points_at_an_image_with_two_answers_and_at_a_pair_with_one_difference() -> None:
    out = printed({"museum": {"l4"}, "pair-dagger": {"l3"}, "bar": {"l2", "l5"}})
    assert "pair-dagger and pair-camera differ in" in out
    assert "pictosafe/l3 blocks only pair-dagger" in out
    assert "is allowed under pictosafe/l" in out
    assert "on chart pico answers UNDECIDED" in " ".join(out.split())
    assert 5 == row(out, "chart").count("UNDECIDED")


def test_it_finds_other_examples_when_the_answers_are_others() -> None:
    out = printed({"pair-camera": {"l5"}})
    assert "pictosafe/l5 blocks only pair-camera" in out
    assert "pair-camera is allowed under pictosafe/l" in out
    assert "and blocked under pictosafe/l5" in out


def test_it_admits_that_there_is_nothing_to_show() -> None:
    out = printed({}, undecided="")
    assert 2 == out.count("pico got something wrong")
    assert "No image was UNDECIDED throughout" in out
    assert 5 == row(out, "chart").count("ALLOW")


def test_the_example_images_are_those_of_the_demo() -> None:
    files = {path.stem: decode(path).frames[0].tobytes() for path in IMAGES.glob("*.png")}
    assert files == {name: image.tobytes() for name, image in draw().items()}


def test_the_command_judges_with_the_packaged_model_alone(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("POLICYGUARD_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("POLICYGUARD_MODEL", "somebody/else")
    assert main(["demo"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert "blocks only pair-dagger" in " ".join(out.split())
    assert "45 verdicts in" in out
    assert "on chart pico answers UNDECIDED" in " ".join(out.split())
    for policy, row_of in (
        ("l1", ("ALLOW", "ALLOW")),
        ("l3", ("ALLOW", "BLOCK")),
    ):  # as docs/two-policies.png shows
        for name, action in zip(("pair-camera", "pair-dagger"), row_of, strict=True):
            assert re.split(r"\s{2,}", row(out, name))[int(policy[1])].startswith(action)
