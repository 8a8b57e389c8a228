"""How much memory and time a run will take: rough, from sizes alone, before anything is loaded.

The memory of weights, gradients and Adam's state is exact to a few per cent; that of activations follows
Korthikanti et al. 2022 (34 bytes x tokens x width per layer, without attention maps) and is a guess, as is
the time, which counts 6 operations per weight and token (8 with recomputation) and assumes a share of the
device's peak. Both are upper bounds more often than not.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyguard.train.models import WORK, empty_model, is_vision
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, SftRecipe

__all__ = ["Estimate", "Sizes", "available_disk", "available_memory", "estimate", "measure"]

_PEAKS = {"H200": 990e12, "H100": 990e12, "A100": 312e12, "L40": 180e12, "A10": 125e12, "4090": 165e12}
_UTILISATION = 0.35
_GENERATION = 0.05
"""Share of the peak that token-by-token generation reaches."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a model: weights in all, of the vision tower, layers, width and vocabulary of the language model."""

    weights: int
    vision: int
    layers: int
    width: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes per device, tokens per row, seconds (``None`` where the device's speed is unknown), and the bytes
    that the finished model and the checkpoints take in the output folder.
    """

    weights: int
    optimizer: int
    activations: int
    tokens: int
    steps: int
    seconds: float | None
    disk: int

    @property
    def memory(self) -> int:
        return self.weights + self.optimizer + self.activations

    def __str__(self) -> str:
        parts = f"{_gib(self.weights)} weights, {_gib(self.optimizer)} gradients and optimiser, "
        parts += f"{_gib(self.activations)} activations"
        time = "unknown on this device" if self.seconds is None else _duration(self.seconds)
        return (
            f"memory per device about {_gib(self.memory)} ({parts}); {self.steps} updates of rows of about "
            f"{self.tokens} tokens; time about {time}; disk about {_gib(self.disk)}"
        )


def measure(folder: Path) -> Sizes:
    """The sizes of the model in ``folder``, built without memory for its weights."""
    model = empty_model(folder)
    text = model.config.get_text_config()
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    return Sizes(
        weights=sum(sizes.values()),
        vision=sum(size for name, size in sizes.items() if is_vision(name)),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
    )


def estimate(
    recipe: SftRecipe | AssessRecipe | GrpoRecipe, sizes: Sizes, *, rows: int, tokens: int
) -> Estimate:
    """``rows``: to train on. ``tokens``: of a typical row, image included."""
    tune, run, optim = recipe.tune, recipe.run, recipe.optim
    width = 4 if tune.mode == "full" or run.precision == "fp32" else 2
    if tune.mode == "full":
        trained = sizes.weights - (sizes.vision if tune.vision == "frozen" else 0)
    else:
        trained = sizes.layers * 14 * tune.rank * sizes.width  # seven matrices a layer, two factors each
    copies = 2 if isinstance(recipe, GrpoRecipe) and recipe.grpo.beta and tune.mode == "full" else 1
    sharded = run.devices  # with FSDP2 or ZeRO-3
    batch_tokens = optim.batch * tokens
    kept = 2 * sizes.width if run.gradient_checkpointing else 34 * sizes.width
    bytes_per = 2 if run.precision == "bf16" else 4
    activations = batch_tokens * (sizes.layers * kept * bytes_per // 2 + 34 * sizes.width)
    activations += batch_tokens * sizes.vocabulary * (4 + bytes_per)  # logits and their gradient
    per_update = optim.batch * optim.accumulate * run.devices
    if isinstance(recipe, GrpoRecipe):
        per_update = max(1, per_update // recipe.rollout.group)
    steps = optim.max_steps or max(1, round(rows * optim.epochs / per_update))
    checkpoint = trained * 12 if tune.mode == "lora" else sizes.weights * 4 + trained * 8
    return Estimate(
        weights=sizes.weights * width * copies // sharded,
        optimizer=trained * 12 // sharded,
        activations=activations,
        tokens=tokens,
        steps=steps,
        seconds=_seconds(recipe, sizes, steps, tokens),
        disk=sizes.weights * (2 if run.precision == "bf16" else 4)
        + min(run.keep + 1, steps // run.save_every + 1)
        * checkpoint,  # the oldest goes after the newest came
    )


def available_memory(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> int:
    """Bytes that one device has free: of the GPU, or of this machine."""
    import torch

    if recipe.run.device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) << 10
    except (OSError, ValueError, StopIteration):  # no Linux: all that there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available_disk(out: Path) -> int:
    """Bytes that a run in the folder ``out`` may fill: what is free, and what an earlier start wrote."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    written = sum(path.stat().st_size for path in (out / WORK).rglob("*") if path.is_file())
    return shutil.disk_usage(place).free + written


def _seconds(recipe: Any, sizes: Sizes, steps: int, tokens: int) -> float | None:
    peak = _peak(recipe)
    if peak is None:
        return None
    completions = recipe.optim.batch * recipe.optim.accumulate
    operations = (8 if recipe.run.gradient_checkpointing else 6) * sizes.weights * tokens * completions
    seconds = operations / (peak * _UTILISATION)
    if isinstance(recipe, GrpoRecipe):
        answer_tokens = recipe.rollout.max_tokens
        seconds += 2 * sizes.weights * (answer_tokens * completions) / (peak * _GENERATION)
    return float(seconds * steps)


def _peak(recipe: Any) -> float | None:
    import torch

    if recipe.run.device != "cpu" and torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return next((peak for key, peak in _PEAKS.items() if key in name), None)
    return 2e10 * float(torch.get_num_threads())


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**28 else f"{size / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
