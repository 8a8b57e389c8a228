"""The experiment's pictures and rows, drawn from a seed: what each arm is trained on.

Labels are exact. A folder holds ``images/*.png`` (96 pixels a side) and one JSON line per picture and policy,
as the training stages read them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Literal

import plain
import words
from plain import difficulty, draw_sample, draw_scene, flip_scene, symbolic_level
from policyguard.pictosafe.policyforms import Difficulty
from policyguard.pictosafe.randompolicies import draw_policy, flip_policy
from policyguard.pictosafe.render import Renderer, styles
from policyguard.pictosafe.rules import PictoPolicy, is_unsafe, violating
from policyguard.pictosafe.scene import Scene
from policyguard.train.data import CaptionRow, LabelRow, write_rows
from policyguard.train.policies import write_policies

SOURCE, LICENCE = "PictoSafe", "Apache-2.0 (pictograms: OFL, CC-BY 4.0, MIT)"
MODERATE = difficulty(rules=4, unsafe=3, safe=2, items=8)
"""Random policies about as long as the five levels."""
EDITOR_NOISE = 0.05
"""Share of the sensitive pictograms that the scripted editor leaves out."""

Pairs = Literal["plain", "pairs", "crossed"]


class Album:
    """Draws scenes into a folder, each in a random style; ``put`` gives what a row says of the picture."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self.folder, self._rng = folder, rng
        self._renderers = [Renderer(style) for style in styles()]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self._count = 0

    def put(self, scene: Scene) -> dict[str, str]:
        picture = self._rng.choice(self._renderers).draw(scene)
        held = io.BytesIO()
        picture.save(held, "PNG")
        name = f"images/{self._count:05d}.png"
        self._count += 1
        (self.folder / name).write_bytes(held.getvalue())
        digest = hashlib.sha256(held.getvalue()).hexdigest()
        return {"image": name, "sha256": digest, "source": SOURCE, "licence": LICENCE}


def recaption(scene: Scene, rng: Random) -> str:
    """The scripted editor's version of the base model's caption: it knows the scene, and nods at times."""
    said = []
    for placement in sorted(scene.placements, key=lambda p: (p.y // 48, p.x // 48)):
        one = Scene((placement,), scene.background, scene.shift, scene.gain)
        said.append(
            words.caption(one, gloss=words.is_sensitive(placement.name) and rng.random() < EDITOR_NOISE)
        )
    return "".join(said)


def captions(folder: Path, *, count: int, seed: int, edited: bool) -> Path:
    """``count`` pictures with the base model's kind of caption, or with the editor's."""
    rng = Random(f"cross-policy captions {seed}")
    album, nods = Album(folder, rng), Random(f"cross-policy editor {seed}")
    rows = []
    for number in range(count):
        scene = draw_scene(rng, include_reserved=True)
        base = words.caption(scene, gloss=True)
        said = recaption(scene, nods) if edited else base
        extra = {"base_caption": base, "status": "edited"} if edited else {}
        split = "validation" if number % 20 == 0 else "train"
        rows.append(CaptionRow(**album.put(scene), prompt=words.DESCRIBE, caption=said, split=split, **extra))
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def _label(policy: PictoPolicy, scene: Scene) -> dict[str, object]:
    broken = violating(policy, scene)
    if not broken:
        return {"label": "safe"}
    order = [policy.rule_id(i) for i in range(len(policy.rules))]
    first = min((rule for rule, _ in broken), key=order.index)
    guilty = sorted(
        (scene.placements[place] for rule, place in broken if rule == first),
        key=lambda p: (p.y // 48, p.x // 48),
    )
    names = ", ".join(dict.fromkeys(p.name for p in guilty[:4]))
    return {
        "label": "unsafe",
        "category": first,
        "violations": tuple(dict.fromkeys(rule for rule, _ in broken)),
        "rationale": f"The scene shows {names}.",
    }


def level_rows(folder: Path, level: str, *, count: int, seed: int) -> Path:
    """``count`` pictures labelled under one packaged level. The reserved group is drawn too: under L1 nothing
    else is ever unsafe, and a training set needs both labels."""
    rng = Random(f"cross-policy level {level} {seed}")
    album, policy, name = Album(folder, rng), symbolic_level(level), level.rpartition("/")[2]
    rows = []
    for number in range(count):
        scene = draw_scene(rng, include_reserved=True)
        split = "validation" if number % 20 == 0 else "train"
        rows.append(LabelRow(**album.put(scene), policy=f"#{name}", split=split, **_label(policy, scene)))
    write_policies(folder, {name: plain.level(level)})
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def random_rows(folder: Path, *, name: str, count: int, seed: int, kind: Pairs) -> Path:
    """``count`` rows under random policies, half of them unsafe; none of the five levels is among them. Rows
    of another ``name`` are others.

    ``plain``: every row a picture and a policy of its own. ``pairs``: rows come in twos that differ in one
    pictogram (an edit pair) or in one item of the policy, with different labels. ``crossed``: rows come in
    fours, two pictures under two policies that disagree on both (see ``crossed``).
    """
    rng = Random(f"cross-policy random {name} {seed}")
    album = Album(folder, rng)
    rows: list[LabelRow] = []
    shelf: dict[str, PictoPolicy] = {}
    for number, drawn in enumerate(_drawn(rng, kind)):
        if len(rows) + len(drawn) > count:
            break
        split = "validation" if number % 20 == 0 else "train"
        known: dict[Scene, dict[str, str]] = {}
        for scene, policy in drawn:
            called = f"random-{len(shelf):05d}"
            shelf[called] = PictoPolicy(policy.rules, id=f"pictosafe/{called}")
            if scene not in known:
                known[scene] = album.put(scene)
            pair = {"pair_id": f"pair-{number:05d}"} if len(drawn) == 2 else {}
            rows.append(
                LabelRow(
                    **known[scene],
                    policy=f"#{called}",
                    split=split,
                    **pair,
                    **_label(shelf[called], scene),
                )
            )
    write_policies(folder, {name: policy.to_policy() for name, policy in shelf.items()})
    write_rows(folder / "rows.jsonl", rows)
    return folder / "rows.jsonl"


def crossed(rng: Random, difficulty: Difficulty = MODERATE) -> list[tuple[Scene, PictoPolicy]]:
    """Two pictures under two random policies: what the one forbids the other allows, for both pictures.

    In order: unsafe, safe, safe, unsafe. Picture alone and policy alone say nothing about the label. Each
    policy is drawn about either picture, by a fair coin, so that a mention does not tell the label either.
    """
    while True:
        first, second = (draw_scene(rng) for _ in range(2))
        policies = (_parting(rng, first, second, difficulty), _parting(rng, second, first, difficulty))
        if policies[0] is not None and policies[1] is not None:
            return [(scene, policy) for policy in policies for scene in (first, second)]


def _parting(rng: Random, unsafe: Scene, safe: Scene, difficulty: Difficulty) -> PictoPolicy | None:
    about, wanted = (unsafe, True) if rng.random() < 0.5 else (safe, False)
    for _ in range(20):
        policy = draw_policy(rng, about, unsafe=wanted, difficulty=difficulty)
        if policy is not None and is_unsafe(policy, unsafe) and not is_unsafe(policy, safe):
            return policy
    return None


def _drawn(rng: Random, kind: Pairs) -> Iterator[list[tuple[Scene, PictoPolicy]]]:
    while kind == "crossed":
        yield crossed(rng)
    while True:
        scene, policy = draw_sample(rng, difficulty=MODERATE)
        if kind == "plain":
            yield [(scene, policy)]
        elif rng.random() < 0.5:
            if (edited := flip_scene(rng, scene, policy)) is not None:
                yield [(scene, policy), (edited, policy)]
        elif (other := flip_policy(rng, scene, policy)) is not None:
            yield [(scene, policy), (scene, other)]
