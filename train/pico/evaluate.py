#!/usr/bin/env python
"""Measure an exported pico on fresh seeds:  python train/pico/evaluate.py runs/pico/model [--count 1000]

Pictures go through the stock image processor of the checkpoint; the answer is the likeliest of the three
labels. "Undecided" on a scene counts as wrong. ``policyguard bench pictosafe run`` measures the same model
through ``Guard``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from attacks import ATTACKS, TRAINED
from batches import Collator, Row
from export import image_processor, load
from forward import Forward
from losses import Teacher
from model import PATCH, TOKENS
from outside import evaluation_sets
from pixels import HELD_OUT_STYLE
from policyguard import Guard as PublicGuard
from policyguard.dialects.pico import UNDECIDED_AT
from policyguard.pictosafe.randompolicies import draw_sample
from policyguard.pictosafe.render import Renderer, styles
from policyguard.pictosafe.rules import LEVELS, PictoPolicy, is_unsafe, load_level, symbolic_level, violating
from policyguard.pictosafe.scene import Scene, draw_scene
from policyguard.policy import load_policy
from restyle import drawings, restyling
from suites import LENGTHS, SUITES, Sample, of_length

SAFE, UNSAFE, UNDECIDED = 0, 1, 2
BATCH = 50


@dataclass
class Guard:
    """The exported model behind the functional forward pass."""

    folder: Path

    def __post_init__(self) -> None:
        self.model, self.vocabulary = load(self.folder)
        self.collate = Collator(self.vocabulary)
        self.forward = Forward(self.model, compile=False)
        self.teacher = Teacher(self.forward, self.vocabulary, self.collate)
        self.processor = image_processor(self.folder)

    def pixels(self, pictures: Sequence[Any]) -> torch.Tensor:
        """PIL pictures or uint8 arrays -> [N, 144, 192], by the stock processor."""
        values = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return values.view(len(pictures), -1, 3, 2, PATCH**2)[:, :, :, 0].flatten(2)

    @torch.no_grad()
    def answers(self, policies: Sequence[PictoPolicy], pictures: Sequence[Any]) -> NDArray[np.int64]:
        """SAFE, UNSAFE or UNDECIDED for each picture under its policy."""
        out = []
        order = np.argsort(
            [sum(len(r.unsafe) + len(r.safe) for r in p.rules) for p in policies], kind="stable"
        )
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            batch = self.collate([Row(policies[i], (None,)) for i in part])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                tokens = self.forward.tower(self.pixels([pictures[i] for i in part]))
                logits = self.teacher.verdict_logits(batch, tokens.view(len(part), 1, TOKENS, -1))
            shares = logits[:, 0, self.teacher.labels].float().softmax(-1)
            out.append(shares.argmax(-1).masked_fill(shares[:, UNDECIDED] >= UNDECIDED_AT, UNDECIDED).numpy())
        answers = np.empty(len(order), np.int64)
        answers[order] = np.concatenate(out)
        return answers


def score(truth: NDArray[np.int64], answers: NDArray[np.int64]) -> dict[str, float]:
    """Balanced accuracy (undecided is wrong), recall per class, share undecided."""
    right = answers == truth
    return {
        "balanced": float((right[truth == SAFE].mean() + right[truth == UNSAFE].mean()) / 2),
        "recall": float(right[truth == UNSAFE].mean()),
        "specificity": float(right[truth == SAFE].mean()),
        "undecided": float((answers == UNDECIDED).mean()),
    }


class Examiner:
    """Runs the suites. ``count`` samples (or pairs) each."""

    def __init__(self, guard: Guard, *, count: int, seed: int) -> None:
        self.guard, self.count, self.seed = guard, count, seed
        self.renderers = {style: Renderer(style) for style in styles()}
        self.unseen = {HELD_OUT_STYLE: Renderer(drawings(HELD_OUT_STYLE))}

    def judge(
        self, samples: Sequence[Sample], *, style: str | None = None, scale: int = 1, shuffled: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(truth, answers); without ``style`` the styles take turns."""
        names = list(self.renderers)
        pictures: list[Any] = []
        for i, (_, scene) in enumerate(samples):
            renderer = (self.renderers | self.unseen)[style or names[i // 2 % len(names)]]
            pictures.append(renderer.draw(scene, scale=scale))
        if shuffled:
            pictures = pictures[1:] + pictures[:1]
        truth = np.array([int(is_unsafe(policy, scene)) for policy, scene in samples])
        return truth, self.guard.answers([policy for policy, _ in samples], pictures)

    def suites(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, suite in SUITES.items():
            samples = suite(Random(f"{self.seed} {name}"), self.count)
            truth, answers = self.judge(samples)
            out[name] = score(truth, answers)
            if "pairs" in name:
                both = (truth == answers).reshape(-1, 2).all(1)
                out[name]["both right"] = float(both.mean())
            if name == "fresh":
                out["fresh, pictures shuffled"] = score(*self.judge(samples, shuffled=True))
                for number in range(1, 7):
                    chosen = np.array([len(scene.placements) == number for _, scene in samples])
                    if set(truth[chosen]) == {SAFE, UNSAFE}:
                        out[f"fresh, {number} pictograms"] = score(truth[chosen], answers[chosen])
        return out

    def styles(self) -> dict[str, Any]:
        samples = SUITES["fresh"](Random(f"{self.seed} styles"), self.count)
        return {
            f"{style}, {96 * scale} px": score(*self.judge(samples, style=style, scale=scale))
            for style in (*self.renderers, *self.unseen)
            for scale in (1, 4)
        }

    def lengths(self) -> dict[str, Any]:
        """Random policies by how many items they list."""
        out: dict[str, Any] = {}
        for least, most in LENGTHS:
            samples = of_length(Random(f"{self.seed} {least} items"), self.count // 2, least, most)
            out[f"{least} to {most}"] = score(*self.judge(samples))
        return out

    def levels(self, policies: Path) -> dict[str, Any]:
        """The five packaged policies on random scenes."""
        out: dict[str, Any] = {}
        for level in range(1, 6):
            policy = PictoPolicy.from_resolved(load_policy(policies / f"l{level}.yaml"))
            rng = Random(f"{self.seed} level")
            truth, answers = self.judge([(policy, draw_scene(rng)) for _ in range(self.count)])
            out[f"l{level}"] = {
                "unsafe share": float(truth.mean()),
                "accuracy": float((truth == answers).mean()),
                "f1 unsafe": float(f1_score(truth == UNSAFE, answers == UNSAFE, zero_division=0)),
                "macro f1": float(f1_score(truth, answers, labels=[0, 1], average="macro", zero_division=0)),
            }
        return out

    def attacks(self) -> dict[str, Any]:
        """What becomes of violations and of decisions when scenes are spoilt; see ``attacks.py``.

        *missed* is the share of unsafe scenes called safe; undecided ones are not missed, for they block.
        """
        samples = SUITES["fresh"](Random(f"{self.seed} attacks"), self.count // 4)
        renderers = [restyling(style) for style in self.renderers]
        truth = np.array([int(is_unsafe(policy, scene)) for policy, scene in samples])
        policies = [policy for policy, _ in samples]
        out: dict[str, Any] = {}
        for name, attack in ATTACKS.items():
            rng = Random(f"{self.seed} {name}")
            pictures = [attack(renderers[i % 3], scene, rng) for i, (_, scene) in enumerate(samples)]
            answers = self.guard.answers(policies, pictures)
            out[name] = {
                "right": float((answers == truth).mean()),
                "missed": float((answers[truth == UNSAFE] == SAFE).mean()),
                "undecided": float((answers == UNDECIDED).mean()),
                "trained": name in TRAINED,
            }
        return out

    def explanations(self) -> dict[str, float]:
        """What ``Guard(explain=True)`` says of unsafe scenes under the levels that forbid something.

        Of the scenes called unsafe: the share whose first category is a rule that is broken, or the first
        such rule; and whether the rationale names just the pictograms that break the rule it gives (recall of
        them: where that rule is broken at all).
        """
        rng = Random(f"{self.seed} explanations")
        guard = PublicGuard("pictosafe/l2", model=str(self.guard.folder), explain=True)
        counts = dict.fromkeys(
            ("scenes", "called", "broken", "first", "exact", "named", "right", "guilty"), 0
        )
        renderers = list(self.renderers.values())
        for name in LEVELS[1:]:
            policy, level = symbolic_level(name), load_level(name)
            samples: list[Scene] = []
            while len(samples) < self.count // 4:
                scene = draw_scene(rng)
                if is_unsafe(policy, scene):
                    samples.append(scene)
            pictures = [renderers[i % len(renderers)].draw(scene) for i, scene in enumerate(samples)]
            for scene, verdict in zip(samples, guard.with_policy(level).check_many(pictures), strict=True):
                counts["scenes"] += 1
                if verdict.outcome != "violates":
                    continue
                category = verdict.findings[0].rule
                broken = violating(policy, scene)
                rules = [rule for rule, _ in broken]
                guilty = {scene.placements[place].name for rule, place in broken if rule == category}
                said = set((verdict.rationale or "").removeprefix("The scene shows ").rstrip(".").split(", "))
                counts["called"] += 1
                counts["broken"] += category in rules
                counts["first"] += category == rules[0]
                counts["exact"] += said == guilty
                counts["named"] += len(said)
                counts["right"] += len(said & guilty)
                counts["guilty"] += len(guilty)
        called, named, guilty = (max(1, counts[name]) for name in ("called", "named", "guilty"))
        return {
            "scenes": counts["scenes"],
            "called unsafe": counts["called"] / max(1, counts["scenes"]),
            "category broken": counts["broken"] / called,
            "category the first broken": counts["first"] / called,
            "names exact": counts["exact"] / called,
            "names precision": counts["right"] / named,
            "names recall": counts["right"] / guilty,
        }

    def outside(self) -> dict[str, float]:
        """Share answered undecided, per source, under random policies."""
        rng = Random(f"{self.seed} outside")
        out = {}
        for source, pictures in evaluation_sets(max(20, self.count // 10), seed=self.seed).items():
            policies = [draw_sample(rng)[1] for _ in pictures]
            out[source] = float((self.guard.answers(policies, pictures) == UNDECIDED).mean())
        return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--policies", type=Path, default=Path(__file__).parents[2] / "policies" / "pictosafe")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="of the report; default: all of it")
    arguments = parser.parse_args()
    examiner = Examiner(Guard(arguments.model), count=arguments.count, seed=arguments.seed)
    sections: dict[str, Callable[[], Any]] = {
        "levels": lambda: examiner.levels(arguments.policies),
        "suites": examiner.suites,
        "lengths": examiner.lengths,
        "attacks": examiner.attacks,
        "styles": examiner.styles,
        "explanations": examiner.explanations,
        "outside": examiner.outside,
    }
    report: dict[str, Any] = {
        "count": arguments.count,
        "seed": arguments.seed,
        "torch": torch.__version__.partition("+")[0],
    }
    report |= {name: measure() for name, measure in sections.items() if name in (arguments.only or sections)}
    text = json.dumps(report, indent=2, default=float)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
