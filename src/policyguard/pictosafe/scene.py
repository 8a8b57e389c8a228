"""Scenes: what an image shows, as data. Drawing them is ``render``'s work, labelling them ``rules``'s.

A scene is a 96-pixel square with one to six different pictograms. Either each has a 48-pixel quarter to
itself, or they lie about, and later ones may cover a part of earlier ones. A pictogram may hang in a museum
frame or stand under a prohibition sign. In every context it has the same sizes and keeps the same margins,
so that neither size nor place gives the context away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Self

from policyguard.pictosafe.world import BENCHMARK_NAMES, CONTEXTS, NAMES, Context

__all__ = [
    "BACKGROUNDS",
    "CONTEXT_LOOKS",
    "CONTEXT_SHARES",
    "HIDDEN",
    "HIDDEN_BAND",
    "MANY",
    "MARGIN",
    "ROTATIONS",
    "SIDE",
    "SIZES",
    "SLOT",
    "SMALL_SIZES",
    "Placement",
    "Scene",
    "draw_scene",
]

SIDE: Final = 96
SLOT: Final = 48
SIZES: Final = (28, 30, 32, 34, 36)
"""Side of a pictogram's square, in pixels of the 96-pixel scene."""
MANY: Final = 4
"""Scenes with more pictograms than this have no quarters, and draw from ``SMALL_SIZES``."""
SMALL_SIZES: Final = (24, 26, 28, 30)
MARGIN: Final = 5
"""Pixels that a frame or a sign takes on each side; kept in mind around free pictograms too."""
HIDDEN: Final = 0.3
"""The largest share of a pictogram's square that later ones, with their margins, may cover."""
HIDDEN_BAND: Final = 0.45
"""The largest share of the band around it, where a frame or a sign would be, that they may cover."""
CONTEXT_LOOKS: Final = 4
CONTEXT_SHARES: Final[dict[Context, float]] = {"framed": 0.3, "prohibited": 0.2}
_QUARTERED: Final = 0.5
"""Share of the scenes with few pictograms that give each a quarter to itself."""
ROTATIONS: Final = 8
BACKGROUNDS: Final = 1024
_SHIFTS: Final = 16
_TRIES: Final = 12
_STRAY: Final = 8
_GAINS: Final = tuple(0.80 + 0.01 * step for step in range(36))

_Square = tuple[int, int, int]
"""x, y and side of a pictogram, without margins."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One pictogram in a scene. ``x``, ``y`` (top left) and ``size`` are pixels of the 96-pixel scene.

    ``rotation`` is one of ``ROTATIONS`` fixed angles, ``look`` one of ``CONTEXT_LOOKS`` mouldings or reds (it
    is drawn for free pictograms as well, and not shown).
    """

    name: str
    x: int
    y: int
    size: int
    rotation: int
    context: Context | None
    look: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what is painted, frame or sign included."""
        margin = 0 if self.context is None else MARGIN
        return self.x - margin, self.y - margin, self.x + self.size + margin, self.y + self.size + margin


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows; a later placement lies above an earlier one.

    ``background`` is in 0..1023; ``shift`` rolls it sideways; ``gain`` brightens the whole.
    """

    placements: tuple[Placement, ...]
    background: int
    shift: int
    gain: float

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(placement.name for placement in self.placements)

    def replace(self, index: int, **changes: Any) -> Scene:
        """The same scene but for one placement."""
        placements = list(self.placements)
        placements[index] = dataclasses.replace(placements[index], **changes)
        return Scene(tuple(placements), self.background, self.shift, self.gain)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"placements": [dataclasses.asdict(p) for p in self.placements]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``. Raises TypeError or KeyError for a dictionary of another shape."""
        placements = tuple(Placement(**placement) for placement in data["placements"])
        return cls(placements, int(data["background"]), int(data["shift"]), float(data["gain"]))


def draw_scene(
    rng: Random,
    *,
    count: tuple[int, int] = (1, 6),
    contexts: tuple[Context, ...] = CONTEXTS,
    overlap: bool = True,
    include_reserved: bool = False,
) -> Scene:
    """A random scene with ``count`` (least, most) different pictograms, all drawn with equal chance.

    Without ``overlap`` each pictogram has a quarter to itself, and there are four at most.
    """
    names = NAMES if include_reserved else BENCHMARK_NAMES
    number = rng.randint(*count) if overlap else rng.randint(count[0], min(count[1], MANY))
    random = rng.random
    sizes = SIZES if number <= MANY else SMALL_SIZES
    quartered = not overlap or (number <= MANY and random() < _QUARTERED)
    squares = (_quartered if quartered else _scattered)(
        rng, [sizes[int(random() * len(sizes))] for _ in range(number)]
    )
    placements = [
        Placement(
            name,
            x,
            y,
            size,
            int(random() * ROTATIONS),
            _context(random(), contexts),
            int(random() * CONTEXT_LOOKS),
        )
        for name, (x, y, size) in zip(rng.sample(names, number), squares, strict=True)
    ]
    gain = _GAINS[int(random() * len(_GAINS))]
    return Scene(tuple(placements), int(random() * BACKGROUNDS), int(random() * _SHIFTS), gain)


def _context(chance: float, contexts: tuple[Context, ...]) -> Context | None:
    for context in contexts:
        chance -= CONTEXT_SHARES[context]
        if chance < 0:
            return context
    return None


def _quartered(rng: Random, sizes: list[int]) -> list[_Square]:
    """Each square somewhere in a quarter of its own."""
    squares = []
    for slot, size in zip(rng.sample(range(4), len(sizes)), sizes, strict=True):
        left, top = slot % 2 * SLOT, slot // 2 * SLOT
        squares.append((_within(rng, left, left + SLOT, size), _within(rng, top, top + SLOT, size), size))
    return squares


def _scattered(rng: Random, sizes: list[int]) -> list[_Square]:
    """Squares anywhere, such that those after it cover no more than ``HIDDEN`` of one.

    Nor do they cover more than ``HIDDEN_BAND`` of the band around it, where a frame or a sign would be.
    Many squares start in a raster of two by three or three by two and stray from it, or they would not fit.
    """
    many = len(sizes) > MANY
    while True:
        cells = _raster(rng) if many else [(0, 0, SIDE, SIDE)] * len(sizes)
        squares: list[_Square] = []
        covered: list[tuple[int, int]] = []  # of the square and of its band, in pixels
        for size, (left, top, right, bottom) in zip(sizes, cells, strict=False):
            for _ in range(_TRIES):
                square = _within(rng, left, right, size), _within(rng, top, bottom, size), size
                more = [_added(sums, square, below) for sums, below in zip(covered, squares, strict=True)]
                if all(map(_is_visible, more, squares)):
                    squares.append(square)
                    covered = [*more, (0, 0)]
                    break
            else:
                break
        else:
            return squares


def _raster(rng: Random) -> list[tuple[int, int, int, int]]:
    """Six cells in random order, each with room to stray into its neighbours."""
    wide, high = rng.choice(((3, 2), (2, 3)))
    step_x, step_y = SIDE // wide, SIDE // high
    cells = [
        (
            max(0, x - _STRAY),
            max(0, y - _STRAY),
            min(SIDE, x + step_x + _STRAY),
            min(SIDE, y + step_y + _STRAY),
        )
        for x in range(0, SIDE, step_x)
        for y in range(0, SIDE, step_y)
    ]
    return rng.sample(cells, len(cells))


def _within(rng: Random, low: int, high: int, size: int) -> int:
    """Where a square of this size and its margins may begin between ``low`` and ``high``."""
    return low + MARGIN + int(rng.random() * (high - low - size - 2 * MARGIN + 1))


def _added(sums: tuple[int, int], above: _Square, below: _Square) -> tuple[int, int]:
    """``sums`` and what ``above``, its margin included, covers of ``below`` and of the band around it."""
    inside, whole = _overlap(above, below, 0), _overlap(above, below, MARGIN)
    return sums[0] + inside, sums[1] + whole - inside


def _overlap(above: _Square, below: _Square, margin: int) -> int:
    """Pixels of ``below``, grown by ``margin``, under ``above`` with its own margin."""
    x, y, size = above
    left, top, side = below
    wide = min(x + size + MARGIN, left + side + margin) - max(x - MARGIN, left - margin)
    high = min(y + size + MARGIN, top + side + margin) - max(y - MARGIN, top - margin)
    return wide * high if wide > 0 and high > 0 else 0


def _is_visible(sums: tuple[int, int], square: _Square) -> bool:
    area = square[2] ** 2
    band = (square[2] + 2 * MARGIN) ** 2 - area
    return sums[0] <= HIDDEN * area and sums[1] <= HIDDEN_BAND * band
