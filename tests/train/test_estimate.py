"""Estimates against recipes worked out by hand, and updates against those that runs take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from policyguard.train.command import dry_run, prepare, start
from policyguard.train.estimate import Sizes, estimate
from policyguard.train.recipe import GrpoRecipe, SftRecipe, load_recipe
from support.tiny_models import tiny_model
from support.training import caption_rows, label_rows, recipe, record, write_recipe

GIB = 2**30
SEVEN = Sizes(8_292_166_656, 676_550_144, 28, 3584, 152_064, 512, 28 * 90_112)
"""Qwen2.5-VL-7B. A rank of LoRA adds to a layer: 2(3584 + 3584) + 2(3584 + 512) + 3(3584 + 18944) weights."""
EIGHT = Sizes(8_770_000_000, 576_000_000, 36, 4096, 151_936, 1024, 36 * 76_000)
FOUR = Sizes(4_440_000_000, 413_000_000, 36, 2560, 151_936, 1024, 36 * 57_344)

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
