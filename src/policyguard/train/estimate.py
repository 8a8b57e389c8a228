"""How much memory and time a run will take: rough, from sizes alone, before anything is loaded.

Weights, gradients and Adam's state are exact to a few per cent, for each way of sharing them out
(``run.sharding``). Activations follow Korthikanti et al. 2022 (34 bytes x tokens x width per layer, without
attention maps) and are a guess, as is the time, which counts 6 operations per weight and token (8 with
recomputation) and assumes a share of the device's peak. Not counted: what fragmentation wastes, and the
vision tower's own activations.
"""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyguard.train.models import WORK, empty_model, is_vision
from policyguard.train.recipe import AssessRecipe, GrpoRecipe, SftRecipe

__all__ = ["Estimate", "Sizes", "available_disk", "available_memory", "estimate", "measure", "total_memory"]

_PEAKS = {"H200": 990e12, "H100": 990e12, "A100": 312e12, "L40": 180e12, "A10": 125e12, "4090": 165e12}
_UTILISATION = 0.35
_GENERATION = 0.05
"""Share of the peak that token-by-token generation reaches."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a model: weights in all and of the vision tower; layers, width, vocabulary and width of keys of the
    language model; and the weights that LoRA adds for each rank, in all and in the vision tower.
    """

    weights: int
    vision: int
    layers: int
    width: int
    vocabulary: int
    kv_width: int
    adapters: int
    vision_adapters: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes per device, tokens per row, seconds (``None`` where the device's speed is unknown), and the bytes
    that the finished model and the checkpoints take in the output folder. ``rollout``: what sampling answers
    takes while nothing is trained, instead of the activations.
    """

    weights: int
    optimizer: int
    activations: int
    tokens: int
    steps: int
    seconds: float | None
    disk: int
    rollout: int = 0

    @property
    def memory(self) -> int:
        return self.weights + self.optimizer + max(self.activations, self.rollout)

    def __str__(self) -> str:
        parts = f"{_gib(self.weights)} weights, {_gib(self.optimizer)} gradients and optimiser, "
        parts += f"{_gib(self.activations)} activations"
        if self.rollout:
            parts += f" or {_gib(self.rollout)} to sample answers"
        time = "unknown on this device" if self.seconds is None else _duration(self.seconds)
        return (
            f"memory per device about {_gib(self.memory)} ({parts}); {self.steps} updates of rows of about "
            f"{self.tokens} tokens; time about {time}; disk about {_gib(self.disk)}"
        )


def measure(folder: Path) -> Sizes:
    """The sizes of the model in ``folder``, built without memory for its weights."""
    from torch.nn import Linear

    model = empty_model(folder)
    text = model.config.get_text_config()
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    head = model.get_output_embeddings()
    adapters = {
        name: module.in_features + module.out_features
        for name, module in model.named_modules()
        if isinstance(module, Linear) and module is not head
    }
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Sizes(
        weights=sum(sizes.values()),
        vision=sum(size for name, size in sizes.items() if is_vision(name)),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        kv_width=text.num_key_value_heads * head_width,
        adapters=sum(adapters.values()),
        vision_adapters=sum(size for name, size in adapters.items() if is_vision(name)),
    )


def estimate(
    recipe: SftRecipe | AssessRecipe | GrpoRecipe,
    sizes: Sizes,
    *,
    examples: int,
    tokens: int,
    device_memory: int = 80 << 30,
) -> Estimate:
    """``examples``: to train on: prompts for grpo, and for assess after augmentation. ``tokens``: of a
    typical one, image and answer included. ``device_memory``: of one device, which vLLM takes a share of.
    """
    run, optim = recipe.run, recipe.optim
    trained = _trained(recipe, sizes)
    weights, optimizer = _states(recipe, sizes, trained)
    batch_tokens = optim.batch * tokens
    bytes_per = 2 if run.precision == "bf16" else 4
    per_layer = bytes_per * sizes.width if run.gradient_checkpointing else 17 * bytes_per * sizes.width
    activations = batch_tokens * (sizes.layers * per_layer + 17 * bytes_per * sizes.width)
    scored = optim.batch * recipe.rollout.max_tokens if isinstance(recipe, GrpoRecipe) else batch_tokens
    activations += scored * sizes.vocabulary * (8 + bytes_per)  # logits, in float32 too, and their gradient
    steps = optim.max_steps or _steps(recipe, examples)
    checkpoint = trained * 12 if recipe.tune.mode == "lora" else sizes.weights * 4 + trained * 8
    return Estimate(
        weights=weights,
        optimizer=optimizer,
        activations=activations,
        tokens=tokens,
        steps=steps,
        seconds=_seconds(recipe, sizes, steps, tokens),
        disk=sizes.weights * (2 if run.precision == "bf16" else 4)
        + min(run.keep + 1, steps // run.save_every + 1)
        * checkpoint,  # the oldest goes after the newest came
        rollout=_sampling(recipe, sizes, tokens, device_memory),
    )


def _trained(recipe: SftRecipe | AssessRecipe | GrpoRecipe, sizes: Sizes) -> int:
    tune, with_vision = recipe.tune, recipe.tune.vision == "trained"
    if tune.mode == "full":
        return sizes.weights - (0 if with_vision else sizes.vision)
    return tune.rank * (sizes.adapters - (0 if with_vision else sizes.vision_adapters))


def _states(recipe: SftRecipe | AssessRecipe | GrpoRecipe, sizes: Sizes, trained: int) -> tuple[int, int]:
    """Bytes per device of weights (the KL reference's too), and of gradients and optimiser.

    Trained weights are float32, and are cast to bf16 for arithmetic: all of them on one device, those of the
    layer at work with FSDP2. DeepSpeed keeps the bf16 weights and shares out the float32 ones.
    """
    tune, run = recipe.tune, recipe.run
    half, devices = run.precision == "bf16", run.devices
    frozen = sizes.weights - trained if tune.mode == "full" else sizes.weights
    frozen_bytes = frozen * (2 if half and tune.mode == "lora" else 4)
    cast = trained * 2 if half else 0
    reference = 0
    if isinstance(recipe, GrpoRecipe) and recipe.grpo.beta and tune.mode == "full":
        reference = sizes.weights * 4
    if run.sharding in ("zero2", "zero3") and half:
        kept = (sizes.weights + (trained if tune.mode == "lora" else 0)) * 2  # all in bf16
        reference //= 2
        weights = (kept + reference) // (devices if run.sharding == "zero3" else 1)
        return weights, trained * (2 + 4 + 8) // devices
    if run.sharding in ("zero2", "zero3"):
        weights = frozen_bytes + trained * 4 + reference
        return weights // (devices if run.sharding == "zero3" else 1), trained * 12 // devices
    if run.sharding == "fsdp2":
        layer = cast // max(1, sizes.layers)
        return (frozen_bytes + trained * 4 + reference) // devices + layer, trained * 12 // devices
    buckets = 4 if devices > 1 else 0  # what DDP sends
    return frozen_bytes + trained * 4 + cast + reference, trained * (12 + buckets)


def _steps(recipe: SftRecipe | AssessRecipe | GrpoRecipe, examples: int) -> int:
    """Updates: TRL drops the last prompts that fill no batch, transformers keeps the last rows."""
    optim, each = recipe.optim, recipe.optim.batch * recipe.run.devices
    if isinstance(recipe, GrpoRecipe):
        batches = examples * recipe.rollout.group // (each * optim.accumulate)
        updates = batches * recipe.grpo.iterations
    else:
        updates = math.ceil(math.ceil(examples / each) / optim.accumulate)
    return math.ceil(max(1, updates) * optim.epochs)


def _sampling(recipe: Any, sizes: Sizes, tokens: int, device_memory: int) -> int:
    """Keys and values of all answers that are sampled at once, or the share of the device that vLLM takes."""
    if not isinstance(recipe, GrpoRecipe) or recipe.rollout.by == "vllm-server":
        return 0
    if recipe.rollout.by == "vllm-colocate":
        return int(device_memory * recipe.rollout.gpu_share)
    answers = recipe.optim.batch * recipe.optim.accumulate
    return answers * tokens * sizes.layers * 2 * sizes.kv_width * (2 if recipe.run.precision == "bf16" else 4)


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


def total_memory(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> int:
    """Bytes of one device, used or not."""
    import torch

    if recipe.run.device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1])
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
