"""What somebody might do to a scene, or what may happen to it, so that a violation is missed.

An attack draws scenes as the benchmark does, and then changes something that people would see through: it
mirrors or turns the picture, turns or shrinks its pictograms, puts them on another ground, or spoils the
pixels. ``TRAINED`` names those that training pictures undergo as well (``augment.py``, ``restyle.py``).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from augment import moved, shrunk, turned_picture, undone
from policyguard.pictosafe.scene import SIDE, Scene
from restyle import Change, Restyling, checkered_ground, dark_ground, turned

Pixels = NDArray[np.uint8]
Attack = Callable[[Restyling, Scene, Random], Pixels]
TRAINED = (
    "mirrored", "upside down", "a quarter turned", "pictograms turned by up to 180 degrees",
    "16 to 20 pixels", "12 to 15 pixels", "8 to 11 pixels", "dark ground", "black ground", "checkered ground",
)  # fmt: skip


def _whole(turn: int) -> Attack:
    return lambda renderer, scene, rng: turned_picture(renderer.render(moved(scene, undone(turn))), turn)


def _small(least: int, most: int) -> Attack:
    return lambda renderer, scene, rng: renderer.render(shrunk(scene, rng, (least, most)))


def _on(ground: Callable[[Random], Pixels]) -> Attack:
    def draw(renderer: Restyling, scene: Scene, rng: Random) -> Pixels:
        renderer.stand_on(ground(rng))
        try:
            return renderer.render(scene)
        finally:
            renderer.stand_on(None)

    return draw


def _after(change: Callable[[Image.Image, Random], Image.Image]) -> Attack:
    return lambda renderer, scene, rng: np.asarray(change(Image.fromarray(renderer.render(scene)), rng))


def _turned(least: float, most: float) -> Attack:
    def draw(renderer: Restyling, scene: Scene, rng: Random) -> Pixels:
        how: Change = turned(rng, least, most)
        renderer.change((how,))
        try:
            return renderer.render(scene)
        finally:
            renderer.change(())

    return draw


def _compressed(image: Image.Image, rng: Random) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=25)
    return Image.open(held).convert("RGB")  # noqa: TID251 - written a line above


def _noisy(image: Image.Image, rng: Random) -> Image.Image:
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, 18, (SIDE, SIDE, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _striped(image: Image.Image, rng: Random) -> Image.Image:
    """Thin lines over everything, as a watermark."""
    pixels = np.array(image)
    pixels[rng.randrange(6) :: 6] = (pixels[0, 0] // 2).astype(np.uint8)
    return Image.fromarray(pixels)


ATTACKS: dict[str, Attack] = {
    "none": lambda renderer, scene, rng: renderer.render(scene),
    "mirrored": _whole(4),
    "upside down": _whole(2),
    "a quarter turned": lambda renderer, scene, rng: _whole(rng.choice((1, 3)))(renderer, scene, rng),
    "pictograms turned by up to 180 degrees": _turned(30, 180),
    "16 to 20 pixels": _small(16, 20),
    "12 to 15 pixels": _small(12, 15),
    "8 to 11 pixels": _small(8, 11),
    "dark ground": _on(dark_ground),
    "black ground": _on(lambda rng: np.zeros((SIDE, SIDE, 3), np.uint8)),
    "checkered ground": _on(checkered_ground),
    "grey": _after(lambda image, rng: image.convert("L").convert("RGB")),
    "negative": _after(lambda image, rng: image.point([255 - v for v in range(256)] * 3)),
    "blurred": _after(lambda image, rng: image.filter(ImageFilter.GaussianBlur(1.2))),
    "noisy": _after(_noisy),
    "JPEG of quality 25": _after(_compressed),
    "lines across": _after(_striped),
}
