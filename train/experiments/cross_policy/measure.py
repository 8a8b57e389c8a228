"""What a model of the experiment can do: judge under the five levels and under random policies, and what is
left of its general abilities. Everything runs through the stock classes and the package's own reading."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Any

import words
from material import crossed
from plain import FULL, draw_sample, draw_scene, edit_pair, symbolic_level
from policyguard.assessment import Rating
from policyguard.pictosafe.render import Renderer, styles
from policyguard.pictosafe.rules import LEVELS, PictoPolicy, is_unsafe
from policyguard.pictosafe.scene import Scene
from policyguard.pictosafe.world import GROUP_OF, NAMES

BATCH = 50


@dataclass(frozen=True)
class Count:
    """How a set of judgements came out. "Right" is the likelier of the two labels, safe and unsafe."""

    unsafe_right: int = 0
    unsafe: int = 0
    safe_right: int = 0
    safe: int = 0

    def to_dict(self) -> dict[str, float | int | None]:
        """Recalls, balanced accuracy (of the labels there are), F1 of unsafe and the share called unsafe."""
        hit = self.unsafe_right / self.unsafe if self.unsafe else None
        clear = self.safe_right / self.safe if self.safe else None
        there = [recall for recall in (hit, clear) if recall is not None]
        called = self.unsafe_right + self.safe - self.safe_right
        f1 = 2 * self.unsafe_right / (called + self.unsafe) if self.unsafe else None
        return {
            "n": self.safe + self.unsafe,
            "unsafe": self.unsafe,
            "accuracy": (self.unsafe_right + self.safe_right) / max(1, self.safe + self.unsafe),
            "balanced_accuracy": sum(there) / len(there),
            "recall_unsafe": hit,
            "recall_safe": clear,
            "f1_unsafe": f1,
            "called_unsafe": called / max(1, self.safe + self.unsafe),
        }


class Subject:
    """A model folder, loaded once. ``say`` decodes greedily; ``unsafe`` reads P(unsafe) at the verdict."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoConfig, AutoModelForImageTextToText

        from policyguard.backends.transformers.loading import load_processor

        config = AutoConfig.from_pretrained(self.folder)
        processor = load_processor(self.folder, config, name=str(self.folder))
        model = AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()
        return model, processor

    def _inputs(self, prompts: Sequence[str], pictures: Sequence[Any], *, system: bool = True) -> Any:
        from policyguard.backends.transformers.loading import prepare

        _, processor = self._loaded
        texts = [
            processor.apply_chat_template(_asked(prompt, system=system), add_generation_prompt=True)
            for prompt in prompts
        ]
        return prepare(processor, texts, pictures, special=False)

    def say(
        self, prompts: Sequence[str], pictures: Sequence[Any], *, system: bool = True, most: int = 14
    ) -> list[str]:
        """Greedy answers to ``prompts``, as the system's words or behind the picture."""
        import torch

        model, processor = self._loaded
        said = []
        for start in range(0, len(prompts), BATCH):
            part = slice(start, start + BATCH)
            inputs = self._inputs(prompts[part], pictures[part], system=system)
            with torch.inference_mode():
                ids = model.generate(**inputs, max_new_tokens=most, do_sample=False)
            fresh = ids[:, inputs["input_ids"].shape[1] :]
            said += processor.tokenizer.batch_decode(fresh, skip_special_tokens=True)
        return said

    def unsafe(self, policies: Sequence[PictoPolicy], pictures: Sequence[Any]) -> list[tuple[float, float]]:
        """P(unsafe) among the labels safe and unsafe, and what all three labels got."""
        import torch

        from policyguard.dialects.pico import render_rules

        model, processor = self._loaded
        ids = [
            processor.tokenizer.encode(f" {rating}", add_special_tokens=False)[0]
            for rating in (Rating.SAFE, Rating.UNSAFE, Rating.UNDECIDED)
        ]
        prompts = [render_rules((rule.status, *rule.texts()) for rule in policy.rules) for policy in policies]
        found = [(0.0, 0.0)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].split()))  # hardly any padding
        for start in range(0, len(prompts), BATCH):
            part = order[start : start + BATCH]
            inputs = self._inputs([prompts[i] for i in part], [pictures[i] for i in part])
            with torch.inference_mode():
                logits = model(**inputs, logits_to_keep=1).logits[:, -1].float()
            for i, (s, u, o) in zip(part, logits.softmax(-1)[:, ids].tolist(), strict=True):
                found[i] = u / (s + u), s + u + o
        return found


def _asked(prompt: str, *, system: bool) -> list[dict[str, Any]]:
    text, picture = {"type": "text", "text": prompt}, {"type": "image"}
    if not system:
        return [{"role": "user", "content": [picture, text]}]
    return [{"role": "system", "content": [text]}, {"role": "user", "content": [picture]}]


def _pictures(rng: Random, scenes: Iterable[Scene]) -> list[Any]:
    drawn = [Renderer(style) for style in styles()]
    return [rng.choice(drawn).draw(scene) for scene in scenes]


Samples = tuple[list[tuple[PictoPolicy, Scene]], list[Any]]
"""Policies with scenes, and the pictures of these."""


@cache
def random_samples(seed: int, name: str, many: int) -> Samples:
    """Drawn once for all models."""
    rng = Random(f"cross-policy test {name} {seed}")
    drawn = [draw_sample(rng, held=name == "held_out") for _ in range(many)]
    pictures = _pictures(Random(seed), [scene for scene, _ in drawn])
    return [(policy, scene) for scene, policy in drawn], pictures


@cache
def crossed_samples(seed: int, fours: int) -> Samples:
    """In fours: unsafe, safe, safe, unsafe. Drawn once for all models."""
    rng = Random(f"cross-policy test crossed {seed}")
    drawn = [crossed(rng, FULL) for _ in range(fours)]
    shown = _pictures(Random(seed), [scene for four in drawn for scene, _ in four[:2]])
    again = [picture for i in range(0, len(shown), 2) for picture in 2 * shown[i : i + 2]]
    return [(policy, scene) for four in drawn for scene, policy in four], again


def judged(
    subject: Subject,
    samples: Sequence[tuple[PictoPolicy, Scene]],
    pictures: Sequence[Any],
    *,
    keep: bool = False,
) -> tuple[dict[str, Any], list[bool]]:
    """The figures, with the area under the ROC curve (how well P(unsafe) ranks, wherever the threshold is)
    and the mean probability of the labels; and which samples came out right. With ``keep``, P(unsafe) of each
    sample stands among the figures, so that models can be compared sample by sample."""
    found = subject.unsafe([policy for policy, _ in samples], pictures)
    truth = [is_unsafe(policy, scene) for policy, scene in samples]
    right = [(p >= 0.5) == label for (p, _), label in zip(found, truth, strict=True)]
    count = Count(
        sum(r and t for r, t in zip(right, truth, strict=True)),
        sum(truth),
        sum(r and not t for r, t in zip(right, truth, strict=True)),
        len(truth) - sum(truth),
    )
    shares = [p for p, _ in found]
    above = [p for p, label in zip(shares, truth, strict=True) if label]
    below = [p for p, label in zip(shares, truth, strict=True) if not label]
    wins = sum((p > q) + 0.5 * (p == q) for p in above for q in below)
    figures: dict[str, Any] = count.to_dict()
    figures["auc"] = wins / (len(above) * len(below)) if above and below else None
    figures["label_mass"] = math.fsum(mass for _, mass in found) / len(found)
    if keep:
        figures["p_unsafe"] = {
            name: " ".join(f"{p:.5f}" for p in part) for name, part in (("unsafe", above), ("safe", below))
        }
    return figures, right


def reading(subject: Subject, *, seed: int, fours: int) -> dict[str, Any]:
    """How often P(unsafe) is the higher one where it should be, on ``fours`` times two pictures under two
    policies that disagree on both. ``by_policy``: one picture, two policies; only reading them helps.
    ``by_picture``: one policy, two pictures. ``right``: all four on the right side of one half."""
    samples, pictures = crossed_samples(seed, fours)
    found = [p for p, _ in subject.unsafe([policy for policy, _ in samples], pictures)]
    by_policy = by_picture = right = 0
    for a_no, b_fine, a_fine, b_no in zip(*(found[i::4] for i in range(4)), strict=True):
        by_policy += (a_no > a_fine) + (b_no > b_fine)
        by_picture += (a_no > b_fine) + (b_no > a_fine)
        right += min(a_no, b_no) >= 0.5 > max(a_fine, b_fine)
    return {
        "fours": fours,
        "by_policy": by_policy / (2 * fours),
        "by_picture": by_picture / (2 * fours),
        "right": right / fours,
    }


def safety(
    subject: Subject, *, seed: int, scenes: int, random: int, held_out: int, pairs: int
) -> dict[str, Any]:
    """Figures under the five levels (the same scenes for all), random policies (in training's wordings and of
    the held-out family) and edit pairs of the levels (both right). The numbers say how many samples; what has
    none is left out."""
    shown = [draw_scene(Random(f"cross-policy test {seed} {i}")) for i in range(scenes)]
    pictures = _pictures(Random(seed), shown)
    out: dict[str, Any] = {}
    for level in LEVELS if scenes else ():
        policy = symbolic_level(level)
        out[level], _ = judged(subject, [(policy, scene) for scene in shown], pictures)
    for name, many in (("random", random), ("held_out", held_out)):
        if many:
            out[name], _ = judged(subject, *random_samples(seed, name, many), keep=name == "random")
    if not pairs:
        return out
    policies = [symbolic_level(level) for level in LEVELS]
    twins: list[tuple[PictoPolicy, Scene]] = []
    for i in range(pairs):
        pair = edit_pair(Random(f"cross-policy test pair {seed} {i}"), policies)
        policy = symbolic_level(pair.policies[0])
        twins += [(policy, pair.before), (policy, pair.after)]
    _, right = judged(subject, twins, _pictures(Random(seed), [scene for _, scene in twins]))
    both = sum(a and b for a, b in zip(right[::2], right[1::2], strict=True))
    return out | {"pairs": pairs, "pairs_both_right": both / pairs}


def general(subject: Subject, *, seed: int, count: int) -> dict[str, Any]:
    """What a base model can do, in [0, 1]: describe (F1 of neutral pictograms; share of sensitive ones
    named), answer questions (which list, exactly), and answer them in the other format; and how many
    questions, neutral and sensitive pictograms there were."""
    from base import Level, Questions

    rng = Random(f"cross-policy general {seed}")
    scenes = [draw_scene(rng) for _ in range(count)]
    said = subject.say([words.DESCRIBE] * count, _pictures(rng, scenes), system=False)
    named = [set(text.split()) & set(NAMES) for text in said]
    neutral = [{n for n in scene.names if not words.is_sensitive(n)} for scene in scenes]
    sensitive = [set(scene.names) - there for scene, there in zip(scenes, neutral, strict=True)]
    told = [{n for n in names if GROUP_OF[n] not in words.SENSITIVE} for names in named]
    hits = sum(len(a & b) for a, b in zip(told, neutral, strict=True))
    out: dict[str, Any] = {
        "n": count,
        "neutral": sum(map(len, neutral)),
        "sensitive": sum(map(len, sensitive)),
        "describe_neutral_f1": 2 * hits / max(1, sum(map(len, told)) + sum(map(len, neutral))),
        "describe_sensitive_recall": sum(len(a & b) for a, b in zip(named, sensitive, strict=True))
        / max(1, sum(map(len, sensitive))),
    }
    rows = Questions(f"cross-policy general {seed}", 8, 4)
    asked: list[tuple[str, Scene, PictoPolicy]] = []
    number = 0
    while len(asked) < count:
        for row in rows.batch(number, Level.FULL):
            scene = next((s for s in row.pictures[::-1] if s is not None and s.placements), None)
            if scene is not None:
                asked.append((words.question(row.policy), scene, row.policy))
        number += 1
    del asked[count:]
    pictures = _pictures(rng, [scene for _, scene, _ in asked])
    plain = subject.say([text for text, _, _ in asked], pictures, most=2)
    brief = subject.say([text + words.BRIEFLY for text, _, _ in asked], pictures, most=2)
    wanted = [_answer(policy, scene) for _, scene, policy in asked]
    short = [words.YES if is_unsafe(policy, scene) else words.NAY for _, scene, policy in asked]
    out["questions"] = _share(plain, wanted, lambda said, right: said == right)
    out["other_format"] = _share(brief, short, lambda said, right: said == right)
    return out


def _answer(policy: PictoPolicy, scene: Scene) -> str:
    for key, rule in zip(words.QUESTION.keys, policy.rules, strict=False):
        if any(rule.is_broken_by(p.name, context=p.context) for p in scene.placements):
            return words.QUESTION.labels[1] + key
    return words.QUESTION.labels[0]


def _share(said: Sequence[str], wanted: Sequence[str], equal: Callable[[str, str], bool]) -> float:
    return sum(equal(a, b) for a, b in zip(said, wanted, strict=True)) / max(1, len(wanted))
