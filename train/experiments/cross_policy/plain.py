"""The world of the experiment: PictoSafe with frames only and at most four pictograms, each in its quarter.

The base model was made before there were prohibition signs and overlap, and knows no word for them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

from policyguard.bench.pictosafe import levels, pairs, randompolicies, scene
from policyguard.bench.pictosafe.language import Item
from policyguard.bench.pictosafe.policyforms import Difficulty
from policyguard.bench.pictosafe.rules import PictoPolicy
from policyguard.bench.pictosafe.world import Context

__all__ = ["FULL", "difficulty", "draw_sample", "draw_scene", "edit_pair", "flip_scene", "symbolic_level"]

_CONTEXTS: tuple[Context, ...] = ("framed",)
_SETTING: dict[str, Any] = {"contexts": _CONTEXTS, "overlap": False}


def difficulty(**bounds: Any) -> Difficulty:
    """A difficulty of this world."""
    return Difficulty(**({"pictograms": 4} | _SETTING | bounds))


FULL = difficulty()
draw_scene = partial(scene.draw_scene, count=(1, 4), **_SETTING)
draw_sample = partial(randompolicies.draw_sample, difficulty=FULL)
flip_scene = partial(randompolicies.flip_scene, contexts=_CONTEXTS)
edit_pair = partial(pairs.edit_pair, **_SETTING)


@cache
def symbolic_level(name: str) -> PictoPolicy:
    """A level as symbols, without what it says of prohibition signs: they stand in no scene of this world."""

    def known(items: tuple[Item, ...]) -> tuple[Item, ...]:
        return tuple(item for item in items if item.context in (None, *_CONTEXTS))

    policy = levels.symbolic_level(name)
    rules = [
        replace(rule, unsafe=known(rule.unsafe), safe=known(rule.safe), wordings=())
        for rule in policy.rules
        if known(rule.unsafe)
    ]
    return PictoPolicy(tuple(rules), policy.id)
