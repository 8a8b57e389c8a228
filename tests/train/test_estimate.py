"""Estimates against recipes worked out by hand, and against the updates and the memory that runs take."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policyguard.train.command import dry_run, prepare, start
from policyguard.train.estimate import Sizes, estimate
from policyguard.train.recipe import GrpoRecipe, SftRecipe, load_recipe
from support.tiny_models import build_tiny_model, tiny_model
from support.training import caption_rows, environment, label_rows, recipe, record, write_recipe

GIB = 2**30
SEVEN = Sizes(8_292_166_656, 676_550_144, 28, 3584, 152_064, 3584, 512, 18_944, 28 * 90_112)
"""Qwen2.5-VL-7B. A rank of LoRA adds to a layer: 2(3584 + 3584) + 2(3584 + 512) + 3(3584 + 18944) weights."""
EIGHT = Sizes(8_770_000_000, 576_000_000, 36, 4096, 151_936, 4096, 1024, 12_288, 36 * 76_000)
FOUR = Sizes(4_440_000_000, 413_000_000, 36, 2560, 151_936, 4096, 1024, 9_728, 36 * 57_344)

BY_HAND: dict[str, tuple[Sizes, int, int, float, float, float]] = {
    # examples, updates; GiB of weights, of gradients and optimiser, for sampling
    "safeguard-vl/sft": (SEVEN, 10_000, 157, 15.7, 0.26, 0.0),
    # bf16 weights on each of 8, replicated; 161 M trained, 14 bytes each, shared out
    "safeguard-vl/rl": (SEVEN, 6_000, 3_000, 3.9, 12.4, 0.11),
    # bf16 weights and those of the reference, shared out; 7.6 G trained, 14 bytes each, shared out
    "qwen3-vl/8b-grpo": (EIGHT, 6_000, 93, 8.6, 11.4, 24.0),
    # float32 weights and the reference's, shared out, and one layer in bf16; 8.2 G trained, 12 bytes each
    "lora/24gb-grpo": (FOUR, 6_000, 1_500, 8.6, 0.74, 4.4),
    # bf16 weights; 66 M trained; 32 answers of 1000 tokens, 36 layers, keys and values of 1024 in bf16
    "lora/80gb-grpo": (SEVEN, 6_000, 375, 16.3, 1.8, 32.0),
    # bf16 weights; 161 M trained, 12 bytes each; 0.4 of 80 GiB to vLLM
    "llavaguard/assess-7b": (SEVEN, 8_000, 501, 8.2, 21.3, 0.0),
    # float32 weights on 4, shared out, and one layer in bf16; 7.6 G trained, 12 bytes each, shared out
}


@pytest.mark.parametrize("name", BY_HAND)
def test_estimates_are_those_worked_out_by_hand(name: str) -> None:
    sizes, examples, updates, weights, optimizer, rollout = BY_HAND[name]
    loaded: Any = load_recipe(name)
    guess = estimate(loaded, sizes, examples=examples, tokens=1000, device_memory=80 * GIB)
    assert guess.steps == updates
    assert guess.weights / GIB == pytest.approx(weights, rel=0.05)
    assert guess.optimizer / GIB == pytest.approx(optimizer, rel=0.05)
    assert guess.rollout / GIB == pytest.approx(rollout, rel=0.05)


def test_each_way_of_sharing_out_keeps_what_it_keeps() -> None:
    loaded = load_recipe("safeguard-vl/sft", settings=["tune.mode=full", "run.devices=4"])
    assert isinstance(loaded, SftRecipe)

    def bytes_of(sharding: str) -> tuple[float, float]:
        changed = loaded.model_copy(update={"run": loaded.run.model_copy(update={"sharding": sharding})})
        guess = estimate(changed, SEVEN, examples=100, tokens=1000)
        return guess.weights / SEVEN.weights, guess.optimizer / (SEVEN.weights - SEVEN.vision)

    none, zero2, zero3, fsdp2 = map(bytes_of, ("none", "zero2", "zero3", "fsdp2"))
    assert none == (pytest.approx(4 + 2 * 0.918, rel=0.01), pytest.approx(16))
    assert zero2 == (pytest.approx(2), pytest.approx(3.5))
    assert zero3 == (pytest.approx(0.5), pytest.approx(3.5))
    assert fsdp2 == (pytest.approx(1 + 2 * 0.918 / 28, rel=0.01), pytest.approx(3))


FULL: dict[str, Any] = {"mode": "full", "vision": "frozen"}
LORA: dict[str, Any] = {"mode": "lora", "vision": "frozen", "rank": 16, "alpha": 32}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("stage", "tune", "kind"),
    [
        ("sft", FULL, "fp32"),
        ("sft", FULL, "bf16"),
        ("sft, several steps", FULL, "bf16, checkpointing"),
        ("sft", LORA, "fp32"),
        ("sft", LORA, "bf16, checkpointing"),
        ("assess", FULL, "fp32, checkpointing"),
        ("grpo", FULL, "fp32"),
        ("grpo, KL term", FULL, "bf16, checkpointing"),
        ("grpo", LORA, "bf16"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["mode"],
)
def test_a_run_takes_as_much_memory_as_was_estimated(
    stage: str, tune: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    """Within 15% of the peak of what torch allocates, for a model of the proportions of large ones."""
    stage, _, more = stage.partition(", ")
    precision = kind.partition(",")[0]
    base = proportioned_model(tmp_path / "base", "float32" if tune["mode"] == "lora" else "bfloat16")
    if stage == "sft":
        rows = caption_rows(tmp_path / "data")
        rows.write_text(rows.read_text().replace("the picture.", "the picture " * 80))
    else:
        rows = label_rows(tmp_path / "data")
    optim: dict[str, Any] = {"batch": 8 if stage == "sft" else 4, "max_steps": 2}
    run = {"precision": precision, "gradient_checkpointing": "checkpointing" in kind}
    changes: dict[str, Any] = {"data": {"held_out": 0.0}, "tune": tune, "optim": optim, "run": run}
    if more == "several steps":
        optim |= {"batch": 4, "accumulate": 2}
    if stage == "grpo":
        changes |= {"rollout": {"group": 2, "max_tokens": 8}, "watch": {"stop": False}}
        changes["grpo"] = {"beta": 0.01 if more else 0.0}
    path = write_recipe(tmp_path / "run.yaml", recipe(stage, base, rows, tmp_path / "out", **changes))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    estimated, measured = map(int, done.stdout.split()[-2:])
    assert estimated == pytest.approx(measured, rel=0.15)


MEASURE = """
import sys
from torch.profiler import ProfilerActivity, profile
from policyguard.train import command, preflight
from policyguard.train.estimate import estimate

found = []
def noted(*arguments, **options):
    found.append(estimate(*arguments, **options))
    return found[-1]

preflight.estimate = noted
loaded = command.prepare(None, sys.argv[1])
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as counted:
    command.start(loaded)
live = peak = 0
for event in counted.profiler.kineto_results.events():
    if event.name() == "[memory]":
        live += event.nbytes()
        peak = max(peak, live)
print(found[0].memory, peak)
"""
"""The estimate, and the peak of what torch's allocator gave out in the run. A process of its own: what other
tests leave would count too.
"""


def proportioned_model(folder: Path, dtype: str) -> Path:
    """A small Qwen3-VL of 4 layers, four times wider inside than outside, as most are. Its weights lie on the
    disk in another type than training wants, so that reading them takes the memory that it does on a GPU.
    """
    import torch
    from safetensors.torch import load_file, save_file

    text = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "head_dim": 32}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    build_tiny_model(folder, "qwen3_vl", text=text | heads, vision={"out_hidden_size": 256})
    file = folder / "model.safetensors"
    values = {name: value.to(getattr(torch, dtype)) for name, value in load_file(file).items()}
    save_file(values, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("stage", ["sft", "assess", "grpo"])
def test_a_run_takes_as_many_updates_as_were_estimated(stage: str, accumulate: int, tmp_path: Path) -> None:
    rows = (caption_rows if stage == "sft" else label_rows)(tmp_path / "data", count=15)
    optim = {"batch": 4, "accumulate": accumulate, "max_steps": None, "epochs": 2}
    changes: dict[str, Any] = {"optim": optim, "data": {"held_out": 0.0}}
    if stage == "grpo":
        changes |= {"rollout": {"group": 2, "max_tokens": 4}, "watch": {"stop": False}}
    values = recipe(stage, tiny_model("qwen3_vl"), rows, tmp_path / "out", **changes)
    loaded = prepare(stage, str(write_recipe(tmp_path / "run.yaml", values)))
    assert isinstance(loaded, GrpoRecipe) == (stage == "grpo")
    (note,) = [note for note in dry_run(loaded) if note.startswith("estimate")]
    estimated = re.search(r"(\d+) updates", note)
    assert estimated is not None
    steps = [entry["step"] for entry in record(start(loaded))["history"]]
    assert max(steps) == int(estimated[1])
