"""The benchmark as data: scenes for the five levels, edit pairs, and scenes under held-out policies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from policyguard.errors import ConfigurationError
from policyguard.pictosafe.randompolicies import draw_sample
from policyguard.pictosafe.render import STYLES, Renderer, Style
from policyguard.pictosafe.rules import LEVELS, PictoPolicy, is_unsafe, symbolic_level
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.pictosafe.world import BENCHMARK_NAMES, CONTEXTS, GROUP_OF, MEMBERS, Context

if TYPE_CHECKING:
    from PIL import Image

    from policyguard.policy import Policy

__all__ = [
    "DEFAULT_SIZES",
    "Benchmark",
    "EditPair",
    "HeldOut",
    "Pair",
    "Shot",
    "Sizes",
    "draw_benchmark",
    "edit_pair",
]

_CONTEXT_EDITS = 0.2
_SIBLING_EDITS = 0.3


@dataclass(frozen=True, slots=True)
class EditPair:
    """Two scenes that differ in the placement at ``place``: in its pictogram, or in its context.

    ``policies`` holds the ids of the policies under which exactly one of the two is unsafe; under the
    first of them it is ``before``.
    """

    before: Scene
    after: Scene
    place: int
    policies: tuple[str, ...]


def edit_pair(
    rng: Random,
    policies: Sequence[PictoPolicy],
    *,
    contexts: tuple[Context, ...] = CONTEXTS,
    overlap: bool = True,
) -> EditPair:
    """A random edit that changes the label under at least one of ``policies``, each as likely as the others.

    A policy that no edit is found for (one that forbids nothing) is passed over. Raises ValueError if that
    is so for all of them.
    """
    for target in rng.sample(policies, len(policies)):
        for _ in range(1000):
            scene = draw_scene(rng, contexts=contexts, overlap=overlap)
            place = rng.randrange(len(scene.placements))
            edited = _edited(rng, scene, place, contexts)
            unsafe = is_unsafe(target, scene)
            if edited is None or is_unsafe(target, edited) == unsafe:
                continue
            before, after = (scene, edited) if unsafe else (edited, scene)
            flipped = [
                policy.id for policy in policies if is_unsafe(policy, before) != is_unsafe(policy, after)
            ]
            flipped.remove(target.id)
            return EditPair(before, after, place, (target.id, *flipped))
    raise ValueError("no edit changes the label under any of these policies")


def _edited(rng: Random, scene: Scene, place: int, contexts: tuple[Context, ...]) -> Scene | None:
    """``scene`` with one thing changed at ``place``; ``None`` if it shows the new pictogram already."""
    placement = scene.placements[place]
    chance = rng.random()
    if chance < _CONTEXT_EDITS:
        others = [context for context in (None, *contexts) if context != placement.context]
        return scene.replace(place, context=rng.choice(others))
    siblings = chance < _CONTEXT_EDITS + _SIBLING_EDITS
    name = rng.choice(MEMBERS[GROUP_OF[placement.name]] if siblings else BENCHMARK_NAMES)
    return None if name in scene.names else scene.replace(place, name=name)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything: scenes for the levels, edit pairs, held-out policies, flips for each level."""

    scenes: int = 300
    pairs: int = 100
    held_out: int = 300
    flips: int = 40

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 0 or (name == "scenes" and self.scenes < 2):
                raise ConfigurationError(f"{getattr(self, name)} is too few for '{name}'")


DEFAULT_SIZES: Final = Sizes()


@dataclass(frozen=True, slots=True)
class Shot:
    """A scene in one drawing style. ``path`` is its file, where the benchmark was read from a folder."""

    id: str
    scene: Scene
    style: Style
    path: Path | None = None

    def source(self, *, scale: int = 1) -> Image.Image | Path:
        """What a guard is given: the file, or the scene drawn now, ``96 * scale`` pixels a side."""
        return self.path if self.path is not None else _renderer(self.style).draw(self.scene, scale=scale)


@cache
def _renderer(style: Style) -> Renderer:
    return Renderer(style)


@dataclass(frozen=True, slots=True)
class Pair:
    """An edit pair (see ``pairs``): ``policies`` are the levels that call exactly one of the two unsafe."""

    before: Shot
    after: Shot
    place: int
    policies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A scene under a policy of the family that is held out from training."""

    shot: Shot
    policy: Policy

    @property
    def symbols(self) -> PictoPolicy:
        return PictoPolicy.from_resolved(self.policy)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Everything a guard is asked about. ``scale`` is the images' side over 96."""

    seed: int
    scale: int
    sizes: Sizes
    shots: tuple[Shot, ...]
    pairs: tuple[Pair, ...]
    held_out: tuple[HeldOut, ...]

    def all_shots(self) -> Iterator[Shot]:
        """Every image once, in a fixed order."""
        yield from self.shots
        for pair in self.pairs:
            yield from (pair.before, pair.after)
        for sample in self.held_out:
            yield sample.shot


def draw_benchmark(
    seed: int, *, sizes: Sizes = DEFAULT_SIZES, styles: tuple[Style, ...] = STYLES, scale: int = 1
) -> Benchmark:
    """The benchmark of this seed. Styles take turns; the scenes do not depend on how many are asked for.

    Raises ConfigurationError for a style that is not in the archive.
    """
    if not styles or not set(styles) <= set(STYLES):
        raise ConfigurationError(f"drawing styles are {', '.join(STYLES)}; got {', '.join(styles) or 'none'}")
    if not 1 <= scale <= 8:
        raise ConfigurationError(f"scale {scale} is not in 1..8")

    def shot(kind: str, index: int, scene: Scene, part: str = "") -> Shot:
        return Shot(f"{kind}-{index:05d}{part}", scene, styles[index % len(styles)])

    shots = tuple(
        shot("scene", index, draw_scene(Random(f"pictosafe {seed} scene {index}")))
        for index in range(sizes.scenes)
    )
    policies = [symbolic_level(name) for name in LEVELS]
    pairs = []
    for index in range(sizes.pairs):
        pair = edit_pair(Random(f"pictosafe {seed} pair {index}"), policies)
        before, after = shot("pair", index, pair.before, "-before"), shot("pair", index, pair.after, "-after")
        pairs.append(Pair(before, after, pair.place, pair.policies))
    held_out = []
    for index in range(sizes.held_out):
        scene, policy = draw_sample(Random(f"pictosafe {seed} held-out {index}"), held=True)
        numbered = PictoPolicy(policy.rules, id=f"pictosafe/held-out-{index:05d}")
        held_out.append(HeldOut(shot("held-out", index, scene), numbered.to_policy()))
    return Benchmark(seed, scale, sizes, shots, tuple(pairs), tuple(held_out))
