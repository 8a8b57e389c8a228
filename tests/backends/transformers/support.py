"""Policies, pictures and a small dialect for the backend tests."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image

from policyguard.assessment import Assessment, Rating, Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.transformers import TransformersBackend
from policyguard.dialects.base import FRAME, Answer, Dialect, Layout, Limits, Message, Prompt
from policyguard.errors import AnswerError
from policyguard.policy import ResolvedPolicy, parse_policy
from support.tiny_models import Family, tiny_model

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

torch.set_num_threads(1)  # tiny models lose by threads, and suites run beside each other

SIZES = ((64, 64), (100, 80), (80, 200), (300, 60), (150, 150), (90, 64), (64, 220), (128, 96))


def policy(
    name: str = "house", *, rules: int = 3, world: str | None = None, words: str = ""
) -> ResolvedPolicy:
    """A policy of ``rules`` rules; ``words`` make its text longer."""
    listed = [
        {
            "id": f"rule-{index}",
            "title": f"Rule {index}",
            "unsafe": [f"knife {index}", "gun"],
            "safe": ["museum"],
        }
        for index in range(rules)
    ]
    data = {
        "id": name,
        "version": "1.0.0",
        "title": f"Rules of {name}",
        "description": words,
        "rules": listed,
    }
    return parse_policy(data | ({"world": world} if world else {})).resolve()


def picture(seed: int = 0, size: tuple[int, int] | None = None) -> PILImage:
    """A picture of coarse coloured noise: no two seeds look alike to a model."""
    chosen = SIZES[seed % len(SIZES)] if size is None else size
    return Image.frombytes("RGB", (8, 8), random.Random(seed).randbytes(192)).resize(
        chosen, Image.Resampling.NEAREST
    )


def requests(count: int, under: ResolvedPolicy, reading: Reading = Reading.FAST) -> list[AssessmentRequest]:
    return [AssessmentRequest(picture(seed), under, reading) for seed in range(count)]


def in_turn(backend: TransformersBackend, asked: Sequence[AssessmentRequest]) -> list[int]:
    """The places of ``asked`` in the order in which they are read: by length, batch by batch."""
    runner = backend._load()
    sizes = [frame.pixels.size for frame in runner.see(asked)]
    return [place for batch in runner.batching.batches(sizes) for place in batch]


@dataclass
class PlainDialect:
    """``safe``, ``unsafe`` or ``undecided``, then a letter; reads whatever a random model goes on to say."""

    name: ClassVar[str] = "plain"
    version: ClassVar[str] = "1"
    limits: ClassVar[Limits] = Limits()
    wording: ClassVar[str] = ""
    world: str | None = None
    layout: Layout = "policy-first"
    prefill: str = "rating:"
    labels: tuple[str, ...] = (" safe", " unsafe", " undecided")
    ratings: tuple[Rating, ...] = (Rating.SAFE, Rating.UNSAFE, Rating.UNDECIDED)
    category_prefill: str = " category:"
    category_form: str = " {}"
    max_new_tokens: int = 6
    refuses: str | None = None
    read: list[str] = field(default_factory=list)

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        prompt = Prompt(
            messages=(Message("system", (policy.text,)), Message("user", (FRAME, "Judge this picture."))),
            prefill=self.prefill,
            ratings=dict(zip(self.labels, self.ratings, strict=True)),
            category_prefill=self.category_prefill,
            categories={self.category_form.format(key): rule for key, rule in policy.keys.items()},
            max_new_tokens=self.max_new_tokens,
        )
        return (prompt,)

    def precheck(self, frame: PILImage) -> str | None:
        return "too narrow for this dialect" if frame.width < 8 else None

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt | None = None) -> Answer:
        self.read.append(text)
        if self.refuses is not None:
            raise AnswerError(self.refuses)
        said = text.removeprefix(self.prefill)
        rating = next(r for label, r in zip(self.labels, self.ratings, strict=True) if said.startswith(label))
        rest = said.removeprefix(self.labels[self.ratings.index(rating)])
        category = (
            policy.keys[rest.removeprefix(self.category_prefill)[1]] if rating is Rating.UNSAFE else None
        )
        return Answer(rating, category, rest)


def tiny_backend(model: Family | Path, dialect: Dialect | None = None, **options: Any) -> TransformersBackend:
    """A backend for a tiny model on the CPU, in float32 unless ``options`` say otherwise."""
    folder = model if isinstance(model, Path) else tiny_model(model)
    settings = {"dtype": "float32", "device": "cpu"} | options
    return TransformersBackend(str(folder), dialect=dialect or PlainDialect(), **settings)


@cache
def shared_backend(family: Family) -> TransformersBackend:
    """One backend in the plain dialect for all tests that do not change it, so that it loads once."""
    return tiny_backend(family)


def assessments(results: Sequence[object]) -> list[Assessment]:
    """``results``, all of which must be assessments."""
    assert all(isinstance(result, Assessment) for result in results), results
    return [result for result in results if isinstance(result, Assessment)]


def distance(first: Assessment, second: Assessment) -> float:
    """The largest difference between two assessments' numbers."""
    pairs = [(first.p_unsafe, second.p_unsafe), (first.label_mass, second.label_mass)]
    pairs.append((first.p_undecided, second.p_undecided))
    one, two = first.rule_scores or {}, second.rule_scores or {}
    assert one.keys() == two.keys()
    pairs.extend((one[rule], two[rule]) for rule in one)
    return max(abs((a or 0.0) - (b or 0.0)) for a, b in pairs)


def furthest(first: list[Assessment], second: list[Assessment]) -> float:
    """The largest ``distance`` between two lists of assessments."""
    return max(distance(one, two) for one, two in zip(first, second, strict=True))


@dataclass
class DeadlyDialect(PlainDialect):
    """Ends the process that is asked about a picture of the size ``deadly``."""

    deadly: ClassVar[tuple[int, int]] = (72, 56)

    def precheck(self, frame: PILImage) -> str | None:
        if frame.size == self.deadly:
            os._exit(3)
        return super().precheck(frame)
