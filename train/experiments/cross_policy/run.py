#!/usr/bin/env python
"""The cross-policy experiment:  python train/experiments/cross_policy/run.py

Every run is a chain of training stages (``policyguard.train``) from one base model, measured at its end. What
a run found is written to ``results/`` as it finishes, and is not done again; so the experiment accumulates
over interruptions. ``--only NAME...`` and ``--seeds`` choose runs; ``tables.py`` writes docs/experiments.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CPU = {
    "device": "cpu",
    "precision": "fp32",
    "gradient_checkpointing": False,
    "loader_workers": 0,
    "save_every": 50,
    "eval_every": 1000,
    "log_every": 5,
}
BATCH = 32


@dataclass(frozen=True)
class Step:
    """One stage of a chain. ``rows``: how many; ``on``: what they are (see ``material``)."""

    stage: Literal["sft", "assess", "grpo"]
    on: str
    rows: int
    updates: int
    lr: float

    @property
    def key(self) -> str:
        return f"{self.stage}-{self.on.replace('/', '-')}-{self.rows}-{self.updates}-{self.lr:g}"


WARM_UP = Step("assess", "random-plain", 4000, 120, 1e-3)
"""Verdicts under random policies: without it GRPO starts from chance. Reported as a deviation."""
PLAIN = Step("sft", "captions-plain", 3000, 100, 5e-4)
RECAP = Step("sft", "captions-edited", 3000, 100, 5e-4)
VERDICTS = Step("assess", "", 1500, 120, 5e-4)
REINFORCE = Step("grpo", "", 1500, 100, 1e-4)


def _on(step: Step, rows: str) -> Step:
    return replace(step, on=rows)


CHAINS: dict[str, tuple[Step, ...]] = {
    "base": (),
    "warm": (WARM_UP,),
    # one policy only (the paper's Table 3)
    **{f"assess-l{n}": (WARM_UP, _on(VERDICTS, f"pictosafe/l{n}")) for n in (1, 4, 5)},
    **{f"grpo-l{n}": (WARM_UP, _on(REINFORCE, f"pictosafe/l{n}")) for n in (1, 4, 5)},
    # what the first stage is worth (Table 5)
    "plain-warm": (PLAIN, WARM_UP),
    "recap": (RECAP,),
    "recap-warm": (RECAP, WARM_UP),
    "recap-warm-grpo": (RECAP, WARM_UP, _on(REINFORCE, "random-plain")),
    # edit pairs (Table 6)
    "warm-grpo": (WARM_UP, _on(REINFORCE, "random-plain")),
    "warm-grpo-pairs": (WARM_UP, _on(REINFORCE, "random-pairs")),
    # the supervised counterpart
    "warm-assess": (WARM_UP, _on(VERDICTS, "random-plain")),
}


def rows_of(step: Step, work: Path, seed: int) -> Path:
    """The rows of a step, drawn once."""
    import material

    folder = work / "data" / f"{step.on.replace('/', '-')}-{step.rows}-{seed}"
    done = folder / "rows.jsonl"
    if done.exists():
        return done
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    if step.on.startswith("captions-"):
        material.captions(part, count=step.rows, seed=seed, edited=step.on.endswith("edited"))
    elif step.on == "random-pairs" or step.on == "random-plain":
        material.random_rows(part, count=step.rows, seed=seed, kind=step.on.removeprefix("random-"))
    else:
        material.level_rows(part, step.on, count=step.rows, seed=seed)
    part.rename(folder)
    return done


def recipe_of(step: Step, *, model: Path, out: Path, rows: Path, seed: int) -> dict[str, Any]:
    """The recipe that the stage is run with."""
    optim = {
        "lr": step.lr,
        "schedule": "linear",
        "warmup": 0.05,
        "batch": BATCH,
        "accumulate": 1,
        "max_steps": step.updates,
    }
    recipe: dict[str, Any] = {
        "stage": step.stage,
        "model": str(model),
        "out": str(out),
        "seed": seed,
        "data": {"rows": str(rows), "one_label": True},
        "tune": {"mode": "full", "vision": "trained" if step.stage == "sft" else "frozen"},
        "optim": optim,
        "run": CPU,
    }
    if step.stage != "sft":
        recipe["dialect"] = "pico"
    if step.stage == "assess":
        single = step.on.startswith("pictosafe/")
        recipe["augment"] = {"decision_sentences": False, "balance": False} | (
            {"exceptions": 0.0, "irrelevant": 0.0} if single else {}
        )
    if step.stage == "grpo":
        single = step.on.startswith("pictosafe/")
        recipe["rollout"] = {"group": 8, "max_tokens": 8}
        recipe["optim"] = optim | {"batch": 128, "schedule": "constant"}
        recipe["watch"] = {"stop": False}
        recipe["variants"] = dict.fromkeys(("exempt", "subset", "rename", "reorder", "reword"), 0.0) | {
            "swap": 0.0,
            "lone": "keep",
        }
    return recipe


def chain(name: str, base: Path, work: Path, seed: int) -> tuple[Path, list[dict[str, Any]]]:
    """Run what of the chain is not there yet; the model's folder, and what each stage took."""
    model, stages = base, []
    path = work / "models" / f"seed-{seed}"
    for step in CHAINS[name]:
        path = path / step.key
        took = path / "took.json"
        if not took.exists():
            rows = rows_of(step, work, seed)
            path.mkdir(parents=True, exist_ok=True)
            recipe = recipe_of(step, model=model, out=path / "model", rows=rows, seed=seed)
            file = path / "recipe.yaml"
            file.write_text(yaml.safe_dump(recipe, sort_keys=False))
            start = time.monotonic()
            with (path / "log.txt").open("a") as log:
                command = [sys.executable, "-m", f"policyguard.train.{step.stage}", str(file)]
                subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
            took.write_text(json.dumps(asdict(step) | {"minutes": (time.monotonic() - start) / 60}))
        stages.append(json.loads(took.read_text()))
        model = path / "model"
    return model, stages


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=HERE / "base-model", help="the model that base.py made")
    parser.add_argument("--work", type=Path, default=Path("runs/cross-policy"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=tuple(CHAINS), default=list(CHAINS))
    parser.add_argument("--scenes", type=int, default=300)
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    weights = hashlib.sha256((arguments.base / "model.safetensors").read_bytes()).hexdigest()
    for seed in arguments.seeds:
        for name in arguments.only:
            out = RESULTS / f"{name}-seed{seed}.json"
            if out.exists():
                continue
            model, stages = chain(name, arguments.base, arguments.work, seed)
            import measure

            subject = measure.Subject(model)
            found = {
                "run": name,
                "seed": seed,
                "base_sha256": weights,
                "stages": stages,
                "safety": measure.safety(
                    subject, seed=1000 + seed, scenes=arguments.scenes, random=400, pairs=100
                ),
                "general": measure.general(subject, seed=1000 + seed, count=200),
            }
            part = out.with_suffix(".part")
            part.write_text(json.dumps(found, indent=1) + "\n")
            part.replace(out)
            levels = {
                k[-2:]: round(v["balanced_accuracy"], 3) for k, v in found["safety"].items() if "/" in k
            }
            print(name, seed, levels, round(found["safety"]["random"]["balanced_accuracy"], 3), flush=True)


if __name__ == "__main__":
    main()
