"""What happens to a picture between the renderer and the guard: saved small or large, resized, compressed.

The stock processor brings every square picture to 96 x 96. So that a scene saved at 384 pixels scores
like its 96-pixel original, training pictures make such journeys too.
"""

from __future__ import annotations

import io
from dataclasses import replace
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from policyguard.pictosafe.scene import Scene

SIDE = 96
RESAMPLED, COMPRESSED = 0.4, 0.15
_FILTERS = (
    Image.Resampling.NEAREST,
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)
SMALL, SMALL_SIDES, TINY_SIDES = 0.07, (14, 23), (7, 12)
"""Share of the scenes with small pictograms, and their sides; below, nobody tells them apart."""
TURNS = 8


def moved(scene: Scene, turn: int) -> Scene:
    """Where the pictograms of ``scene`` come to lie in its picture when ``turn`` (0 to 7) is applied.

    They are not turned themselves: ``turned_picture`` does that.
    """
    placements = []
    for p in scene.placements:
        x, y = p.x, p.y
        if turn >= TURNS // 2:
            x = SIDE - x - p.size
        for _ in range(turn % 4):  # as numpy turns: against the clock
            x, y = y, SIDE - x - p.size
        placements.append(replace(p, x=x, y=y))
    return replace(scene, placements=tuple(placements))


def turned_picture(picture: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """``picture`` mirrored (``turn`` from 4 on) and then turned by ``turn % 4`` quarters."""
    return np.ascontiguousarray(np.rot90(picture[:, ::-1] if turn >= TURNS // 2 else picture, turn % 4))


def undone(turn: int) -> int:
    """The turn that takes ``turn`` back: a mirrored one undoes itself."""
    return turn if turn >= TURNS // 2 else -turn % 4


def shrunk(scene: Scene, rng: Random, sides: tuple[int, int] = SMALL_SIDES, *, share: float = 1.0) -> Scene:
    """``scene`` with pictograms of sides between these, in pixels, about where they were.

    With a ``share`` below one, only so many of them, but one at least.
    """
    small = [rng.random() < share for _ in scene.placements]
    if small and not any(small):
        small[rng.randrange(len(small))] = True
    placements = []
    for p, change in zip(scene.placements, small, strict=True):
        size = rng.randint(*sides)
        free = p.size - size
        placements.append(
            replace(p, size=size, x=p.x + rng.randint(0, free), y=p.y + rng.randint(0, free)) if change else p
        )
    return replace(scene, placements=tuple(placements))


def journey(picture: NDArray[np.uint8], rng: Random) -> NDArray[np.uint8]:
    """``picture`` (uint8 [96, 96, 3]), perhaps resized and back, perhaps through JPEG; often unchanged."""
    resampled, compressed = rng.random() < RESAMPLED, rng.random() < COMPRESSED
    if not resampled and not compressed:
        return picture
    image = Image.fromarray(picture)
    if resampled:
        side = rng.randint(64, 256) if rng.random() < 0.7 else rng.randint(256, 400)
        # an enlarged nearest-neighbour picture is what a renderer's coarse background looks like
        image = image.resize((side, side), rng.choice(_FILTERS if side >= SIDE else _FILTERS[1:]))
    if compressed:
        image = _compress(image, rng.randint(60, 95))
    if resampled:
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _compress(image: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=quality)
    return Image.open(held).convert("RGB")  # noqa: TID251 - written a line above
