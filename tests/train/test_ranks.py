"""Several processes as one run: in shards (FSDP2, ZeRO), whole on each, in one order; one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from support.training import (
    caption_rows,
    changed,
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
from support.waiting import wait_until

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


def sharded(sharding: str, path: Path, port: int) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    options = [
        str(ROOT / f"train/accelerate/{sharding}.yaml"),
        "--num_processes",
        "2",
        "--mixed_precision",
        "no",
    ]
    script = str(ROOT / "tests/support/sharded_on_cpu.py")
    return [*launch, *options, "--main_process_port", str(port), script, str(path)]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


DEEPSPEED = pytest.mark.skipif(
    find_spec("deepspeed") is None,
    reason="needs DS_ACCELERATOR=cpu DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed",
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize(
    "sharding", ["fsdp2", pytest.param("zero2", marks=DEEPSPEED), pytest.param("zero3", marks=DEEPSPEED)]
)
def test_shards_take_two_steps_and_learn_what_one_process_learns(
    sharding: str, mode: str, tmp_path: Path
) -> None:
    base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), caption_rows(tmp_path / "data")
    tune = {"mode": mode, "rank": 8, "alpha": 16}
    optim = {"max_steps": 2, "lr": 1e-4}
    alone = train("sft", tmp_path, recipe("sft", base, rows, tmp_path / "alone", optim=optim, tune=tune))
    shared = {"devices": 2, "sharding": sharding, "save_every": 1}
    out = tmp_path / "out"
    values = recipe("sft", base, rows, out, optim=optim | {"batch": 2}, run=shared, tune=tune)
    done = run(sharded(sharding, write_recipe(tmp_path / "run.yaml", values), 29591))
    assert done.returncode == 0, done.stderr[-3000:]
    assert held_out_losses(out) == pytest.approx(held_out_losses(alone), abs=1e-3)
    moved = moves(base, alone, out)
    assert moved["apart"] < 0.05 * moved["moved"]
    assert record(out)["ranks"] == []  # each has its share
    assert weights(out).keys() == weights(base).keys()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "sharding", ["fsdp2", pytest.param("zero2", marks=DEEPSPEED), pytest.param("zero3", marks=DEEPSPEED)]
)
def test_in_shards_all_ranks_measure_the_model_and_the_kl_reference_is_whole(
    sharding: str, tmp_path: Path
) -> None:
    """Under FSDP2 only the first rank reads weights from the disk: the others must not work with zeros."""
    rows = pictosafe_rows(tmp_path / "data", scenes=12)
    shared = {"devices": 2, "sharding": sharding, "save_every": 1}
    changes = PICO | {"optim": {"batch": 8, "lr": 1e-4, "max_steps": 2}, "run": shared}
    changes |= {
        "grpo": {"beta": 0.01},
        "difficulty": {"filter": True, "samples": 16},  # hot as it is, pico is right in one of ten
        "variants": {"units": 6},
    }
    out = tmp_path / "out"
    path = write_recipe(tmp_path / "run.yaml", recipe("grpo", "pico", rows, out, **changes))
    done = run(sharded(sharding, path, 29593))
    assert done.returncode == 0, done.stderr[-3000:]
    assert record(out)["history"][0]["kl"] == pytest.approx(0.0, abs=1e-6)
    for rank in (0, 1):
        lines = (out / f"training/difficulty-{rank}.jsonl").read_text().splitlines()
        assert any(json.loads(line)["right"] for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_devices_that_do_not_share_out_what_the_recipe_says_are_refused(tmp_path: Path) -> None:
    base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), caption_rows(tmp_path / "data")
    shared = {"devices": 2, "sharding": "fsdp2"}
    path = write_recipe(tmp_path / "run.yaml", recipe("sft", base, rows, tmp_path / "out", run=shared))
    done = run(torchrun(path, 2, 29595))
    assert done.returncode != 0
    assert "run.sharding is fsdp2, and these devices share out none (MULTI_CPU)" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_four_ranks_read_in_one_order_and_end_with_equal_weights_near_those_of_one_process(
    tmp_path: Path,
) -> None:
    base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), caption_rows(tmp_path / "data", count=40)
    rows.write_text("".join(map(told_apart, rows.read_text().splitlines())))

    def both(name: str, lr: float) -> tuple[Path, Path]:
        optim = {"lr": lr, "max_steps": 6}
        one = recipe("sft", base, rows, tmp_path / f"{name}-1", optim=optim | {"batch": 4})
        four = recipe(
            "sft", base, rows, tmp_path / f"{name}-4", optim=optim | {"batch": 1}, run={"devices": 4}
        )
        done = run(torchrun(write_recipe(tmp_path / f"{name}.yaml", four), 4, 29597))
        assert done.returncode == 0, done.stderr[-3000:]
        return train("sft", tmp_path, one), tmp_path / f"{name}-4"

    alone, ranks = both("still", 1e-12)  # the weights stay, so each loss tells which rows an update had
    for number, loss in enumerate(losses(ranks)):  # rows of unequal length weigh a little otherwise
        apart = [abs(loss - other) for other in losses(alone)]
        assert apart.index(min(apart)) == number
    alone, ranks = both("moving", 1e-4)
    digests = record(ranks)["ranks"]
    assert len(digests) == 4
    assert len(set(digests)) == 1
    assert changed(base, ranks)
    moved = moves(base, alone, ranks)
    assert (
        moved["apart"] < 0.02 * moved["moved"]
    )  # rounding, which Adam makes steps of where gradients are tiny


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_four_ranks_of_grpo_end_with_equal_weights(tmp_path: Path) -> None:
    rows = pictosafe_rows(tmp_path / "data", scenes=16)
    changes = PICO | {"optim": {"batch": 4, "lr": 1e-4, "max_steps": 2}, "run": {"devices": 4}}
    path = write_recipe(tmp_path / "run.yaml", recipe("grpo", "pico", rows, tmp_path / "out", **changes))
    done = run(torchrun(path, 4, 29599))
    assert done.returncode == 0, done.stderr[-3000:]
    digests = record(tmp_path / "out")["ranks"]
    assert len(digests) == 4
    assert len(set(digests)) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_rank_that_dies_ends_the_others_and_the_launcher_says_of_what(tmp_path: Path) -> None:
    base, rows = gentle_model(tmp_path / "base", "qwen3_vl"), caption_rows(tmp_path / "data")
    optim, out = {"batch": 2, "max_steps": 100_000}, tmp_path / "out"
    path = write_recipe(
        tmp_path / "run.yaml", recipe("sft", base, rows, out, optim=optim, run={"devices": 2})
    )
    with subprocess.Popen(
        torchrun(path, 2, 29601),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as launched:
        wait_until(lambda: launched.poll() is not None or list(out.glob("training/checkpoint-*/COMPLETE")))
        children = Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
        ranks = [child for child in children if rank_of(child) is not None]
        assert len(ranks) == 2
        os.kill(int(next(child for child in ranks if rank_of(child) == "1")), signal.SIGKILL)
        _, said = launched.communicate()
    assert launched.returncode != 0
    assert not [child for child in ranks if Path(f"/proc/{child}").exists()]
    assert "Signal 9 (SIGKILL)" in said
    assert not (out / "config.json").exists()


def rank_of(process: str) -> str | None:
    values = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((value[5:].decode() for value in values if value.startswith(b"RANK=")), None)


def told_apart(line: str) -> str:
    """A caption of its own for each row."""
    row = json.loads(line)
    row["caption"] += " " + " ".join(row["sha256"][:6])
    return json.dumps(row) + "\n"


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in record(out)["history"] if "loss" in entry]


def moves(base: Path, one: Path, other: Path) -> dict[str, float]:
    """How far two models have come from their base, and how far they are apart: means over all weights."""
    start, first, second = weights(base), weights(one), weights(other)
    count = sum(value.numel() for value in start.values())
    moved = sum(float((first[name] - start[name]).abs().sum()) for name in start)
    apart = sum(float((first[name] - second[name]).abs().sum()) for name in start)
    return {"moved": moved / count, "apart": apart / count}
