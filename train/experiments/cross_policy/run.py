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
import resource
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
    "save_every": 10,
    "eval_every": 1000,
    "log_every": 5,
}


@dataclass(frozen=True)
class Step:
    """One stage of a chain. ``rows``: how many; ``on``: what they are (see ``material``). ``batch`` counts
    examples, or for GRPO completions, ``group`` of them to a prompt. ``exact`` is GRPO by exact.py, in a
    ``form`` of it."""

    stage: Literal["sft", "assess", "grpo", "exact"]
    on: str
    rows: int
    updates: int
    lr: float
    schedule: Literal["linear", "constant"] = "constant"
    batch: int = 32
    group: int = 0
    unreadable: float = 0.0
    """What GRPO pays for an answer that cannot be read. Below zero it makes an unsure model say "safe", which
    is never unreadable, while "unsafe" can lack its rule."""
    form: str = ""

    @property
    def key(self) -> str:
        stage = self.stage + self.form
        name = f"{stage}-{self.on.replace('/', '-')}-{self.rows}-{self.updates}-{self.lr:g}"
        return f"{name}-{self.batch}-{self.group}-{self.schedule}" if self.group else name


WARM_UP = Step("assess", "random-plain", 2000, 60, 3e-4)
"""Verdicts under random policies, each row once: without it GRPO starts from chance. Short and gentle, so
that answers stay unsure, and those to one prompt differ. Reported as a deviation."""
LONG_WARM_UP = Step("assess", "random-plain", 4000, 120, 1e-3, "linear")
"""One that goes to where the verdicts stop to get better, and answers are sure."""
PLAIN = Step("sft", "captions-plain", 3000, 100, 5e-4, "linear")
RECAP = Step("sft", "captions-edited", 3000, 100, 5e-4, "linear")
VERDICTS = Step("assess", "", 1500, 80, 3e-4)
REINFORCE = Step("grpo", "", 1500, 45, 1.5e-4, batch=128, group=4)
LONG_VERDICTS = Step("assess", "", 1500, 120, 5e-4, "linear")
LONG_REINFORCE = Step("grpo", "", 1500, 100, 1e-4, batch=128, group=8, unreadable=-0.5)


def _on(step: Step, rows: str) -> Step:
    return replace(step, on=rows)


def _chains(warm: Step, verdicts: Step, reinforce: Step, rows: str) -> dict[str, tuple[Step, ...]]:
    return {
        "warm": (warm,),
        # one policy only (the paper's Table 3)
        **{f"assess-l{n}": (warm, _on(verdicts, f"pictosafe/l{n}")) for n in (1, 4, 5)},
        **{f"grpo-l{n}": (warm, _on(reinforce, f"pictosafe/l{n}")) for n in (1, 4, 5)},
        # what the first stage is worth (Table 5)
        "plain-warm": (PLAIN, warm),
        "recap-warm": (RECAP, warm),
        "recap-warm-grpo": (RECAP, warm, _on(reinforce, rows)),
        # edit pairs (Table 6)
        "warm-grpo": (warm, _on(reinforce, rows)),
        "warm-grpo-pairs": (warm, _on(reinforce, "random-pairs")),
        # the same two pictures under two policies that disagree on both: nothing helps but reading
        "warm-grpo-crossed": (warm, _on(reinforce, "random-crossed")),
        # the supervised counterpart
        "warm-assess": (warm, _on(verdicts, rows)),
    }


_LONG = _chains(LONG_WARM_UP, LONG_VERDICTS, LONG_REINFORCE, "random-plain")


def _exact(form: str, on: str = "random-new") -> tuple[Step, ...]:
    return (WARM_UP, replace(REINFORCE, stage="exact", on=on, form=form))


FORMS = ("4", "4-again", "16", "scaled", "expected", "log")
_MORE = replace(REINFORCE, stage="exact", on="random-more", rows=6100, updates=180)
EXACT: dict[str, tuple[Step, ...]] = {
    **{f"exact-{form}": _exact(form) for form in FORMS},
    **{f"exact-{form}-crossed": _exact(form, "random-crossed") for form in ("4", "scaled", "log")},
    **{f"exact-{form}-more": (*_exact(form), replace(_MORE, form=form)) for form in ("scaled", "log")},
}
"""GRPO taken apart: what limits it? Measured on random policies and on crossed ones only."""
CHAINS: dict[str, tuple[Step, ...]] = {
    "base": (),
    "recap": (RECAP,),
    **_chains(WARM_UP, VERDICTS, REINFORCE, "random-new"),
    **EXACT,
    **{f"long-{name}": steps for name, steps in _LONG.items()},
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
    elif step.on.startswith("random-"):
        kinds: dict[str, material.Pairs] = {"random-pairs": "pairs", "random-crossed": "crossed"}
        material.random_rows(
            part,
            name=step.on.removeprefix("random-"),
            count=step.rows,
            seed=seed,
            kind=kinds.get(step.on, "plain"),
        )
    else:
        material.level_rows(part, step.on, count=step.rows, seed=seed)
    part.rename(folder)
    return done


def recipe_of(step: Step, *, model: Path, out: Path, rows: Path, seed: int) -> dict[str, Any]:
    """The recipe that the stage is run with."""
    optim = {
        "lr": step.lr,
        "schedule": step.schedule,
        "warmup": 0.05,
        "batch": step.batch,
        "accumulate": 1,
        "max_steps": step.updates,
    }
    recipe: dict[str, Any] = {
        "stage": "grpo" if step.stage == "exact" else step.stage,
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
    if step.stage in ("grpo", "exact"):
        recipe["rollout"] = {"group": step.group, "max_tokens": 8}
        recipe["watch"] = {"stop": False}
        recipe["reward"] = {"unreadable": step.unreadable}
        recipe["variants"] = dict.fromkeys(("exempt", "subset", "rename", "reorder", "reword"), 0.0) | {
            "swap": 0.0,
            "lone": "keep",
        }
    return recipe


def _children() -> float:
    """Seconds of processor time that finished child processes have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
            start, before = time.monotonic(), _children()
            with (path / "log.txt").open("a") as log:
                command = [sys.executable, "-m", "policyguard.train", str(file)]
                if step.stage == "exact":
                    command = [sys.executable, str(HERE / "exact.py"), str(file), step.form]
                subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
            spent = {"minutes": (time.monotonic() - start) / 60, "cpu_minutes": (_children() - before) / 60}
            took.write_text(json.dumps(asdict(step) | spent))
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
    parser.add_argument("--only", nargs="+", choices=tuple(CHAINS), default=list(CHAINS), metavar="RUN")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where a JSON file per run goes")
    parser.add_argument("--scenes", type=int, default=150, help="how many to judge under each level")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    weights = hashlib.sha256((arguments.base / "model.safetensors").read_bytes()).hexdigest()
    for seed in arguments.seeds:
        for name in arguments.only:
            out = arguments.results / f"{name}-seed{seed}.json"
            if out.exists():
                continue
            model, stages = chain(name, arguments.base, arguments.work, seed)
            import measure

            subject = measure.Subject(model)
            found = {"run": name, "seed": seed, "base_sha256": weights, "stages": stages}
            counts = {"scenes": arguments.scenes, "random": 1000, "held_out": 400, "pairs": 100}
            if name in EXACT:
                counts |= {"scenes": 0, "held_out": 0, "pairs": 0}
            found["safety"] = measure.safety(subject, seed=1000 + seed, **counts)
            found["reading"] = measure.reading(subject, seed=1000 + seed, fours=150)
            if name not in EXACT:
                found["general"] = measure.general(subject, seed=1000 + seed, count=200)
            part = out.with_suffix(".part")
            part.write_text(json.dumps(found, indent=1) + "\n")
            part.replace(out)
            judged = found["safety"]["random"]
            print(name, seed, *(f"{judged[k]:.3f}" for k in ("balanced_accuracy", "auc")), flush=True)


if __name__ == "__main__":
    main()
