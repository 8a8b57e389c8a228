"""Small data sets and recipes for the training stages."""

from __future__ import annotations

import json
import os
import random
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from policyguard.policy import parse_policy
from policyguard.strict.files import sha256_of
from policyguard.train.command import start
from policyguard.train.data import CaptionRow, LabelRow, write_rows
from policyguard.train.policies import write_policies
from policyguard.train.recipe import load_recipe
from support.tiny_models import Family, build_tiny_model

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (250, 250, 250)}
POLICY = parse_policy(
    {
        "id": "colours",
        "version": "1.0.0",
        "title": "Colours",
        "rules": [
            {"id": "warm", "title": "Warm colours", "unsafe": ["red", "orange"]},
            {"id": "fresh", "title": "Fresh colours", "unsafe": ["green", "lime"]},
            {"id": "cold", "title": "Cold colours", "unsafe": ["blue", "violet"]},
        ],
    }
)
BROKEN = {"red": "warm", "green": "fresh", "blue": "cold"}


def draw(folder: Path, colour: str, number: int) -> Path:
    """A picture that is mostly ``colour``, different for each ``number``."""
    path = folder / "images" / f"{colour}-{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGB", (64, 64), COLOURS[colour])
    picture.putpixel((number % 64, number // 64), (number % 256, 7, 7))
    picture.save(path)
    return path


def provenance(path: Path, folder: Path) -> dict[str, str]:
    return {
        "image": path.relative_to(folder).as_posix(),
        "sha256": sha256_of(path),
        "source": "drawn",
        "licence": "CC0-1.0",
    }


def caption_rows(folder: Path, *, count: int = 16) -> Path:
    """``captions.jsonl`` with one caption per colour, and the images it names."""
    rows = []
    for number in range(count):
        colour = list(COLOURS)[number % len(COLOURS)]
        where = provenance(draw(folder, colour, number), folder)
        rows.append(CaptionRow(**where, prompt="Describe the picture.", caption=f"a picture of {colour}"))  # type: ignore[arg-type]
    write_rows(folder / "captions.jsonl", rows)
    return folder / "captions.jsonl"


def label_rows(folder: Path, *, count: int = 16) -> Path:
    """``labels.jsonl`` under ``POLICY``: red, green and blue are unsafe, white is safe; half are unsafe."""
    write_policies(folder, {"colours": POLICY})
    rows = []
    unsafe = ["red", "green", "blue"]
    for number in range(count):
        colour = "white" if number % 2 else unsafe[(number // 2) % 3]
        rule = BROKEN.get(colour)
        where = provenance(draw(folder, colour, number), folder)
        rows.append(
            LabelRow(
                **where,  # type: ignore[arg-type]
                policy="#colours",
                label="unsafe" if rule else "safe",
                category=rule,
                violations=(rule,) if rule else (),
                rationale=f"The picture shows the colour {colour}.",
                pair_id=f"pair-{number // 2}",
            )
        )
    write_rows(folder / "labels.jsonl", rows)
    return folder / "labels.jsonl"


def recipe(stage: str, model: Path | str, rows: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """A recipe that trains a tiny model on the CPU for a moment."""
    values: dict[str, Any] = {
        "stage": stage,
        "model": str(model),
        "out": str(out),
        "data": {"rows": [str(rows)], "held_out": 0.25},
        "tune": {"mode": "full", "vision": "frozen"},
        "optim": {
            "lr": 0.003,
            "schedule": "constant",
            "warmup": 0.0,
            "batch": 4,
            "accumulate": 1,
            "max_steps": 4,
        },
        "run": {
            "device": "cpu",
            "precision": "fp32",
            "gradient_checkpointing": False,
            "save_every": 2,
            "eval_every": 100,
            "log_every": 1,
            "loader_workers": 0,
        },
    }
    for name, change in changes.items():
        inner = values.get(name)
        values[name] = {**inner, **change} if isinstance(inner, dict) else change
    return values


def write_recipe(path: Path, values: dict[str, Any]) -> Path:
    """Write ``values`` as YAML; JSON is YAML."""
    path.write_text(json.dumps(values, indent=2))
    return path


def gentle_model(folder: Path, family: Family) -> Path:
    """A tiny model whose weights are drawn as usual, so that training moves it smoothly."""
    from safetensors.torch import load_file, save_file

    build_tiny_model(folder, family)
    weights = load_file(folder / "model.safetensors")
    shrunk = {
        name: value / 6.0 if value.ndim == 2 and "embed" not in name else value
        for name, value in weights.items()
    }
    save_file(shrunk, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def shuffled(items: list[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(items, len(items))


def pictosafe_rows(
    folder: Path, *, scenes: int, levels: tuple[str, ...] = ("pictosafe/l3", "pictosafe/l5")
) -> Path:
    """``labels.jsonl`` of fresh PictoSafe scenes under some levels, with exact violations."""
    from policyguard.pictosafe.render import Renderer, styles
    from policyguard.pictosafe.rules import symbolic_level, violating
    from policyguard.pictosafe.scene import draw_scene

    rng, renderer = random.Random(5), Renderer(styles()[0])
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(scenes):
        scene = draw_scene(rng)
        path = folder / "images" / f"scene-{number}.png"
        renderer.draw(scene).save(path)
        for level in levels:
            broken = violating(symbolic_level(level), scene)
            rules = tuple(dict.fromkeys(rule for rule, _ in broken))
            shown = [scene.names[place] for rule, place in broken if rule == rules[0]]
            rows.append(
                LabelRow(
                    **provenance(path, folder),  # type: ignore[arg-type]
                    policy=level,
                    label="unsafe" if rules else "safe",
                    category=rules[0] if rules else None,
                    violations=rules,
                    rationale=f"The scene shows {', '.join(shown)}." if rules else None,
                )
            )
    write_rows(folder / "labels.jsonl", rows)
    return folder / "labels.jsonl"


def train(stage: str, folder: Path, values: dict[str, Any]) -> Path:
    return start(load_recipe(write_recipe(folder / f"{stage}.yaml", values)))


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "training/record.json").read_text())
    return found


def held_out_losses(out: Path) -> list[float]:
    return [entry["eval_loss"] for entry in record(out)["history"] if "eval_loss" in entry]


CLOCK = ("runtime", "per_second", "step_time", "duration")
"""In the names of logged figures that tell how fast the machine was."""


def left(out: Path) -> dict[str, Any]:
    """What a finished run holds that must not depend on where it was killed."""
    found: dict[str, Any] = {file.name: sha256_of(file) for file in sorted(out.glob("*.safetensors"))}
    found["history"] = [
        {name: value for name, value in entry.items() if not any(part in name for part in CLOCK)}
        for entry in record(out)["history"]
        if "train_loss" not in entry  # of this start only
    ]
    card = (out / "README.md").read_text().splitlines()
    found["card"] = [line for line in card if not any(part in line for part in CLOCK)]
    watched = out / "training/watch.jsonl"
    found["watch.jsonl"] = watched.read_text() if watched.exists() else None
    return found


def differences(expected: dict[str, Any], after: dict[str, Any]) -> list[str]:
    differs = [key for key in expected if expected[key] != after.get(key) and key != "history"]
    for before, now in zip_longest(expected["history"], after["history"], fillvalue={}):
        names = [name for name in before | now if before.get(name) != now.get(name)]
        differs += [f"{name} at {before.get('step')}: {before.get(name)}, {now.get(name)}" for name in names]
    return differs[:5]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "model.safetensors")
    return found


def changed(before: Path, after: Path) -> set[str]:
    old, new = weights(before), weights(after)
    assert old.keys() == new.keys()
    return {name for name in old if not old[name].equal(new[name])}


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return os.environ | {"PYTHONPATH": str(root / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
