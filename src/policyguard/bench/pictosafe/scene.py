"""Scenes: what a picture shows, as data. Drawing them is ``render``'s work, labelling them ``rules``'s.

A scene is a 96-pixel square with one to four different pictograms, each in its own 48-pixel quarter. A
pictogram may hang in a museum frame. Framed or not, it has the same sizes and keeps the same margins, so
that neither size nor place gives the frame away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Self

from policyguard.bench.pictosafe.world import BENCHMARK_NAMES, NAMES

__all__ = [
    "BACKGROUNDS",
    "FRAMED_SHARE",
    "FRAME_MARGIN",
    "FRAME_STYLES",
    "ROTATIONS",
    "SIDE",
    "SIZES",
    "SLOT",
    "Placement",
    "Scene",
    "draw_scene",
]

SIDE: Final = 96
SLOT: Final = 48
SIZES: Final = (28, 30, 32, 34, 36)
"""Side of a pictogram's square, in pixels of the 96-pixel scene."""
FRAME_MARGIN: Final = 5
"""Pixels a frame takes on each side; kept free around unframed pictograms too."""
FRAME_STYLES: Final = 4
FRAMED_SHARE: Final = 1 / 3
ROTATIONS: Final = 8
BACKGROUNDS: Final = 1024
SHIFTS: Final = 16
GAINS: Final = tuple(0.80 + 0.01 * step for step in range(36))


@dataclass(frozen=True, slots=True)
class Placement:
    """One pictogram in a scene. ``x``, ``y`` (top left) and ``size`` are pixels of the 96-pixel scene.

    ``rotation`` is one of ``ROTATIONS`` fixed angles, ``frame_style`` one of ``FRAME_STYLES`` mouldings
    (it is drawn for unframed pictograms as well, and not shown).
    """

    name: str
    x: int
    y: int
    size: int
    rotation: int
    framed: bool
    frame_style: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what is painted, frame included."""
        margin = FRAME_MARGIN if self.framed else 0
        return self.x - margin, self.y - margin, self.x + self.size + margin, self.y + self.size + margin


@dataclass(frozen=True, slots=True)
class Scene:
    """What a picture shows. ``background`` is in 0..1023; ``shift`` rolls it sideways; ``gain`` brightens."""

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


def draw_scene(rng: Random, *, count: tuple[int, int] = (1, 4), include_reserved: bool = False) -> Scene:
    """A random scene with ``count`` (least, most) different pictograms, all drawn with equal chance."""
    names = NAMES if include_reserved else BENCHMARK_NAMES
    number = rng.randint(*count)
    random = rng.random
    placements = []
    for slot, name in zip(rng.sample(range(4), number), rng.sample(names, number), strict=True):
        size = SIZES[int(random() * len(SIZES))]
        room = SLOT - size - 2 * FRAME_MARGIN + 1
        placements.append(
            Placement(
                name,
                slot % 2 * SLOT + FRAME_MARGIN + int(random() * room),
                slot // 2 * SLOT + FRAME_MARGIN + int(random() * room),
                size,
                int(random() * ROTATIONS),
                random() < FRAMED_SHARE,
                int(random() * FRAME_STYLES),
            )
        )
    gain = GAINS[int(random() * len(GAINS))]
    return Scene(tuple(placements), int(random() * BACKGROUNDS), int(random() * SHIFTS), gain)
