"""Kills training runs at random moments, starts them again, and compares with one that nobody disturbed.

    PYTHONPATH=tests python benchmarks/train_kills.py --kills 10               # of sft, grpo and stop
    PYTHONPATH=tests python benchmarks/train_kills.py --kills 3 --stage grpo

Each run is killed once with SIGKILL wherever it is (measuring prompts, between updates, writing a checkpoint
or the finished model), started again with the same command, and must leave the same bytes: all weights,
every logged figure and line of the card but the clock's, and the lines of ``watch.jsonl``. Two recipes take
turns: full fine-tuning, and LoRA with dropout; for grpo the first has the KL term and two steps per update,
and the second the difficulty filter. Runs of ``stop`` measure while they train and end early: the first is
one of grpo by balanced accuracy, the second one of assess by loss. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from policyguard.train.models import is_complete
from support.training import (
    caption_rows,
    differences,
    environment,
    gentle_model,
    label_rows,
    left,
    pictosafe_rows,
    recipe,
    write_recipe,
)

STAGES = ["sft", "grpo", "stop"]


def recipes(stage: str, folder: Path) -> list[dict[str, Any]]:
    """Two recipes of ``stage`` that take some seconds each; their ``out`` is still to be set."""
    lora = {"mode": "lora", "rank": 8, "alpha": 16, "dropout": 0.1}
    every = {"save_every": 3}
    if stage == "sft":
        base, rows = gentle_model(folder / "base", "qwen3_vl"), caption_rows(folder / "captions")
        optim = {"batch": 2, "accumulate": 2, "max_steps": 40, "schedule": "cosine", "warmup": 0.1}
        full = recipe("sft", base, rows, folder, optim=optim, run=every)
        workers = every | {"loader_workers": 1}
        return [full, recipe("sft", base, rows, folder, optim=optim, run=workers, tune=lora)]
    if stage == "stop":
        return [stopping_grpo(folder), stopping_assess(folder)]
    rows = pictosafe_rows(folder / "labels", scenes=20)
    shared: dict[str, Any] = {
        "dialect": "pico",
        "rollout": {"group": 8, "max_tokens": 6, "temperature": 1.9},
        "optim": {"batch": 16, "lr": 1e-4, "max_steps": 12, "schedule": "cosine"},
        "data": {"held_out": 0.0},
        "watch": {"max_zero_variance": 1.0, "stop": False},
        "run": {"save_every": 2},
    }
    full = recipe("grpo", "pico", rows, folder, **shared, grpo={"beta": 0.01})
    full["optim"] |= {"batch": 8, "accumulate": 2}
    filtered = recipe("grpo", "pico", rows, folder, **shared, tune=lora, difficulty={"filter": True})
    filtered["difficulty"] |= {"samples": 4}
    filtered["variants"] = {"units": 12}
    return [full, filtered]


def stopping_grpo(folder: Path) -> dict[str, Any]:
    """Ends when pico, which a large learning rate spoils, has not got better in two evaluations."""
    return recipe(
        "grpo",
        "pico",
        pictosafe_rows(folder / "labels", scenes=20),
        folder,
        dialect="pico",
        rollout={"group": 8, "max_tokens": 6, "temperature": 1.9},
        optim={"batch": 16, "lr": 1e-3, "max_steps": 40, "schedule": "cosine"},
        watch={"max_zero_variance": 1.0, "stop": False},
        run={"eval_every": 2},
        measure={"rows": 8},
        stop={"on": "balanced_accuracy", "patience": 2},
    )


def stopping_assess(folder: Path) -> dict[str, Any]:
    """Ends when the loss has not got better by much in two evaluations."""
    return recipe(
        "assess",
        gentle_model(folder / "base", "qwen3_vl"),
        label_rows(folder / "pictures", count=24),
        folder,
        tune={"mode": "lora", "rank": 8, "alpha": 16, "dropout": 0.1},
        optim={"batch": 2, "max_steps": 60},
        run={"eval_every": 2, "loader_workers": 1},
        measure={"rows": 4},
        stop={"on": "loss", "patience": 2, "min_gain": 0.3},
    )


def launch(path: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        command = [sys.executable, "-m", "policyguard.train", str(path)]
        return subprocess.Popen(command, env=environment(), stdout=file, stderr=file, start_new_session=True)


def begun(out: Path, process: subprocess.Popen[bytes]) -> float:
    """When the run had passed its checks. Before that there is nothing on the disk to spoil."""
    while not (out / "training/run.json").exists():
        if process.poll() is not None:
            raise RuntimeError(f"the run in {out} ended before it began")
        time.sleep(0.02)
    return time.monotonic()


def whole(process: subprocess.Popen[bytes], log: Path) -> None:
    if process.wait() != 0:
        raise RuntimeError(log.read_text(errors="replace")[-3000:])


def place(out: Path) -> str:
    """Where a killed run was, as its folder tells."""
    work = out / "training"
    checkpoints = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    half = [path.name for path in checkpoints if not (path / "COMPLETE").exists()]
    if (work / "model.partial").exists():
        return "writing the model"
    if half:
        return f"writing {half[-1]}"
    if checkpoints:
        return f"after {checkpoints[-1].name}"
    measured = sum(len(path.read_text().splitlines()) for path in work.glob("difficulty-*.jsonl"))
    return f"before a checkpoint, {measured} prompts measured" if measured else "before a checkpoint"


def kill_once(values: dict[str, Any], folder: Path, seconds: float, draw: random.Random) -> tuple[str, Path]:
    """A finished run that was killed once, and where. Draws again while runs end before they are killed."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        out, log = folder / "out", folder / "log"
        path = write_recipe(folder / "run.yaml", values | {"out": str(out)})
        process = launch(path, log)
        begun(out, process)
        time.sleep(draw.uniform(0, seconds))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not is_complete(out):
                break
        seconds *= 0.9
    where = place(out)
    whole(launch(path, log), log)
    return where, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each stage")
    parser.add_argument("--stage", choices=STAGES, action="append")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        for stage in options.stage or STAGES:
            folder, draw = Path(name) / stage, random.Random(f"{options.seed}/{stage}")
            folder.mkdir()
            undisturbed = []
            for number, values in enumerate(recipes(stage, folder)):
                place_ = folder / f"whole-{number}"
                place_.mkdir()
                out, log = place_ / "out", place_ / "log"
                process = launch(write_recipe(place_ / "run.yaml", values | {"out": str(out)}), log)
                start = begun(out, process)
                whole(process, log)
                undisturbed.append((values, left(out), time.monotonic() - start))
            for number in range(options.kills):
                values, expected, seconds = undisturbed[number % len(undisturbed)]
                where, out = kill_once(values, folder / "killed", seconds, draw)
                after = left(out)
                differs = differences(expected, after)
                bad += bool(differs)
                said = f"differs in {', '.join(differs)}" if differs else "same bytes"
                mode = f"{values['stage']}, {values['tune']['mode']}"
                print(f"{number + 1:3} {mode:12} killed {where}: {said}", flush=True)
    print(f"{bad} runs differ")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
