"""The examples run, and block what they should."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from integrations.http.pictures import GREEN, RED, colour_guard
from policyguard import ConfigurationError, Guard, PolicyViolation
from policyguard.assessment import Failure, FailureKind
from policyguard.testing import FakeBackend
from support.examples import ROOT, example


def test_the_chain_answers_about_one_picture_and_blocks_the_other() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "examples" / "langchain_chain.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "pair-camera.png: I see a picture." == lines[0]
    assert "block (violates" in lines[1]
    assert "block (violates" in lines[2]


@dataclass
class Output:
    """What a pipeline of diffusers gives."""

    images: Any
    nsfw_content_detected: Any = None


class Pipeline:
    """Gives the pictures that it is told to, and counts its calls."""

    def __init__(self, *images: Any) -> None:
        self.images, self.calls, self.device = list(images), 0, "cpu"

    def __call__(self, prompt: str, **_: Any) -> Output:
        self.calls += 1
        return Output(self.images)


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (16, 8), colour)


def test_a_generated_picture_that_is_blocked_turns_grey_in_its_place() -> None:
    green, red = plain(GREEN), plain(RED)
    pipeline = Pipeline(green, red, plain(GREEN))
    out = example("diffusers_guard").GuardedPipeline(pipeline, colour_guard()[0])("a street")
    assert 1 == pipeline.calls
    assert [False, True, False] == out.blocked
    assert out.images[0] is green
    assert (red.size, (128, 128, 128)) == (out.images[1].size, out.images[1].getpixel((3, 3)))
    assert red not in out.pipeline_output.images
    assert "red" == out.verdicts[1].findings[0].rule


def test_the_pipeline_can_be_told_to_raise() -> None:
    guarded = example("diffusers_guard").GuardedPipeline(
        Pipeline(plain(RED)), colour_guard()[0], on_block="raise"
    )
    with pytest.raises(PolicyViolation):
        guarded("a street")


def test_no_picture_passes_while_the_guard_is_down() -> None:
    guard = Guard(policy="safeedit/l3", backend=FakeBackend(Failure(FailureKind.ERROR, "down")))
    out = example("diffusers_guard").GuardedPipeline(Pipeline(plain(GREEN)), guard)("a street")
    assert [True] == out.blocked
    assert (128, 128, 128) == out.images[0].getpixel((0, 0))


@pytest.mark.parametrize("images", [[], None, [b"latents"], ["x"]])
def test_what_cannot_be_judged_is_refused(images: Any) -> None:
    pipeline = Pipeline()
    pipeline.images = images
    with pytest.raises(ConfigurationError):
        example("diffusers_guard").GuardedPipeline(pipeline, colour_guard()[0])("a street")


@pytest.mark.parametrize(
    "options", [{"output_type": "latent"}, {"output_type": "np"}, {"return_dict": False}]
)
def test_outputs_that_are_no_pictures_are_refused_before_they_are_made(options: Any) -> None:
    pipeline = Pipeline(plain(GREEN))
    with pytest.raises(ConfigurationError):
        example("diffusers_guard").GuardedPipeline(pipeline, colour_guard()[0])("a street", **options)
    assert 0 == pipeline.calls


def test_all_else_is_the_pipeline_s_own() -> None:
    assert "cpu" == example("diffusers_guard").GuardedPipeline(Pipeline(), colour_guard()[0]).device


def test_every_example_says_how_it_is_run() -> None:
    for path in sorted(Path(ROOT, "examples").glob("*.py")):
        assert path.read_text().startswith('"""'), path
