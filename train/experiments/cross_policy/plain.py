"""The world of the experiment: PictoSafe with frames only and at most four pictograms, each in its quarter.

The base model was made before there were prohibition signs and overlap, and knows no word for them.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from policyguard.pictosafe import benchmark, randompolicies, scene
from policyguard.pictosafe.language import parse_item
from policyguard.pictosafe.policyforms import Difficulty
from policyguard.pictosafe.rules import PictoPolicy
from policyguard.pictosafe.world import Context
from policyguard.policy import Policy, load_policy, parse_policy

__all__ = [
    "FULL",
    "difficulty",
    "draw_sample",
    "draw_scene",
    "edit_pair",
    "flip_scene",
    "level",
    "symbolic_level",
]

_CONTEXTS: tuple[Context, ...] = ("framed",)
_SETTING: dict[str, Any] = {"contexts": _CONTEXTS, "overlap": False}


def difficulty(**bounds: Any) -> Difficulty:
    """A difficulty of this world."""
    return Difficulty(**({"pictograms": 4} | _SETTING | bounds))


FULL = difficulty()
draw_scene = partial(scene.draw_scene, count=(1, 4), **_SETTING)
draw_sample = partial(randompolicies.draw_sample, difficulty=FULL)
flip_scene = partial(randompolicies.flip_scene, contexts=_CONTEXTS)
edit_pair = partial(benchmark.edit_pair, **_SETTING)


@cache
def level(name: str) -> Policy:
    """A level without what it says of prohibition signs: they stand in no scene of this world."""
    text = load_policy(name).model_dump(mode="json", exclude_defaults=True)
    rules = [
        rule | {part: _known(rule.get(part, [])) for part in ("unsafe", "safe")} for rule in text["rules"]
    ]
    return parse_policy(text | {"rules": [rule for rule in rules if rule["unsafe"]]})


def _known(items: list[str]) -> list[str]:
    return [item for item in items if parse_item(item).context in (None, *_CONTEXTS)]


@cache
def symbolic_level(name: str) -> PictoPolicy:
    """A ``level`` as symbols."""
    return PictoPolicy.from_resolved(level(name))
