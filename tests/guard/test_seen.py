"""What people see and no single frame shows is judged, by pico."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image as pil  # noqa: N813 (the module)
from PIL.Image import Image as PILImage

from images.support import animation
from images.test_animation import split_over
from policyguard import Guard, Outcome

IMAGES = Path(__file__).parents[2] / "examples/images"


def scene(name: str) -> PILImage:
    return pil.open(IMAGES / name).convert("RGB")  # noqa: TID251


@pytest.mark.parametrize("count", [2, 4, 16])
def test_a_dagger_that_flickers_row_by_row_is_seen(count: int) -> None:
    frames = split_over(scene("pair-dagger.png"), scene("pair-camera.png"), count)
    with Guard(policy="pictosafe/l3") as guard:
        assert guard.check(frames[0]).outcome is Outcome.COMPLIES
        assert guard.check(animation(frames, "PNG")).outcome is Outcome.VIOLATES


def test_a_harmless_scene_with_something_that_blinks_stays_harmless() -> None:
    blinking = scene("pair-camera.png")
    blinking.paste((255, 255, 255), (0, 0, 10, 10))
    with Guard(policy="pictosafe/l3") as guard:
        assert guard.check(animation([scene("pair-camera.png"), blinking], "PNG")).outcome is Outcome.COMPLIES
