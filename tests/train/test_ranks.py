"""Several processes as one run: shared out by FSDP2, whole on each, in one order; and one of them dies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.training import (
    caption_rows,
    environment,
    gentle_model,
    held_out_losses,
    pictosafe_rows,
    recipe,
    record,
    train,
    weights,
    write_recipe,
)

ROOT = Path(__file__).parents[2]
PICO: dict[str, Any] = {
    "dialect": "pico",
    "rollout": {"group": 4, "max_tokens": 6, "temperature": 1.9},
    "data": {"held_out": 0.0},
    "watch": {"max_zero_variance": 1.0},
}


def torchrun(path: Path, ranks: int, port: int) -> list[str]:
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(ranks)]
    return [*run, "--master_port", str(port), "-m", "policyguard.train", str(path)]


def fsdp2(path: Path, port: int) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    options = [str(ROOT / "train/accelerate/fsdp2.yaml"), "--num_processes", "2", "--mixed_precision", "no"]
    script = str(ROOT / "tests/support/sharded_on_cpu.py")
    return [*launch, *options, "--main_process_port", str(port), script, str(path)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_fsdp2_takes_two_steps_and_learns_what_one_process_learns(mode: str, tmp_path: Path) -> None:
    base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), caption_rows(tmp_path / "data")
    tune = {"mode": mode, "rank": 8, "alpha": 16}
    optim = {"max_steps": 2, "lr": 1e-4}
    alone = train("sft", tmp_path, recipe("sft", base, rows, tmp_path / "alone", optim=optim, tune=tune))
    shared = {"devices": 2, "sharding": "fsdp2", "save_every": 1}
    out = tmp_path / "out"
    values = recipe("sft", base, rows, out, optim=optim | {"batch": 2}, run=shared, tune=tune)
    done = run(fsdp2(write_recipe(tmp_path / "run.yaml", values), 29591))
    assert done.returncode == 0, done.stderr[-3000:]
    assert held_out_losses(out) == pytest.approx(held_out_losses(alone), abs=1e-3)
    moved = moves(base, alone, out)
    assert moved["apart"] < 0.05 * moved["moved"]
    assert record(out)["ranks"] == []  # each has its share


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_under_fsdp2_all_ranks_measure_the_model_and_the_kl_reference_is_whole(tmp_path: Path) -> None:
    """Only the first rank reads the weights from the disk: the others must not work with zeros."""
    rows = pictosafe_rows(tmp_path / "data", scenes=12)
    shared = {"devices": 2, "sharding": "fsdp2", "save_every": 1}
    changes = PICO | {"optim": {"batch": 8, "lr": 1e-4, "max_steps": 2}, "run": shared}
    changes |= {
        "grpo": {"beta": 0.01},
        "difficulty": {"filter": True, "samples": 2},
        "variants": {"units": 6},
    }
    out = tmp_path / "out"
    path = write_recipe(tmp_path / "run.yaml", recipe("grpo", "pico", rows, out, **changes))
    done = run(fsdp2(path, 29593))
    assert done.returncode == 0, done.stderr[-3000:]
    assert record(out)["history"][0]["kl"] == pytest.approx(0.0, abs=1e-6)
    for rank in (0, 1):
        lines = (out / f"training/difficulty-{rank}.jsonl").read_text().splitlines()
        assert any(json.loads(line)["right"] for line in lines)


def moves(base: Path, one: Path, other: Path) -> dict[str, float]:
    """How far two models have come from their base, and how far they are apart: means over all weights."""
    start, first, second = weights(base), weights(one), weights(other)
    count = sum(value.numel() for value in start.values())
    moved = sum(float((first[name] - start[name]).abs().sum()) for name in start)
    apart = sum(float((first[name] - second[name]).abs().sum()) for name in start)
    return {"moved": moved / count, "apart": apart / count}
