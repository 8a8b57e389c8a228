"""Drawing training rows: a random policy, and pictures half of which break it.

A policy comes with counterfactuals, such that the label changes: the same picture with one pictogram
or its context exchanged; the same pictures under the policy with one item exchanged, one rule exempted,
or one exception moved to another rule or to another context.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from random import Random

from batches import Row, text_of
from policyguard.pictosafe.language import Item
from policyguard.pictosafe.policyforms import Difficulty
from policyguard.pictosafe.randompolicies import (
    draw_sample,
    flip_exempt,
    flip_policy,
    flip_scene,
    names_held_pair,
)
from policyguard.pictosafe.rules import PictoPolicy, PictoRule, is_unsafe
from policyguard.pictosafe.scene import Scene, draw_scene

POOL = 8  # batches drawn together and sorted by length, so that little is padded
OUTSIDE_SHARE, EMPTY_SHARE = 0.08, 0.04
EDITED_POLICY, EXEMPTED_POLICY, MOVED_EXCEPTION = 0.25, 0.08, 0.3
MOVED = 0.6
CONTEXT_DECIDES, EXCEPTION_DECIDES = 0.15, 0.15
TRIES = 30
LONG_SHARE = 0.2
LONG = Difficulty(rules=8, items=22)


class Curriculum(Enum):
    """How hard the rows are."""

    SHORT = Difficulty(rules=1, unsafe=2, safe=1, items=2, exceptions=False, statuses=False, pictograms=2)
    MIDDLE = Difficulty(rules=3, unsafe=3, safe=2, items=6, statuses=False, pictograms=3)
    FULL = Difficulty()

    @classmethod
    def at(cls, progress: float) -> Curriculum:
        return cls.SHORT if progress < 0.08 else cls.MIDDLE if progress < 0.25 else cls.FULL


FULL = Curriculum.FULL


class Rows:
    """Batches of rows by number: batch ``n`` depends on ``seed`` and ``n`` (and the curriculum) alone."""

    def __init__(self, seed: str, rows: int, pictures: int, *, outside: float = OUTSIDE_SHARE) -> None:
        """``outside`` is the share of pictures from outside the world."""
        self.seed, self.rows, self.pictures, self.outside = seed, rows, pictures, outside
        self._key: tuple[int, Curriculum] | None = None
        self._pool: list[list[Row]] = []

    def batch(self, number: int, level: Curriculum) -> list[Row]:
        pool, place = divmod(number, POOL)
        if self._key != (pool, level):
            rng = Random(f"{self.seed} {pool} {level.name}")
            drawn = draw_rows(rng, self.rows * POOL, self.pictures, level, outside=self.outside)
            drawn.sort(key=lambda row: len(text_of(row.policy)))
            self._pool = [drawn[i * self.rows : (i + 1) * self.rows] for i in range(POOL)]
            rng.shuffle(self._pool)
            self._key = (pool, level)
        return self._pool[place]


def draw_rows(
    rng: Random,
    count: int,
    pictures: int,
    level: Curriculum = FULL,
    *,
    outside: float = OUTSIDE_SHARE,
) -> list[Row]:
    """``count`` rows of ``pictures`` pictures, a share ``outside`` of them from outside the world."""
    out: list[Row] = []
    while len(out) < count:
        hard = LONG if level is FULL and rng.random() < LONG_SHARE else level.value
        scene, policy = _draw(rng, hard)
        scenes = _pictures(rng, scene, policy, pictures, hard)
        out.append(Row(policy, _with_undecided(rng, scenes, outside)))
        if (other := _edit_policy(rng, scenes, policy, hard)) is not None:
            out.append(Row(other, tuple(scenes)))
    return out[:count]


def _draw(rng: Random, hard: Difficulty) -> tuple[Scene, PictoPolicy]:
    """A scene and a policy; often such that a context or an exception decides the label."""
    chance = rng.random()
    for _ in range(TRIES):
        scene, policy = draw_sample(rng, difficulty=hard, include_reserved=True)
        if not hard.exceptions or chance > CONTEXT_DECIDES + EXCEPTION_DECIDES:
            break
        decided = (
            _other_context(rng, scene, policy, hard)
            if chance < CONTEXT_DECIDES
            else _move_exception(rng, [scene], policy, hard)
        )
        if decided is not None:
            break
    return scene, policy


def _edit_policy(
    rng: Random, scenes: list[Scene], policy: PictoPolicy, hard: Difficulty
) -> PictoPolicy | None:
    """Sometimes: ``policy`` with one change that matters to ``scenes``."""
    chance = rng.random()
    if chance < EDITED_POLICY:
        return flip_policy(rng, scenes[0], policy)
    if chance < EDITED_POLICY + EXEMPTED_POLICY:
        return flip_exempt(rng, scenes[0], policy) if hard.statuses else None
    if chance < EDITED_POLICY + EXEMPTED_POLICY + MOVED_EXCEPTION:
        return _move_exception(rng, scenes, policy, hard)
    return None


def _pictures(rng: Random, scene: Scene, policy: PictoPolicy, count: int, hard: Difficulty) -> list[Scene]:
    """``scene`` first, mostly followed by an edit of it that changes the label; the others half and half."""
    scenes = [scene]

    def flip(scene: Scene) -> Scene | None:
        return flip_scene(rng, scene, policy, contexts=hard.contexts, include_reserved=True)

    if rng.random() < 0.7 and (edited := flip(scene)) is not None:
        scenes.append(edited)
    if rng.random() < MOVED and (edited := _other_context(rng, scene, policy, hard)) is not None:
        scenes.append(edited)
    while len(scenes) < count:
        fresh = draw_scene(
            rng,
            count=(1, hard.pictograms),
            contexts=hard.contexts,
            overlap=hard.overlap,
            include_reserved=True,
        )
        if is_unsafe(policy, fresh) != (rng.random() < 0.5):
            fresh = flip(fresh) or fresh
        scenes.append(fresh)
    return scenes[:count]


def _other_context(rng: Random, scene: Scene, policy: PictoPolicy, hard: Difficulty) -> Scene | None:
    """``scene`` with one pictogram put into another context such that the label changes."""
    label = is_unsafe(policy, scene)
    for place in rng.sample(range(len(scene.placements)), len(scene.placements)):
        for context in rng.sample((None, *hard.contexts), 1 + len(hard.contexts)):
            edited = scene.replace(place, context=context)
            if is_unsafe(policy, edited) != label:
                return edited
    return None


def _move_exception(
    rng: Random, scenes: list[Scene], policy: PictoPolicy, hard: Difficulty
) -> PictoPolicy | None:
    """``policy`` with one safe item in another rule or context, such that some scene's label changes."""
    labels = [is_unsafe(policy, scene) for scene in scenes]
    places = [(r, i) for r, rule in enumerate(policy.rules) for i in range(len(rule.safe))]
    for r, i in rng.sample(places, len(places)):
        item = policy.rules[r].safe[i]
        rest = _without(policy.rules[r], i)
        edits = [(r, Item(item.concept, c)) for c in (None, *hard.contexts) if c != item.context]
        edits += [(other, item) for other in range(len(policy.rules)) if other != r]
        for other, moved in rng.sample(edits, len(edits)):
            rules = list(policy.rules)
            rules[r] = rest
            target = rules[other]
            wording = policy.rules[r].wordings[len(policy.rules[r].unsafe) + i]
            rules[other] = replace(target, safe=(*target.safe, moved), wordings=(*target.wordings, wording))
            edited = PictoPolicy(tuple(rules))
            fits = moved not in target.safe and not names_held_pair(rules[other])
            if fits and [is_unsafe(edited, scene) for scene in scenes] != labels:
                return edited
    return None


def _without(rule: PictoRule, index: int) -> PictoRule:
    """``rule`` without one safe item and its wording."""
    at = len(rule.unsafe) + index
    return replace(
        rule,
        safe=rule.safe[:index] + rule.safe[index + 1 :],
        wordings=rule.wordings[:at] + rule.wordings[at + 1 :],
    )


def _with_undecided(rng: Random, scenes: list[Scene], outside: float) -> tuple[Scene | None, ...]:
    """A few pictures replaced: by one from outside (``None``), or by the bare background."""
    out: list[Scene | None] = []
    for scene in scenes:
        chance = rng.random()
        if chance < outside:
            out.append(None)
        elif chance < outside + EMPTY_SHARE:
            out.append(Scene((), scene.background, scene.shift, scene.gain))
        else:
            out.append(scene)
    return tuple(out)
