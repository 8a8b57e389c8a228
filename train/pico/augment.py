"""What happens to a picture between the renderer and the guard: saved small or large, resized, compressed.

The stock processor brings every square picture to 96 x 96. So that a scene saved at 384 pixels scores
like its 96-pixel original, training pictures make such journeys too.
"""

from __future__ import annotations

import io
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
