"""The three stages. Vision and text learn apart, one core each, against one frozen table of word vectors.

* ``vision``: the tower alone, at first on scenes without overlap in the benchmark's own styles. Every image
  token must equal the sum of the word vectors of what it shows: a pictogram's name, its group and its
  context if any; or " background", or " outside" where the whole picture is none of this world.
* ``text``: the language model alone, on *symbolic* pictures: those same vectors with noise, and no pixels.
  It starts on short policies. In a share of the rows names and groups are random vectors
  (``Teacher.scramble``). When the vision stage is done, it takes both cores.
* ``joint``: real pixels end to end with all losses, and a symbolic batch at every other step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from augment import SMALL, shrunk
from batches import Collator
from export import load as read_model
from forward import Forward
from loop import Budget, Losses, load, train
from losses import ALIGN_WEIGHTS, WEIGHTS, Teacher, objective
from model import TOKENS, Shape, build_model
from pixels import Studio, targets
from policyguard.pictosafe.scene import Scene, draw_scene
from rows import FULL, Curriculum, Rows
from tokens import Vocabulary, build_tokenizer

OUTSIDE_SHARE, EMPTY_SHARE = 0.25, 0.02  # of the pictures of the vision stage
OUTSIDE_GOING_ON = 0.4  # where it goes on from weights that know the world
JOINT_OUTSIDE, JOINT_OUTSIDE_GOING_ON = 0.08, 0.3  # of the pictures of the joint stage
VARIETY_GOING_ON = 0.6  # of the joint stage then: fewer odd styles, grounds and turns
APART = 0.22  # of the vision stage: its scenes do not overlap, and only then does it see other styles
SCRAMBLED = 0.5  # of the rows of the text stage
SCRAMBLED_JOINT, SCRAMBLED_PIXELS = 0.6, 0.4  # of the rows of the joint stage


@dataclass(frozen=True)
class Settings:
    """One run. ``pictures`` per policy share the cost of reading it."""

    out: Path
    seed: int = 0
    shape: Shape = field(default_factory=Shape)
    compile: bool = True
    cores: int = 2
    vision_batch: int = 48
    rows: int = 16
    pictures: int = 4
    vision_rate: float = 3e-3
    text_rate: float = 3e-3
    joint_rate: float = 4e-4
    glyphs: bool = True
    """Whether pictures from outside may show the glyphs of ``build_glyphs.py``, which must be there then."""
    start: Path | None = None
    """A model's folder to go on from: vision and text at a third of their rates, without the curriculum."""

    def apart(self, rate: float) -> float:
        """The rate of a stage before the joint one. What has cooled down is not heated as much again."""
        return rate if self.start is None else rate / 3


@dataclass(frozen=True)
class Workshop:
    """The model and everything around it."""

    settings: Settings

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(build_tokenizer())

    @cached_property
    def model(self) -> Any:
        model = build_model(self.vocabulary.tokenizer, self.settings.shape, seed=self.settings.seed)
        if self.settings.start is not None:
            model.load_state_dict(read_model(self.settings.start)[0].state_dict())
        return model

    @cached_property
    def forward(self) -> Forward:
        return Forward(self.model, compile=self.settings.compile)

    @cached_property
    def collate(self) -> Collator:
        return Collator(self.vocabulary)

    @cached_property
    def teacher(self) -> Teacher:
        return Teacher(self.forward, self.vocabulary, self.collate)


def _half() -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def _scenes(rng: Random, count: int, draw: Callable[..., Scene], outside: float) -> list[Scene | None]:
    """Scenes, some of them empty, and a share ``outside`` of pictures from outside (``None``)."""
    out: list[Scene | None] = []
    for _ in range(count):
        chance = rng.random()
        scene = draw(rng, include_reserved=True)
        if chance < EMPTY_SHARE:
            scene = Scene((), scene.background, scene.shift, scene.gain)
        out.append(None if chance > 1 - outside else _sometimes_small(scene, rng))
    return out


def _sometimes_small(scene: Scene, rng: Random) -> Scene:
    return shrunk(scene, rng) if rng.random() < SMALL else scene


def vision(work: Workshop, budget: Budget, *, draw: Callable[..., Scene] = draw_scene) -> None:
    """``draw`` draws the scenes; it takes ``overlap`` and ``include_reserved``."""
    settings, studio, teacher = work.settings, Studio(glyphs=work.settings.glyphs), work.teacher

    def step(number: int, progress: float) -> tuple[Tensor, Losses]:
        rng = Random(f"{settings.seed} vision {number}")
        apart = progress <= APART and settings.start is None
        drawn = partial(draw, overlap=False) if apart else draw
        outside = OUTSIDE_GOING_ON if settings.start else OUTSIDE_SHARE
        scenes = _scenes(rng, settings.vision_batch, drawn, outside)
        variety = 1.0 if settings.start else min(1.0, max(0.0, (progress - APART) / APART))
        pixels, plain = studio.pictures(scenes, rng, variety=variety)
        with _half():
            tokens = work.forward.tower(pixels)
        losses = teacher.alignment(tokens, *targets(scenes, plain))
        return objective(losses, ALIGN_WEIGHTS), losses

    common: dict[str, Any] = {"out": settings.out, "budget": budget, "seed": settings.seed}
    train("vision", work.model.model.visual, step, rate=settings.apart(settings.vision_rate), **common)


def text(work: Workshop, budget: Budget) -> None:
    settings = work.settings
    teacher, rows = work.teacher, Rows(f"{settings.seed} text", settings.rows, settings.pictures)

    def step(number: int, progress: float) -> tuple[Tensor, Losses]:
        if (settings.out / "vision.pt").exists():
            torch.set_num_threads(settings.cores)
        batch = work.collate(rows.batch(number, Curriculum.at(progress)))
        scrambled = teacher.scramble(batch, SCRAMBLED)
        images = teacher.symbolic_images(batch, scrambled)
        with _half():
            losses = teacher.losses(batch, images, scrambled)
        return objective(losses, WEIGHTS), losses

    common: dict[str, Any] = {"out": settings.out, "budget": budget, "seed": settings.seed}
    train("text", work.model.model.language_model, step, rate=settings.apart(settings.text_rate), **common)


def joint(work: Workshop, budget: Budget) -> Any:
    """Returns the trained model."""
    settings, teacher, studio = work.settings, work.teacher, Studio(glyphs=work.settings.glyphs)
    seed = settings.seed
    outside, variety = JOINT_OUTSIDE, 1.0
    if settings.start is not None:
        outside, variety = JOINT_OUTSIDE_GOING_ON, VARIETY_GOING_ON
    rows = Rows(f"{seed} joint", settings.rows, settings.pictures, outside=outside)
    symbols = Rows(f"{seed} joint symbols", settings.rows, settings.pictures)
    if not (settings.out / "joint.checkpoint").exists():
        work.model.model.visual.load_state_dict(load(settings.out / "vision.pt")["weights"])
        if (settings.out / "text.pt").exists():  # or the language model is that of the weights gone on from
            work.model.model.language_model.load_state_dict(load(settings.out / "text.pt")["weights"])

    def step(number: int, progress: float) -> tuple[Tensor, Losses]:
        rng = Random(f"{seed} joint {number}")
        drawn = [
            replace(row, pictures=tuple(scene and _sometimes_small(scene, rng) for scene in row.pictures))
            for row in rows.batch(number, FULL)
        ]
        scenes = [scene for row in drawn for scene in row.pictures]
        pixels, plain = studio.pictures(scenes, rng, variety=variety)
        batch = work.collate(drawn)
        shows, context = targets(scenes, plain)
        batch.shows = shows.view(batch.shows.shape)
        with _half():
            tokens = work.forward.tower(pixels)
            scrambled = teacher.scramble(batch, SCRAMBLED_PIXELS)
            images = teacher.rename(tokens.view(*batch.verdict.shape, TOKENS, -1), batch, scrambled)
            losses = teacher.losses(batch, images, scrambled)
        aligned = teacher.alignment(tokens, shows, context)
        total = objective(losses, WEIGHTS) + 0.4 * objective(aligned, ALIGN_WEIGHTS)
        if number % 2 == 0:
            other = work.collate(symbols.batch(number, FULL))
            scrambled = teacher.scramble(other, SCRAMBLED_JOINT)
            with _half():
                extra = teacher.losses(other, teacher.symbolic_images(other, scrambled), scrambled)
            total = total + objective(extra, WEIGHTS)
        return total, losses | aligned

    train("joint", work.model, step, out=settings.out, budget=budget, rate=settings.joint_rate, seed=seed)
    return work.model
