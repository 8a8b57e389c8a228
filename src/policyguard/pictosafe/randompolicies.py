"""Random policies: so varied that nothing helps but reading them.

A policy's form (``policyforms``) is drawn first, without a look at the scene or at the label. Only then are
the concepts drawn, anew until the scene has the label wanted. How often they concern the scene depends on
the form alone, and a group is drawn by the share of pictograms it stands for, whether or not it concerns the
scene. So the text alone says little about the label; ``docs/pictosafe.md`` has the measurements. The flips
change one thing such that the label changes, which leaves nothing to be read from text or scene alone.

With ``held=True`` come the policies of the family that is held out from training.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import Final

from policyguard.pictosafe.language import Item
from policyguard.pictosafe.policyforms import (
    HELD_NAMES,
    Difficulty,
    RuleForm,
    Slot,
    draw_forms,
    is_held_pair,
    is_held_wording,
)
from policyguard.pictosafe.rules import PictoPolicy, PictoRule, is_unsafe
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.pictosafe.world import (
    CONTEXTS,
    GROUP_NAMES,
    GROUP_OF,
    MEMBERS,
    NAMES,
    RESERVED_NAMES,
    Context,
    names_of,
)

__all__ = [
    "FULL",
    "HELD_NAMES",
    "Difficulty",
    "draw_policy",
    "draw_sample",
    "flip_exempt",
    "flip_policy",
    "flip_scene",
    "is_held_pair",
    "is_held_wording",
    "names_held_pair",
]

_ITEMS: Final = {
    (concept, context): Item(concept, context)
    for concept in (*NAMES, *GROUP_NAMES)
    for context in (None, *CONTEXTS)
}
_FREE_MEMBERS: Final = {
    group: [n for n in members if n not in HELD_NAMES] for group, members in MEMBERS.items()
}
FULL: Final = Difficulty()
_TRIES: Final = 40
_SIBLING: Final = 0.25
"""Share of concepts that are another member of a seen pictogram's group (or that group)."""


class _Concepts:
    """Draws concepts for slots; ``pull`` is the share of them taken from the scene."""

    def __init__(self, rng: Random, scene: Scene, pull: float, *, held: bool) -> None:
        self._random = rng.random
        self._seen = scene.names
        self._pull = pull
        self._held = held

    def rule(self, index: int, form: RuleForm, earlier: list[list[Item]]) -> PictoRule:
        """A rule of this form. ``earlier`` holds the unsafe items of earlier rules, and gets this one's."""
        unsafe: list[Item] = []
        earlier.append(unsafe)
        groups: list[str] = []
        for slot in form.unsafe:
            unsafe.append(self._item(slot, unsafe, groups, earlier))
        safe: list[Item] = []
        for slot in form.safe:
            safe.append(self._item(slot, safe, groups, earlier))
        return PictoRule(tuple(unsafe), tuple(safe), form.status, form.wordings)

    def _item(self, slot: Slot, beside: list[Item], groups: list[str], earlier: list[list[Item]]) -> Item:
        for _ in range(_TRIES):
            if slot.about is None:
                concept = self.free(group=slot.group)
            else:
                rule, place = slot.about
                concept = self.within(earlier[rule][place].concept, group=slot.group)
            item = _ITEMS[concept, slot.context]
            if item in beside:
                continue
            if slot.group:
                if not self._held and any(is_held_pair(concept, group) for group in groups):
                    continue
                groups.append(concept)
            return item
        raise _NoFitError

    def free(self, *, group: bool) -> str:
        """A concept about nothing in particular; each by the share of pictograms it stands for."""
        random = self._random
        chance = random()
        if chance < self._pull + _SIBLING:
            name = self._seen[int(random() * len(self._seen))]
            if chance > self._pull:
                siblings = MEMBERS[GROUP_OF[name]]
                name = siblings[int(random() * len(siblings))]
        else:
            name = NAMES[int(random() * len(NAMES))]
        return GROUP_OF[name] if group else self._allowed(name)

    def within(self, concept: str, *, group: bool) -> str:
        """``concept``, its group, or one of its members: something that overlaps with it."""
        if concept in GROUP_OF:
            return GROUP_OF[concept] if group else concept
        if group:
            return concept
        pool: tuple[str, ...] | list[str] = MEMBERS[concept]
        if self._random() < 0.5:
            pool = [name for name in self._seen if GROUP_OF[name] == concept] or pool
        return self._allowed(pool[int(self._random() * len(pool))])

    def _allowed(self, name: str) -> str:
        if self._held or name not in HELD_NAMES:
            return name
        siblings = _FREE_MEMBERS[GROUP_OF[name]]
        return siblings[int(self._random() * len(siblings))]


class _NoFitError(Exception):
    """A slot found no concept: its rule names too many groups already."""


def _pull(forms: tuple[RuleForm, ...]) -> float:
    """How often concepts come from the scene, so that about half of the policies of this form forbid it."""
    forbidding = 0.0
    for form in forms:
        if form.status == "active":
            forbidding += len(form.unsafe) / (1 + 0.3 * len(form.safe))
        elif form.status == "sensitive":
            forbidding += len(form.unsafe) + len(form.safe)
    return max(0.02, 1.15 * (1 - math.pow(0.5, 1 / max(1.0, forbidding))) - 0.06)


def draw_policy(
    rng: Random, scene: Scene, *, unsafe: bool, difficulty: Difficulty = FULL, held: bool = False
) -> PictoPolicy | None:
    """A random policy under which ``scene`` has the label wanted; ``None`` if a few tries found none."""
    forms = draw_forms(rng, difficulty, held=held)
    concepts = _Concepts(rng, scene, _pull(forms), held=held)
    for _ in range(_TRIES):
        earlier: list[list[Item]] = []
        try:
            policy = PictoPolicy(tuple([concepts.rule(i, form, earlier) for i, form in enumerate(forms)]))
        except _NoFitError:
            continue
        if is_unsafe(policy, scene) == unsafe and (not held or _is_new(policy)):
            return policy
    return None


def _is_new(policy: PictoPolicy) -> bool:
    """Whether ``policy`` names a pictogram singly, or two groups in one rule, as no training policy does."""
    return any(
        names_held_pair(rule) or any(item.concept in HELD_NAMES for item in rule.unsafe + rule.safe)
        for rule in policy.rules
    )


def names_held_pair(rule: PictoRule) -> bool:
    """Whether ``rule`` names two groups that never stand together in a rule of a training policy."""
    groups = [item.concept for item in rule.unsafe + rule.safe if item.concept in MEMBERS]
    return any(is_held_pair(a, b) for i, a in enumerate(groups) for b in groups[:i])


def draw_sample(
    rng: Random,
    *,
    difficulty: Difficulty = FULL,
    held: bool = False,
    include_reserved: bool = False,
    unsafe: bool | None = None,
) -> tuple[Scene, PictoPolicy]:
    """A scene and a random policy; the label is ``unsafe``, or a fair coin's."""
    violating = rng.random() < 0.5 if unsafe is None else unsafe
    scene = draw_scene(
        rng,
        count=(1, difficulty.pictograms),
        contexts=difficulty.contexts,
        overlap=difficulty.overlap,
        include_reserved=include_reserved,
    )
    while True:  # other forms for the same scene: scenes that fit a label more easily must not be commoner
        policy = draw_policy(rng, scene, unsafe=violating, difficulty=difficulty, held=held)
        if policy is not None:
            return scene, policy


def flip_scene(
    rng: Random,
    scene: Scene,
    policy: PictoPolicy,
    *,
    contexts: tuple[Context, ...] = CONTEXTS,
    include_reserved: bool = False,
) -> Scene | None:
    """``scene`` with one pictogram or its context exchanged such that its label changes; or ``None``."""
    random = rng.random
    label = is_unsafe(policy, scene)
    for _ in range(_TRIES):
        place = int(random() * len(scene.placements))
        placement = scene.placements[place]
        chance = random()
        if chance < 0.15:
            others = [context for context in (None, *contexts) if context != placement.context]
            flipped = scene.replace(place, context=others[int(random() * len(others))])
        else:
            if chance < 0.45:
                pool = MEMBERS[GROUP_OF[placement.name]]
            elif chance < 0.75:
                rule = policy.rules[int(random() * len(policy.rules))]
                pool = names_of(rule.unsafe[int(random() * len(rule.unsafe))].concept)
            else:
                pool = NAMES
            name = pool[int(random() * len(pool))]
            if name in scene.names or (name in RESERVED_NAMES and not include_reserved):
                continue
            flipped = scene.replace(place, name=name)
        if is_unsafe(policy, flipped) != label:
            return flipped
    return None


def flip_policy(rng: Random, scene: Scene, policy: PictoPolicy, *, held: bool = False) -> PictoPolicy | None:
    """``policy`` with one item exchanged such that the label changes; or ``None``."""
    random = rng.random
    label = is_unsafe(policy, scene)
    concepts = _Concepts(rng, scene, 0.4, held=held)
    for _ in range(_TRIES):
        index = int(random() * len(policy.rules))
        rule = policy.rules[index]
        of_safe = bool(rule.safe) and random() < 0.35
        items = list(rule.safe if of_safe else rule.unsafe)
        place = int(random() * len(items))
        old = items[place]
        new = _ITEMS[concepts.free(group=old.concept in MEMBERS), old.context]
        if new in items:
            continue
        items[place] = new
        changed = replace(rule, safe=tuple(items)) if of_safe else replace(rule, unsafe=tuple(items))
        if not held and names_held_pair(changed):
            continue
        flipped = policy.replace(index, changed)
        if is_unsafe(flipped, scene) != label:
            return flipped
    return None


def flip_exempt(rng: Random, scene: Scene, policy: PictoPolicy) -> PictoPolicy | None:
    """``policy`` with a rule exempted, or an exempt one active, such that the label changes; or ``None``."""
    label = is_unsafe(policy, scene)
    for index in rng.sample(range(len(policy.rules)), len(policy.rules)):
        rule = policy.rules[index]
        if (rule.status == "exempt") == label:
            continue
        changed = replace(rule, status="exempt" if label else "active")
        flipped = policy.replace(index, changed)
        if is_unsafe(flipped, scene) != label:
            return flipped
    return None
