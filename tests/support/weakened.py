"""Pico at its own world, and weakened copies of it; scenes in files, with exact labels in a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from policyguard.assessment import Assessment, Rating, Result
from policyguard.backends.base import AssessmentRequest, Backend, WrappingBackend
from policyguard.pictosafe.render import Renderer
from policyguard.pictosafe.rules import PictoPolicy, violating
from policyguard.pictosafe.scene import draw_scene
from policyguard.policy import load_policy


def scenes(folder: Path, count: int, *, policy: str = "pictosafe/l4", seed: int = 0) -> Path:
    """Draw ``count`` scenes into ``folder``; the CSV file with their labels and rules."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = PictoPolicy.from_resolved(load_policy(policy).resolve())
    rng, renderer = Random(seed), Renderer("noto")
    rows = [("image", "label", "rule")]
    for number in range(count):
        scene, name = draw_scene(rng), f"{number:04}.png"
        renderer.draw(scene).save(folder / name)
        rules = dict.fromkeys(rule for rule, _ in violating(symbols, scene))
        rows.append((name, "unsafe" if rules else "safe", ";".join(rules)))
    labels = folder / "labels.csv"
    with labels.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return labels


class Noisy(WrappingBackend):
    """Adds noise to the score's log-odds: the same for the same frame, whenever it is asked."""

    def __init__(self, inner: Backend, noise: float, *, name: str = "noisy", seed: int = 0) -> None:
        super().__init__(inner)
        self.noise, self.name, self.seed = noise, name, seed

    @property
    def model(self):  # type: ignore[no-untyped-def]
        return replace(self.inner.model, id=self.name, settings=f"noise {self.noise:g}")

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        return [self._worse(*pair) for pair in zip(requests, self.inner.assess(requests), strict=True)]

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        return [self._worse(*pair) for pair in zip(requests, await self.inner.aassess(requests), strict=True)]

    def _worse(self, request: AssessmentRequest, result: Result) -> Result:
        if not isinstance(result, Assessment) or result.p_unsafe is None:
            return result
        drawn = Random(f"{self.seed} {request.frame_key}").gauss(0.0, self.noise)
        p = min(1 - 1e-9, max(1e-9, result.p_unsafe))
        score = 1 / (1 + math.exp(-math.log(p / (1 - p)) - drawn))
        rating = Rating.UNSAFE if score >= 0.5 else Rating.SAFE
        return replace(result, p_unsafe=score, rating=rating)
