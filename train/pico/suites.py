"""Test sets for ``evaluate``: policies and scenes chosen for what decides their label."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from policyguard.pictosafe.language import Item
from policyguard.pictosafe.policyforms import HELD_NAMES, Difficulty
from policyguard.pictosafe.randompolicies import draw_sample, flip_exempt, flip_policy, flip_scene
from policyguard.pictosafe.rules import PictoPolicy, PictoRule, is_unsafe
from policyguard.pictosafe.scene import Scene
from policyguard.pictosafe.world import CONTEXTS, GROUP_OF, MEMBERS, Context

Sample = tuple[PictoPolicy, Scene]
Suite = Callable[[Random, int], list[Sample]]
_ORDER: tuple[Context | None, ...] = (None, *CONTEXTS)
_NEXT = dict(zip(_ORDER, (*_ORDER[1:], _ORDER[0]), strict=True))


def _fresh(rng: Random, count: int) -> list[Sample]:
    return [(policy, scene) for scene, policy in (draw_sample(rng) for _ in range(count))]


def _held_policies(rng: Random, count: int) -> list[Sample]:
    """Wordings, pairs of groups and single names that training never shows."""
    return [(policy, scene) for scene, policy in (draw_sample(rng, held=True) for _ in range(count))]


def _held_names(rng: Random, count: int) -> list[Sample]:
    """A pictogram never named singly in training decides: forbidden by name it is there, or a sibling is."""
    out: list[Sample] = []
    names = sorted(HELD_NAMES)
    while len(out) < count:
        scene, policy = draw_sample(rng, held=True, unsafe=False)
        name = rng.choice(names)
        item, place = Item(name), rng.randrange(len(policy.rules))
        rule = policy.rules[place]
        if rule.status != "active" or item in rule.unsafe:
            continue
        unsafe = (*rule.unsafe[:-1], item)
        rules = list(policy.rules)
        rules[place] = PictoRule(unsafe, rule.safe, rule.status, rule.wordings)
        changed = PictoPolicy(tuple(rules))
        shown = name if len(out) % 2 else rng.choice([n for n in MEMBERS[GROUP_OF[name]] if n != name])
        at = rng.randrange(len(scene.placements))
        if shown in scene.names:
            continue
        edited = scene.replace(at, name=shown)
        without = PictoPolicy(
            (*rules[:place], PictoRule(unsafe[:-1], rule.safe, rule.status), *rules[place + 1 :])
        )
        if is_unsafe(changed, edited) == bool(len(out) % 2) and not is_unsafe(without, edited):
            out.append((changed, edited))
    return out


def _contexts(rng: Random, count: int) -> list[Sample]:
    """Contexts decide: were each pictogram in the next of the three, the label would be another."""
    out: list[Sample] = []
    while len(out) < count:
        scene, policy = draw_sample(rng)
        turned = scene
        for i, placement in enumerate(scene.placements):
            turned = turned.replace(i, context=_NEXT[placement.context])
        if is_unsafe(policy, turned) != is_unsafe(policy, scene):
            out += [(policy, scene), (policy, turned)]
    return out[:count]


def _scopes(rng: Random, count: int) -> list[Sample]:
    """The scope of an exception decides: if it excused from every rule, the label would be another."""
    out: list[Sample] = []
    while len(out) < count:
        scene, policy = draw_sample(rng)
        everywhere = tuple(item for rule in policy.rules for item in rule.excused)
        merged = tuple(
            PictoRule(r.unsafe, tuple(dict.fromkeys((*r.safe, *everywhere))), r.status) for r in policy.rules
        )
        if is_unsafe(PictoPolicy(merged), scene) != is_unsafe(policy, scene):
            out.append((policy, scene))
            excused = [r for r in policy.rules if r.excused]
            cleared = PictoPolicy(tuple(r for r in policy.rules if r in excused) or policy.rules)
            out.append((cleared, scene))  # only the excusing rules: often safe
    return out[:count]


def _pairs(flip: Callable[[Random, Scene, PictoPolicy], Sample | None]) -> Suite:
    def suite(rng: Random, count: int) -> list[Sample]:
        out: list[Sample] = []
        while len(out) < 2 * count:
            scene, policy = draw_sample(rng)
            if (other := flip(rng, scene, policy)) is not None:
                out += [(policy, scene), other]
        return out

    return suite


def _edit(rng: Random, scene: Scene, policy: PictoPolicy) -> Sample | None:
    other = flip_scene(rng, scene, policy)
    return None if other is None else (policy, other)


def _reword(rng: Random, scene: Scene, policy: PictoPolicy) -> Sample | None:
    other = flip_policy(rng, scene, policy)
    return None if other is None else (other, scene)


def _exempt(rng: Random, scene: Scene, policy: PictoPolicy) -> Sample | None:
    other = flip_exempt(rng, scene, policy)
    return None if other is None else (other, scene)


LENGTHS = ((1, 12), (13, 22), (23, 30), (31, 40))
"""Items of a policy, from and to: training saw at most 22."""


def of_length(rng: Random, count: int, least: int, most: int) -> list[Sample]:
    """Random policies of so many items, half of the scenes unsafe as always."""
    out: list[Sample] = []
    roomy = Difficulty(rules=8, unsafe=max(4, most // 6), safe=max(3, most // 8), items=most)
    hard = Difficulty() if most <= 12 else Difficulty(rules=8, items=22) if most <= 22 else roomy
    while len(out) < count:
        scene, policy = draw_sample(rng, difficulty=hard)
        if least <= sum(len(rule.unsafe) + len(rule.safe) for rule in policy.rules) <= most:
            out.append((policy, scene))
    return out


SUITES: dict[str, Suite] = {
    "fresh": _fresh,
    "held-out policies": _held_policies,
    "held-out names": _held_names,
    "contexts decide": _contexts,
    "scopes decide": _scopes,
    "edit pairs": _pairs(_edit),
    "policy pairs": _pairs(_reword),
    "exempt pairs": _pairs(_exempt),
}
