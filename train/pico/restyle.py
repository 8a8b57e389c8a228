"""Drawing styles for training: the benchmark's, those in ``styles/``, and random changes of any of them.

A tower that knows a pictogram by its colours or its line width fails on the next artist's drawing of it. So
some pictures are recoloured, reduced to lines or to two tones, mirrored, stretched or given an outline; all
pictograms of a picture in the same manner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from policyguard.pictosafe.render import STYLES, Renderer, premultiplied, read_atlas, sprites
from policyguard.pictosafe.scene import SIDE, Placement, Scene

Floats = NDArray[np.float32]
Change = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Colours [S, S, 3] in 0..255 and alpha [S, S, 1] in 0..1, to the same."""
LUMINANCE = np.array([0.3, 0.59, 0.11], np.float32)
STYLE_FOLDER = Path(__file__).parent / "styles"


@cache
def drawings(style: str) -> Mapping[str, Image.Image]:
    """Pictogram -> drawing, of a style of the benchmark or of ``styles/``; some styles lack some."""
    return sprites(style) if style in STYLES else read_atlas(STYLE_FOLDER, style)  # type: ignore[arg-type]


def restyling(style: str) -> Restyling:
    return Restyling(drawings(style))


class Restyling(Renderer):
    """A renderer whose sprites can be changed from picture to picture."""

    _changes: tuple[Change, ...] = ()
    _floor: NDArray[np.uint8] | None = None

    def knows(self, scene: Scene) -> bool:
        """Whether the style has all pictograms of ``scene``."""
        return all(name in self._sprites for name in scene.names)

    def restyle(self, rng: Random | None) -> None:
        """Draw the next pictures, but for enlarged ones, in a manner that ``rng`` decides; or as they are."""
        self.change(() if rng is None else draw_changes(rng))

    def change(self, changes: tuple[Change, ...]) -> None:
        """Draw the next pictures with these changes of every pictogram."""
        self._changes = changes

    def stand_on(self, ground: NDArray[np.uint8] | None) -> None:
        """Draw the next scenes on ``ground`` (uint8 [96, 96, 3]), or on the world's own."""
        self._floor = ground

    def _ground(self, scene: Scene) -> NDArray[np.uint8]:
        return super()._ground(scene) if self._floor is None else self._floor.copy()

    def _kept(self, placement: Placement) -> Any:
        key = (placement.name, placement.rotation, placement.size)
        kept = self._table.get(key)
        if kept is None:  # one size at a time: in a short run most are wanted once
            turned = self._turned(placement.name, placement.rotation)
            kept = self._table[key] = premultiplied(turned, placement.size)
        if not self._changes:
            return kept
        ready, transparency = kept
        alpha = (255 - transparency).astype(np.float32) / 255
        colours = ready.astype(np.float32) / np.maximum(255 * alpha, 1)
        for change in self._changes:
            colours, alpha = change(colours, alpha)
        alpha = np.clip(np.round(alpha * 255), 0, 255).astype(np.uint16)
        colours = np.clip(np.round(colours), 0, 255).astype(np.uint16)
        return colours * alpha + 127, 255 - alpha


def other_ground(rng: Random) -> NDArray[np.uint8]:
    """A ground the world has none of, uint8 [96, 96, 3]: dark, black, white, or a checkerboard."""
    kind = rng.random()
    if kind < 0.15:
        return np.full((SIDE, SIDE, 3), rng.choice((0, 0, 255)), np.uint8)
    if kind < 0.55:
        return dark_ground(rng)
    return checkered_ground(rng)


def dark_ground(rng: Random) -> NDArray[np.uint8]:
    """A gradient between two dark colours."""
    start, end = _colour(rng, 0, 70), _colour(rng, 0, 90)
    along = np.linspace(0, 1, SIDE, dtype=np.float32)
    slope = along[:, None] if rng.random() < 0.5 else along[None]
    return np.broadcast_to(start + (end - start) * slope[..., None], (SIDE, SIDE, 3)).astype(np.uint8)


def checkered_ground(rng: Random) -> NDArray[np.uint8]:
    """Squares of 4 to 24 pixels in two colours."""
    size, y, x = rng.randint(4, 24), *np.mgrid[0:SIDE, 0:SIDE]
    board = ((x // size + y // size) % 2)[..., None]
    one = _colour(rng, 0, 255)
    other = np.clip(one + _colour(rng, 25, 130) * rng.choice((-1, 1)), 0, 255)
    return np.where(board, one, other).astype(np.uint8)


def draw_changes(rng: Random) -> tuple[Change, ...]:
    """Up to four changes, of colour and of shape."""
    changes: list[Change] = []
    if rng.random() < 0.35:
        changes.append(_mirrored)
    if rng.random() < 0.4:
        changes.append(_stretched(rng))
    if rng.random() < 0.3:
        changes.append(turned(rng))
    chance = rng.random()
    if chance < 0.4:
        changes.append(_recoloured(rng))
    elif chance < 0.55:
        changes.append(_two_tones(rng))
    elif chance < 0.75:
        changes.append(_lines(rng))
    elif chance < 0.85:
        changes.append(_flattened(rng))
    if rng.random() < 0.3:
        changes.append(_outlined(rng))
    return tuple(changes)


def _mirrored(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    return colours[:, ::-1], alpha[:, ::-1]


def _stretched(rng: Random) -> Change:
    """Narrower or lower, by up to a fourth."""
    share, across = rng.uniform(0.75, 0.95), rng.random() < 0.5

    def change(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
        side = len(alpha)
        small = round(side * share)
        index = np.minimum((np.arange(small) + 0.5) * side / small, side - 1).astype(np.intp)
        before = (side - small) // 2
        pad = ((0, 0), (before, side - small - before), (0, 0))
        parts = []
        for part in (colours, alpha):
            turned = part if across else part.swapaxes(0, 1)
            padded = np.pad(turned[:, index], pad)
            parts.append(padded if across else padded.swapaxes(0, 1))
        return parts[0], parts[1]

    return change


def turned(rng: Random, least: float = 0, most: float = 180) -> Change:
    """Every pictogram turned, either way, by an angle of its own between these, in degrees."""

    def change(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
        angle = rng.uniform(least, most) * rng.choice((-1, 1))
        rgba = np.concatenate((colours, 255 * alpha), -1).clip(0, 255).astype(np.uint8)
        side = len(rgba)
        image = Image.fromarray(rgba, "RGBA").rotate(angle, Image.Resampling.BICUBIC, expand=True)
        image = image.resize((side, side), Image.Resampling.BILINEAR)
        out = np.asarray(image, np.float32)
        return out[..., :3], out[..., 3:] / 255

    return change


def _recoloured(rng: Random) -> Change:
    """Channels mixed, more or less saturated, lighter or darker."""
    mix = np.eye(3, dtype=np.float32)
    if rng.random() < 0.6:
        mix = mix[rng.sample(range(3), 3)]
    strength = rng.uniform(0.0, 1.5)
    mix = strength * mix + (1 - strength) * LUMINANCE[None]
    gain, shift = rng.uniform(0.6, 1.3), rng.uniform(-40, 60)

    def change(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
        return np.clip(colours @ mix.T * gain + shift, 0, 255), alpha

    return change


def _colour(rng: Random, low: int, high: int) -> Floats:
    return np.array([rng.uniform(low, high) for _ in range(3)], np.float32)


def _two_tones(rng: Random) -> Change:
    """From one colour to another by luminance."""
    dark, light = _colour(rng, 0, 110), _colour(rng, 120, 255)
    if rng.random() < 0.25:
        dark, light = light, dark

    def change(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
        return dark + (light - dark) * (colours @ LUMINANCE)[..., None] / 255, alpha

    return change


def _edges(plane: Floats) -> Floats:
    """[S, S] how much each pixel differs from its neighbours."""
    padded = np.pad(plane, 1, mode="edge")
    return np.abs(padded[2:, 1:-1] - padded[:-2, 1:-1]) + np.abs(padded[1:-1, 2:] - padded[1:-1, :-2])


def _lines(rng: Random) -> Change:
    """Only the lines, in one colour; what lies between is clear, or of a second colour."""
    ink, fill = _colour(rng, 0, 90), _colour(rng, 150, 255)
    strength, filled = rng.uniform(0.015, 0.03), rng.uniform(0.3, 1.0) if rng.random() < 0.6 else 0.0

    def change(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
        drawn = _edges((colours @ LUMINANCE) * alpha[..., 0] + 255 * (1 - alpha[..., 0]))
        line = np.clip(drawn * strength, 0, 1)[..., None]
        return fill + (ink - fill) * line, np.maximum(line, filled * alpha)

    return change


def _flattened(rng: Random) -> Change:
    """Few shades."""
    step = rng.choice((64, 85, 128))

    def change(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
        return np.round(colours / step) * step, alpha

    return change


def _outlined(rng: Random) -> Change:
    """A dark or light line along the border."""
    ink = _colour(rng, 0, 70) if rng.random() < 0.7 else _colour(rng, 200, 255)

    def change(colours: Floats, alpha: Floats) -> tuple[Floats, Floats]:
        border = np.clip(_edges(alpha[..., 0]), 0, 1)[..., None]
        return colours + (ink - colours) * border, np.maximum(alpha, 0.7 * border)

    return change
