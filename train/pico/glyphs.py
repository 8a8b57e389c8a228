"""Pictures of glyphs that pico never learnt: emoji, icons, logos and flags, from outside its world.

The glyphs are drawn once by ``build_glyphs.py``. ``TRAINING_PACKS`` and ``HELD_OUT_PACKS`` share no
package, and so no artist. A picture has one large glyph, a grid of them, a few strewn about, or, hardest to
tell, it is just such a scene as the world's, with other things in it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from families import SIDE, Picture, Rng, caption, ground
from policyguard.pictosafe.render import Renderer, premultiplied
from policyguard.pictosafe.scene import Scene, draw_scene

FOLDER = Path(os.environ.get("PICO_GLYPHS", Path(__file__).parents[2] / "runs" / "glyphs"))
TRAINING_PACKS = {
    "twemoji": 4, "noto": 4, "fluent": 4, "emojione": 3,
    "lucide": 2, "bootstrap": 3, "simple": 3, "flag-icons": 3,
}  # fmt: skip
"""How often each is drawn from."""
HELD_OUT_PACKS = ("openmoji", "symbola", "remix", "devicon", "country-flags")
ONE_COLOUR = {"lucide", "bootstrap", "simple", "symbola", "remix"}
Glyph = NDArray[np.uint8]  # [96, 96, 4]


@functools.cache
def pack(name: str) -> Mapping[str, Glyph]:
    """Glyph -> drawing of one package. Raises FileNotFoundError with the command that makes it."""
    file = FOLDER / f"{name}.npz"
    if not file.exists():
        raise FileNotFoundError(f"{file} is missing: python train/pico/build_glyphs.py --out {FOLDER}")
    with np.load(file) as found:
        return dict(zip(found["names"].tolist(), found["drawings"], strict=True))


@functools.cache
def _list(name: str) -> tuple[Glyph, ...]:
    return tuple(pack(name).values())


def _tinted(glyph: Glyph, rng: Rng, colour: NDArray[np.int64] | None) -> Image.Image:
    if colour is not None:
        glyph = np.concatenate((np.broadcast_to(colour, (*glyph.shape[:2], 3)), glyph[..., 3:]), -1)
    return Image.fromarray(np.ascontiguousarray(glyph, np.uint8), "RGBA")


def _ink(rng: Rng, *, dark: bool) -> NDArray[np.int64]:
    """A colour seen on a dark or on a light ground."""
    if rng.random() < 0.4:
        return np.full(3, 245 if dark else 20)
    return rng.integers(120, 256, 3) if dark else rng.integers(0, 150, 3)


def _paste(image: Image.Image, glyph: Image.Image, x: int, y: int, side: int, rng: Rng) -> None:
    if rng.random() < 0.2:
        glyph = glyph.rotate(float(rng.uniform(-30, 30)), Image.Resampling.BILINEAR)
    small = glyph.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    image.paste(small, (x, y), small)


SCENES, TRAINING_SCENES = 0.35, 0.6
"""Share of pictures laid out just like scenes of the world: the hardest to tell, so trained on oftener."""


def _varied(glyph: Glyph, rng: Rng) -> Glyph:
    """``glyph`` mirrored, turned by a quarter, in exchanged colours, or as it is."""
    if rng.random() < 0.4:
        glyph = glyph[:, ::-1]
    if rng.random() < 0.15:
        glyph = np.rot90(glyph, rng.integers(1, 4))
    if rng.random() < 0.3:
        glyph = np.concatenate((glyph[..., rng.permutation(3)], glyph[..., 3:]), -1)
    return glyph


def glyph_picture(
    glyphs: tuple[Glyph, ...], rng: Rng, *, one_colour: bool, training: bool = False
) -> Picture:
    """A picture of some of ``glyphs``: one large, a grid, strewn, or laid out as a scene of the world."""
    kind, scenes = rng.random(), TRAINING_SCENES if training else SCENES
    if kind < scenes:
        return _scene(glyphs, rng, one_colour=one_colour, varied=training)
    kind = SCENES + (1 - SCENES) * (kind - scenes) / (1 - scenes)
    image, dark = ground(rng)
    tints = [_ink(rng, dark=dark) for _ in range(3)]

    def one() -> Image.Image:
        glyph = glyphs[rng.integers(len(glyphs))]
        tint = tints[0 if rng.random() < 0.7 else rng.integers(3)]
        return _tinted(glyph, rng, tint if one_colour else None)

    if kind < 0.6:  # one, with or without a plate behind it
        side = int(rng.integers(32, 96))
        x, y = (int(v) for v in rng.integers(0, SIDE - side + 1, 2))
        _paste(image, one(), x, y, side, rng)
        if rng.random() < 0.3:
            caption(image, rng, dark=dark)
    elif kind < 0.85:  # a grid
        across, down = (int(v) for v in rng.integers(2, 7, 2))
        gap = int(rng.integers(0, 7))
        step_x, step_y = SIDE // across, SIDE // down
        side = max(7, min(step_x, step_y) - gap)
        for row in range(down):
            for column in range(across):
                if rng.random() < 0.93:
                    x = column * step_x + (step_x - side) // 2
                    _paste(image, one(), x, row * step_y + (step_y - side) // 2, side, rng)
    else:
        for _ in range(int(rng.integers(2, 9))):
            side = int(rng.integers(10, 48))
            x, y = (int(v) for v in rng.integers(-4, SIDE - side + 5, 2))
            _paste(image, one(), x, y, side, rng)
    return np.asarray(image)


class _Strangers(dict[str, Image.Image]):
    """Sprites of a scene: a random glyph for every name."""

    def __init__(self, draw: Callable[[], Image.Image]) -> None:
        super().__init__()
        self._draw = draw

    def __missing__(self, name: str) -> Image.Image:
        return self._draw()


def _scene(glyphs: tuple[Glyph, ...], rng: Rng, *, one_colour: bool, varied: bool) -> Picture:
    """Such a scene as the world's, contexts and all, of things that are none of it."""
    tint = _ink(rng, dark=False) if one_colour else None

    def draw() -> Image.Image:
        glyph = glyphs[rng.integers(len(glyphs))]
        return _tinted(_varied(glyph, rng) if varied else glyph, rng, tint)

    scene: Scene = draw_scene(Random(int(rng.integers(2**63))))
    return Passing(_Strangers(draw)).render(scene)


class Passing(Renderer):
    """A renderer for sprites that are used once: it makes the one size that is needed."""

    def _kept(self, placement: Any) -> Any:
        return premultiplied(self._turned(placement.name, placement.rotation), placement.size)


def draw_glyphs(rng: Rng) -> Picture:
    """A picture to train on."""
    shares = np.array(list(TRAINING_PACKS.values()), float)
    name = list(TRAINING_PACKS)[rng.choice(len(shares), p=shares / shares.sum())]
    return glyph_picture(_list(name), rng, one_colour=name in ONE_COLOUR, training=True)


def _between(name: str, *ranges: tuple[int, int]) -> bool:
    first = int(name.split("-", maxsplit=1)[0], 16)
    return any(low <= first <= high for low, high in ranges)


_FACES = ((0x1F600, 0x1F64F), (0x1F910, 0x1F92F), (0x1F970, 0x1F97A))
_PEOPLE = ((0x1F466, 0x1F487), (0x1F575, 0x1F575), (0x1F645, 0x1F647), (0x1F9CD, 0x1F9DF), (0x1F3C2, 0x1F3C4))
_FLAGS = ((0x1F1E6, 0x1F1FF),)


@functools.cache
def _openmoji(kind: str) -> tuple[Glyph, ...]:
    def of(name: str) -> str:
        if _between(name, _FLAGS[0]):
            return "flags"
        if "200D" in name or _between(name, *_PEOPLE):
            return "people"
        return "faces" if _between(name, *_FACES) else "things"

    return tuple(glyph for name, glyph in pack("openmoji").items() if of(name) == kind)


def _family(glyphs: Callable[[], tuple[Glyph, ...]], *, one_colour: bool = False) -> Callable[[Rng], Picture]:
    return lambda rng: glyph_picture(glyphs(), rng, one_colour=one_colour)


def _pack(name: str) -> Callable[[Rng], Picture]:
    return _family(lambda: _list(name), one_colour=name in ONE_COLOUR)


HELD_OUT_GLYPHS: dict[str, Callable[[Rng], Picture]] = {
    "emoji faces": _family(lambda: _openmoji("faces")),
    "emoji people": _family(lambda: _openmoji("people")),
    "emoji things": _family(lambda: _openmoji("things")),
    "emoji flags": _family(lambda: _openmoji("flags")),
    "glyphs of a font": _pack("symbola"),
    "flat icons": _pack("remix"),
    "logos": _pack("devicon"),
    "flags": _pack("country-flags"),
}
"""Drawn by hands that training never sees."""
