#!/usr/bin/env python
"""Train the base pico of the experiment:  python train/experiments/cross_policy/base.py --out runs/base

The base model can describe a scene, glossing over sensitive groups; say which of several lists has
something in it; and answer such a question in another format. Its stages are pico's (``train/pico``): vision
and text apart, one core each, then both. No question names a sensitive concept. An interrupted run goes on.

``base-model/`` was made when an image token said its pictogram's name and not yet its group, in three drawing
styles; a run of today gives a base model of the same abilities, but not the same weights.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

import words
from batches import IGNORE, MAX_KEYS, TOKENS, Batch, Collator, Row, token_targets
from loop import Budget, Losses, load, train
from losses import ALIGN_WEIGHTS, WEIGHTS, Teacher, objective
from pixels import Studio, targets
from plain import difficulty, draw_scene
from policyguard.pictosafe.language import Item
from policyguard.pictosafe.rules import PictoPolicy, is_unsafe
from policyguard.pictosafe.scene import Scene
from policyguard.pictosafe.world import GROUP_OF, MEMBERS, NAMES
from rows import Rows
from stages import Settings, Workshop, vision
from tokens import IMAGE, Vocabulary, build_tokenizer

LONGEST = 14
"""Tokens of the longest description, its end included: four pictograms, framed, with their groups."""
DEFAULT = {"vision": "1300", "text": "1500", "joint": "400"}
QUICK = {"vision": "3", "text": "3", "joint": "2"}
PROMPT_LENGTHS = (12, 40, 64, 96)


class Level(Enum):
    """How hard the questions are."""

    SHORT = difficulty(rules=1, unsafe=2, safe=1, items=2, exceptions=False, statuses=False, pictograms=2)
    MIDDLE = difficulty(rules=2, unsafe=3, safe=2, items=5, statuses=False, pictograms=3)
    FULL = difficulty(rules=4, unsafe=3, safe=2, items=9, statuses=False)

    @classmethod
    def at(cls, progress: float) -> Level:
        return cls.SHORT if progress < 0.10 else cls.MIDDLE if progress < 0.30 else cls.FULL


@dataclass(frozen=True)
class Talk:
    """A request, the pictures it is about, and the right answers."""

    prompt: str
    pictures: tuple[Scene, ...]
    answers: tuple[str, ...]


def neutral_row(rng: Random, row: Row) -> Row | None:
    """``row`` with every sensitive group that its lists name exchanged for a neutral one, pictures too.

    The exchange maps pictograms one to one, so that all labels stay. ``None`` where it does not work out.
    """
    items = [item for rule in row.policy.rules for item in (*rule.unsafe, *rule.safe)]
    listed = {GROUP_OF.get(item.concept, item.concept) for item in items}
    free = [group for group in words.NEUTRAL if group not in listed]
    rng.shuffle(free)
    concepts: dict[str, str] = {}
    for group in sorted(listed & words.SENSITIVE):
        other = next((g for g in free if len(MEMBERS[g]) >= len(MEMBERS[group])), None)
        if other is None:
            return None
        free.remove(other)
        concepts[group] = other
        concepts.update(zip(MEMBERS[group], rng.sample(MEMBERS[other], len(MEMBERS[group])), strict=True))

    def exchange(items: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(Item(concepts.get(item.concept, item.concept), item.context) for item in items)

    rules = [
        replace(rule, unsafe=exchange(rule.unsafe), safe=exchange(rule.safe)) for rule in row.policy.rules
    ]
    pictures: list[Scene | None] = []
    for scene in row.pictures:
        for place, name in enumerate(() if scene is None else scene.names):
            assert scene is not None
            scene = scene.replace(place, name=concepts.get(name, name))
        if scene is not None and len(set(scene.names)) < len(scene.names):
            return None
        pictures.append(scene)
    exchanged = Row(PictoPolicy(tuple(rules)), tuple(pictures))
    same = all(
        old is None or new is None or is_unsafe(exchanged.policy, new) == is_unsafe(row.policy, old)
        for new, old in zip(exchanged.pictures, row.pictures, strict=True)
    )
    return exchanged if same else None


class Questions:
    """Batches of neutral rows by number."""

    def __init__(self, seed: str, rows: int, pictures: int) -> None:
        self._drawn = Rows(seed, 2 * rows, pictures)
        self._rows, self._seed = rows, seed

    def batch(self, number: int, level: Level) -> list[Row]:
        rng = Random(f"{self._seed} neutral {number}")
        found: list[Row] = []
        attempt = number
        while len(found) < self._rows:
            drawn = self._drawn.batch(attempt, level)  # type: ignore[arg-type] - another curriculum
            found += [row for row in (neutral_row(rng, row) for row in drawn) if row is not None]
            attempt += 1
        return found[: self._rows]


def captions(rng: Random, count: int, pictures: int) -> list[Talk]:
    """``count`` times ``pictures`` requests for a description."""
    said = []
    for _ in range(count):
        scenes = tuple(draw_scene(rng, include_reserved=True) for _ in range(pictures))
        said.append(Talk("", scenes, tuple(words.caption(scene, gloss=True) for scene in scenes)))
    return said


def brief(rng: Random, rows: Sequence[Row]) -> list[Talk]:
    """``rows`` as questions to be answered briefly."""
    said = []
    for row in rows:
        scenes = tuple(s if s is not None and s.placements else draw_scene(rng) for s in row.pictures)
        answers = tuple(words.YES if is_unsafe(row.policy, scene) else words.NAY for scene in scenes)
        said.append(Talk(words.question(row.policy) + words.BRIEFLY, scenes, answers))
    return said


class TalkCollator(Collator):
    """Talks -> Batch: nothing but prompt, pictures and answer is filled in.

    With ``after`` a request stands behind the picture, in the user's turn, and there is no system's.
    """

    def __init__(self, vocabulary: Vocabulary, *, answer: int, after: str | None = None) -> None:
        super().__init__(vocabulary, answer=answer)
        self._prefix = vocabulary.prefix
        if after is not None:
            self._prefix = vocabulary.ids("<|im_start|>user\n")
            end = vocabulary.ids(f"<|vision_end|>{after}<|im_end|>\n<|im_start|>assistant\n")
            self.picture = (vocabulary.id("<|vision_start|>"), *[vocabulary.id(IMAGE)] * TOKENS, *end)
            self.first_image, self.ask = 1, len(self.picture) - 1
            self.span = len(self.picture) + answer - 1

    def talk(self, talks: Sequence[Talk]) -> Batch:
        prompts = [(*self._prefix, *self.vocabulary.ids(talk.prompt)) for talk in talks]
        longest = max(map(len, prompts))
        size = next((n for n in PROMPT_LENGTHS if n >= longest), longest)
        count, many = len(talks), len(talks[0].pictures)
        ids = np.full((count, size), self.pad)
        answer = np.full((count, many, self.longest), IGNORE)
        shows, context = (np.zeros((count, many, TOKENS), np.int64) for _ in range(2))
        for i, (talk, tokens) in enumerate(zip(talks, prompts, strict=True)):
            ids[i, : len(tokens)] = tokens
            for k, (scene, said) in enumerate(zip(talk.pictures, talk.answers, strict=True)):
                shows[i, k], context[i, k], _ = token_targets(scene)
                words_said = [*self.vocabulary.ids(said), self.end]
                answer[i, k, : len(words_said)] = words_said
        lengths = torch.tensor([len(tokens) for tokens in prompts])
        none = torch.full((count, size), IGNORE)
        return Batch(
            policy_ids=torch.from_numpy(ids),
            policy_pad=torch.arange(size)[None] >= lengths[:, None],
            section=none,
            key=none,
            picture_ids=torch.tensor([*self.picture, *[self.pad] * (self.longest - 1)]),
            answer=torch.from_numpy(answer),
            rules=torch.zeros(count, dtype=torch.long),
            verdict=torch.zeros(count, many, dtype=torch.long),
            shows=torch.from_numpy(shows),
            context=torch.from_numpy(context),
            breaks=torch.zeros(count, many, TOKENS, MAX_KEYS, dtype=torch.bool),
            positions=self.positions(lengths, size, many),
        )


class Base(Workshop):
    """The workshop of train/pico, with the base model's words."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(build_tokenizer(words.EXTRA), words.QUESTION)

    @cached_property
    def collate(self) -> Collator:
        return Collator(self.vocabulary, say=words.question)

    @cached_property
    def teacher(self) -> Teacher:
        taught = [name for name in NAMES if not words.is_sensitive(name)]
        return Teacher(self.forward, self.vocabulary, self.collate, grouped=taught)

    @cached_property
    def describing(self) -> Teacher:
        collate = TalkCollator(self.vocabulary, answer=LONGEST, after=words.DESCRIBE)
        return Teacher(self.forward, self.vocabulary, collate)

    @cached_property
    def answering(self) -> Teacher:
        return Teacher(self.forward, self.vocabulary, TalkCollator(self.vocabulary, answer=2))

    def talks(self, rng: Random, rows: Sequence[Row]) -> list[tuple[str, Teacher, Batch]]:
        """One batch of descriptions and one of brief answers, each with its name and its teacher."""
        pictures = self.settings.pictures
        said = (("caption", self.describing, captions(rng, CAPTIONS, pictures)),)
        said += (("brief", self.answering, brief(rng, rows[:BRIEF])),)
        return [(name, teacher, teacher.collator.talk(talk)) for name, teacher, talk in said]


def talk_loss(name: str, teacher: Teacher, batch: Batch, images: Tensor) -> Losses:
    """Cross-entropy of the answers' tokens, and the share of answers that are right as a whole."""
    _, pictures = teacher.read(batch, images)
    said = teacher.score(pictures.last[:, :, teacher.collator.ask :])
    each = F.cross_entropy(said.flatten(0, 2), batch.answer.flatten(), ignore_index=IGNORE)
    right = ((said.argmax(-1) == batch.answer) | (batch.answer == IGNORE)).all(-1)
    return {name: each, f"{name}_right": right.float().mean().detach()}


CAPTIONS, BRIEF = 6, 4
TALK_WEIGHTS = {"caption": 1.0, "brief": 0.5}


def text(settings: Settings, budget: Budget) -> None:
    work = Base(settings)
    asked = Questions(f"{settings.seed} base", settings.rows, settings.pictures)

    def step(number: int, progress: float) -> tuple[Tensor, Losses]:
        rng = Random(f"{settings.seed} base text {number}")
        rows = asked.batch(number, Level.at(progress))
        batch = work.collate(rows)
        scrambled = work.teacher.scramble(batch, 0.5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = work.teacher.losses(batch, work.teacher.symbolic_images(batch, scrambled), scrambled)
            for name, teacher, talk in work.talks(rng, rows):
                images = teacher.symbolic_images(talk, teacher.scramble(talk, 0.0))
                losses |= talk_loss(name, teacher, talk, images)
        return objective(losses, WEIGHTS | TALK_WEIGHTS), losses

    common: dict[str, Any] = {"out": settings.out, "budget": budget, "seed": settings.seed}
    train("text", work.model.model.language_model, step, rate=settings.text_rate, **common)


def joint(settings: Settings, budget: Budget) -> Base:
    """Returns the workshop with the trained model."""
    work = Base(settings)
    teacher, studio = work.teacher, Studio(glyphs=False)
    asked = Questions(f"{settings.seed} base joint", settings.rows, settings.pictures)
    if not (settings.out / "joint.checkpoint").exists():
        work.model.model.visual.load_state_dict(load(settings.out / "vision.pt")["weights"])
        work.model.model.language_model.load_state_dict(load(settings.out / "text.pt")["weights"])

    def step(number: int, progress: float) -> tuple[Tensor, Losses]:
        rng = Random(f"{settings.seed} base joint {number}")
        rows = asked.batch(number, Level.FULL)
        batch, talks = work.collate(rows), work.talks(rng, rows)
        scenes = [scene for row in rows for scene in row.pictures]
        pixels, plain = studio.pictures(scenes, rng)
        shows, context = targets(scenes, plain)
        batch.shows = shows.view(batch.shows.shape)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = work.forward.tower(pixels)
            losses = teacher.losses(batch, tokens.view(*batch.verdict.shape, TOKENS, -1))
            for name, other, talk in talks:
                images = other.symbolic_images(talk, other.scramble(talk, 0.0))
                losses |= talk_loss(name, other, talk, images)
        aligned = teacher.alignment(tokens, shows, context)
        total = objective(losses, WEIGHTS | TALK_WEIGHTS) + 0.4 * objective(aligned, ALIGN_WEIGHTS)
        return total, losses | aligned

    train(
        "joint",
        work.model,
        step,
        out=settings.out,
        budget=budget,
        rate=settings.joint_rate,
        seed=settings.seed,
    )
    return work


def _run_stage(stage: str, budget: str, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(2 if stage == "joint" else 1)
    minutes = budget.endswith("m")
    spent = Budget(minutes=float(budget[:-1])) if minutes else Budget(steps=int(budget))
    settings = Settings(out=arguments.out, seed=arguments.seed, compile=not arguments.quick, glyphs=False)
    if stage == "joint":
        from export import export

        work = joint(settings, spent)
        export(work.model, work.vocabulary.tokenizer, arguments.out / "model")
    elif stage == "vision":
        vision(Base(settings), spent, draw=draw_scene)
    else:
        text(settings, spent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few steps: does it run?")
    parser.add_argument("--stage", choices=tuple(DEFAULT))
    for stage, steps in DEFAULT.items():
        parser.add_argument(f"--{stage}", metavar="BUDGET", help=f"minutes (9m) or steps; default {steps}")
    arguments = parser.parse_args()
    budgets = {s: getattr(arguments, s) or (QUICK if arguments.quick else DEFAULT)[s] for s in DEFAULT}
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.stage:
        _run_stage(arguments.stage, budgets[arguments.stage], arguments)
        return
    command = [sys.executable, __file__, "--out", str(arguments.out), "--seed", str(arguments.seed)]
    command += ["--quick"] * arguments.quick + [w for s in DEFAULT for w in (f"--{s}", budgets[s])]
    alone = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    start = time.monotonic()
    both = [subprocess.Popen([*command, "--stage", stage], env=alone) for stage in ("vision", "text")]
    if sum(process.wait() != 0 for process in both):
        sys.exit("a stage failed; start the same command again to go on")
    subprocess.run([*command, "--stage", "joint"], env=dict(alone, OMP_NUM_THREADS="2"), check=True)
    print(f"done in {(time.monotonic() - start) / 60:.1f} minutes: {arguments.out / 'model'}")


if __name__ == "__main__":
    main()
