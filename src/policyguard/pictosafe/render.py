"""Drawing scenes. The same scene gives the same bytes, in every process.

Everything is worked out in whole numbers or in single additions and products, and randomness comes from
``random.Random`` only; so nothing depends on numpy's version or on the CPU.

The vendored sprite archive: one atlas per drawing style, beside the notices of its makers' licences.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from io import BytesIO
from random import Random
from typing import Final, Literal, get_args

from PIL import Image

from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.pictosafe.scene import (
    CONTEXT_LOOKS,
    MARGIN,
    ROTATIONS,
    SIDE,
    SIZES,
    SMALL_SIZES,
    Placement,
    Scene,
)
from policyguard.pictosafe.world import NAMES

__all__ = [
    "ANGLES",
    "STYLES",
    "Renderer",
    "Style",
    "background",
    "read_atlas",
    "sprites",
    "styles",
]


Style = Literal["noto", "twemoji", "fluent"]
STYLES: Final[tuple[Style, ...]] = get_args(Style)


@cache
def sprites(style: Style) -> dict[str, Image.Image]:
    """Every pictogram of ``style`` by name, as square RGBA images of about 96 pixels."""
    return read_atlas(files("policyguard.pictosafe") / "assets", style)


def read_atlas(folder: Traversable, style: str) -> dict[str, Image.Image]:
    """The pictograms of one atlas by name; without those that the style lacks."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    if index["names"] != list(NAMES):
        raise ConfigurationError(
            "the sprite archive was built for other pictograms", hint="run train/pico/build_sprites.py again"
        )
    # Bytes that ship with the package; images/ is for images that callers pass.
    with Image.open(BytesIO((folder / f"{style}.webp").read_bytes())) as file:  # noqa: TID251
        atlas = file.convert("RGBA")
    cell, columns = index["cell"], index["columns"]
    corners = [(place % columns * cell, place // columns * cell) for place in range(len(NAMES))]
    missing = index["styles"][style].get("missing", ())
    return {
        name: atlas.crop((x, y, x + cell, y + cell))
        for name, (x, y) in zip(NAMES, corners, strict=True)
        if name not in missing
    }


try:
    import numpy as np
    import numpy.typing as npt
except ImportError:
    raise MissingExtraError("numpy", "bench") from None
Pixels = npt.NDArray[np.uint8]
_Sprite = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]

ANGLES: Final = (-18, -13, -8, -3, 3, 8, 13, 18)
"""Degrees, counter-clockwise, of a placement's ``rotation``."""
assert len(ANGLES) == ROTATIONS
_MOULDINGS: Final = np.array([(140, 89, 31), (217, 173, 51), (20, 20, 20), (191, 191, 199)], np.uint8)
_MAT: Final = 237

_MAT_MARGIN: Final = 2
"""Of a frame's margin, the innermost pixels are mat and the rest moulding."""
_REDS: Final = ((200, 16, 46), (228, 30, 32), (160, 8, 24), (240, 62, 50))
assert len(_MOULDINGS) == len(_REDS) == CONTEXT_LOOKS
_WHITE: Final = (255, 255, 255)

_STROKE: Final = 3
"""Pixels of a prohibition sign's ring and bar; a pixel of white lies around them."""

_FINE: Final = 4
"""Steps per pixel in which a sign is measured out."""
_TEXTURES: Final = 4

_VISIBLE: Final = [0] * 8 + [255] * 248
"""Alpha to 255 where the eye sees something."""


def styles() -> tuple[Style, ...]:
    """The drawing styles in the archive."""
    return STYLES


@cache
def background(number: int) -> Pixels:
    """Background ``number`` of 1024, uint8 (96, 96, 3): a gradient; plain, grainy, striped or in blocks."""
    rng = Random(f"pictosafe background {number}")
    start, end = (np.array([rng.randint(64, 255) for _ in range(3)], np.int64) for _ in range(2))
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.int64)
    along = rng.randint(-8, 8) * columns + rng.randint(-8, 8) * rows
    along -= along.min()
    drawing = start + (end - start) * along[..., None] // max(1, int(along.max()))
    match number % _TEXTURES:
        case 1:
            grain = _noise(rng, 2, SIDE, SIDE)
            drawing = drawing + ((grain[0] + grain[1] - 255) * 32 // 255)[..., None]
        case 2:
            phase = rng.randint(-9, 9) * columns + rng.randint(1, 9) * rows
            drawing = drawing + np.where(phase // rng.randint(12, 60) % 2, 18, -18)[..., None]
        case 3:
            drawing = drawing + ((_noise(rng, 12, 12, 3) - 127) * 40 // 127).repeat(8, axis=0).repeat(
                8, axis=1
            )
    pixels: Pixels = np.clip(drawing, 0, 255).astype(np.uint8)
    return pixels


def _noise(rng: Random, *shape: int) -> npt.NDArray[np.int64]:
    """Whole numbers in 0..255."""
    return np.frombuffer(rng.randbytes(math.prod(shape)), np.uint8).astype(np.int64).reshape(shape)


class Renderer:
    """Draws scenes in one style. Sprites for 96-pixel scenes are made when first needed, and kept.

    ``style`` is one of the archive's, or square RGBA images by pictogram. Raises ConfigurationError for a
    style that is not in the archive. Share no instance between threads.
    """

    def __init__(self, style: Style | Mapping[str, Image.Image]) -> None:
        if isinstance(style, str) and style not in STYLES:
            raise ConfigurationError(f"no drawing style {style!r}; there are {', '.join(STYLES)}")
        self._sprites = sprites(style) if isinstance(style, str) else style
        self._table: dict[tuple[str, int, int], _Sprite] = {}

    def render(self, scene: Scene) -> Pixels:
        """``scene`` as uint8 (96, 96, 3)."""
        return self._draw(scene, 1)

    def draw(self, scene: Scene, *, scale: int = 1) -> Image.Image:
        """``scene`` as an RGB image of ``96 * scale`` pixels a side, its pictograms drawn at that size."""
        return Image.fromarray(self._draw(scene, scale))

    def _draw(self, scene: Scene, scale: int) -> Pixels:
        canvas = self._ground(scene)
        if scale != 1:
            canvas = canvas.repeat(scale, axis=0).repeat(scale, axis=1)
        for placement in scene.placements:
            self._place(canvas, placement, scale)
        # One table for all pixels: a product and a rounding per value, 256 times instead of 27,648 times.
        table = np.minimum(np.arange(256) * scene.gain + 0.5, 255).astype(np.uint8)
        pixels: Pixels = table[canvas]
        return pixels

    def _ground(self, scene: Scene) -> Pixels:
        """What the pictograms stand on: uint8 (96, 96, 3) that may be painted over."""
        return np.roll(background(scene.background), 6 * scene.shift, axis=1)

    def _place(self, canvas: Pixels, placement: Placement, scale: int) -> None:
        left, top, size = placement.x * scale, placement.y * scale, placement.size * scale
        if placement.context == "framed":
            for margin, fill in (
                (MARGIN * scale, _MOULDINGS[placement.look]),
                (_MAT_MARGIN * scale, _MAT),
            ):
                canvas[top - margin : top + size + margin, left - margin : left + size + margin] = fill
        if scale == 1:
            colour, transparency = self._kept(placement)
        else:
            colour, transparency = premultiplied(self._turned(placement.name, placement.rotation), size)
        patch = canvas[top : top + size, left : left + size]
        patch[...] = (patch * transparency + colour) // 255
        if placement.context == "prohibited":
            margin = MARGIN * scale
            patch = canvas[top - margin : top + size + margin, left - margin : left + size + margin]
            for alpha, fill in zip(
                _sign(size + 2 * margin, scale), (_WHITE, _REDS[placement.look]), strict=True
            ):
                patch[...] = (patch * (255 - alpha) + np.array(fill, np.uint16) * alpha + 127) // 255

    def _kept(self, placement: Placement) -> _Sprite:
        """A sprite at scale 1 from the table; what is missing is put there, in all sizes at once."""
        key = (placement.name, placement.rotation, placement.size)
        if key not in self._table:
            turned = self._turned(placement.name, placement.rotation)
            for size in {*SIZES, *SMALL_SIZES, placement.size}:
                self._table[placement.name, placement.rotation, size] = premultiplied(turned, size)
        return self._table[key]

    def _turned(self, name: str, rotation: int) -> Image.Image:
        """The sprite turned, cropped to what is visible, in a square."""
        turned = self._sprites[name].rotate(ANGLES[rotation], Image.Resampling.BICUBIC, expand=True)
        turned = turned.crop(turned.getchannel("A").point(_VISIBLE).getbbox())
        side = max(turned.size)
        square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        square.paste(turned, ((side - turned.width) // 2, (side - turned.height) // 2))
        return square


@cache
def _sign(side: int, scale: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Alpha of a prohibition sign ``side`` pixels wide, [side, side, 1]: of its white rim and of its red."""
    fine = side * _FINE
    along = 2 * np.arange(fine, dtype=np.int64) + 1 - fine  # in half steps, from the centre
    across, down = np.meshgrid(along, along)
    distance = across**2 + down**2
    step = 2 * _FINE * scale  # a pixel of the 96-pixel scene

    def alpha(stroke: int, rim: int) -> npt.NDArray[np.uint16]:
        outer, inner = fine - (1 - rim) * step, fine - (1 + stroke + rim) * step
        ring = (distance <= outer**2) & (distance >= inner**2)
        bar = (across - down) ** 2 * 2 <= ((stroke + 2 * rim) * step) ** 2
        drawn = (ring | bar & (distance <= outer**2)).reshape(side, _FINE, side, _FINE).sum((1, 3))
        covered: npt.NDArray[np.uint16] = (drawn * 255 // _FINE**2).astype(np.uint16)[..., None]
        return covered

    return alpha(_STROKE, 1), alpha(_STROKE, 0)


def premultiplied(sprite: Image.Image, size: int) -> _Sprite:
    """``sprite`` at ``size`` pixels: colour times alpha (plus a half, to divide by 255), and 255 - alpha."""
    rgba = np.asarray(sprite.resize((size, size), Image.Resampling.LANCZOS), np.uint16)
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + 127, 255 - alpha
