"""Edit pairs: two scenes that are equal but for one local edit, which turns one policy's answer round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from policyguard.pictosafe.rules import PictoPolicy, is_unsafe
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.pictosafe.world import BENCHMARK_NAMES, CONTEXTS, GROUP_OF, MEMBERS, Context

__all__ = ["EditPair", "edit_pair"]

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
