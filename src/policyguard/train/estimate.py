"""How much memory and time a run will take, from sizes alone, before anything is loaded.

Weights, gradients and Adam's state are exact to a few per cent, for each way of sharing them out
(``run.sharding``). Activations count what autograd keeps of each layer of the Qwen families
(``_activations``). ``tests/train/test_estimate.py`` holds the sum against the peak that torch counts in runs
of tiny models, within 15%. The time is a guess: 6 operations per weight and token (8 with recomputation) at a
share of the device's peak. Not counted: what fragmentation wastes, and the vision tower's own activations,
which matter where it is trained.
"""

from __future__ import annotations

import math
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
_TILE = (4096, 32_768)
"""Tokens and words whose logits there are at a time."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a model: weights in all and of the vision tower; layers, width, vocabulary, and widths of queries,
    of keys and inside the feed-forward part of the language model; and the weights that LoRA adds for each
    rank, in all and in the vision tower.
    """

    weights: int
    vision: int
    layers: int
    width: int
    vocabulary: int
    query_width: int
    kv_width: int
    inner_width: int
    adapters: int
    vision_adapters: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes per device, tokens per row, seconds (``None`` where the device's speed is unknown), and the bytes
    that the finished model and the checkpoints take in the output folder. ``rollout``: what sampling answers
    takes while nothing is trained, instead of the activations. ``gradients``: those in ``optimizer`` that are
    not there while activations are, because each update has one step.
    """

    weights: int
    optimizer: int
    activations: int
    tokens: int
    steps: int
    seconds: float | None
    disk: int
    rollout: int = 0
    gradients: int = 0

    @property
    def memory(self) -> int:
        busy = max(self.activations, self.rollout)
        return self.weights + max(self.optimizer, self.optimizer - self.gradients + busy)

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
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return Sizes(
        weights=sum(sizes.values()),
        vision=sum(size for name, size in sizes.items() if is_vision(name)),
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        vocabulary=text.vocab_size,
        query_width=text.num_attention_heads * head_width,
        kv_width=text.num_key_value_heads * head_width,
        inner_width=inner,
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
    once = optim.accumulate == 1 and run.sharding in (
        "none",
        "fsdp2",
    )  # DeepSpeed keeps a buffer for gradients
    gradients = trained * 4 // (run.devices if run.sharding == "fsdp2" else 1) if once else 0
    steps = optim.max_steps or _steps(recipe, examples)
    checkpoint = trained * 12 if recipe.tune.mode == "lora" else sizes.weights * 4 + trained * 8
    return Estimate(
        weights=weights,
        optimizer=optimizer,
        activations=_activations(recipe, sizes, tokens),
        tokens=tokens,
        steps=steps,
        seconds=_seconds(recipe, sizes, steps, tokens),
        disk=sizes.weights * (2 if run.precision == "bf16" else 4)
        + min(run.keep + 1, steps // recipe.saves_every + 1)
        * checkpoint,  # the oldest goes after the newest came
        rollout=_sampling(recipe, sizes, tokens, device_memory),
        gradients=gradients,
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


def _activations(recipe: SftRecipe | AssessRecipe | GrpoRecipe, sizes: Sizes, tokens: int) -> int:
    """Bytes that there are at the start of the backward pass, beside the states.

    Of each layer and token autograd keeps: both norms' input, normalised input and output (6 widths);
    queries, as they are, normalised and turned, keys and values repeated for all heads, and the result (6
    query widths), and of keys 3; of the feed-forward part gate, its activation, the other branch and their
    product (4 inner widths). All are float32 without bf16; with it, norms work in float32 and products of
    matrices in bf16. Norms that are frozen, as with LoRA, keep no normalised input. Rows of unequal length
    need a mask per layer. With gradient checkpointing only each layer's input stays, and one layer's part is
    made again at a time. The head makes logits by tiles of 4,096 tokens x 32,768 words and adds up gradients
    in float32 (TRL 1.16, ``kernels/chunked_logprob.py``); without Triton it needs five more of them.
    """
    optim, run = recipe.optim, recipe.run
    half, seen = run.precision == "bf16", optim.batch * tokens
    number = 2 if half else 4
    norms, attention, inner = (20, 16, 8) if half else (24, 24, 16)  # bytes
    if recipe.tune.mode == "lora":
        norms, attention = (12, 12) if half else (16, 20)
    layer = seen * (norms * sizes.width + attention * sizes.query_width + 12 * sizes.kv_width)
    layer += seen * inner * sizes.inner_width
    if optim.batch > 1:
        layer += seen * tokens * number
    stream = seen * sizes.width * (2 if half and recipe.tune.mode == "lora" else 4)
    rows, words = min(seen, _TILE[0]), min(sizes.vocabulary, _TILE[1])
    head = rows * _TILE[1] * number + words * sizes.width * (number + 4) + 3 * stream
    if _on_cpu(recipe):
        head += 5 * rows * words * 4
    if recipe.tune.mode == "full":
        head += sizes.vocabulary * sizes.width * 4
    if run.gradient_checkpointing:
        return sizes.layers * stream + max(layer, head)
    return sizes.layers * layer + head


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


def _on_cpu(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> bool:
    import torch

    return recipe.run.device == "cpu" or not torch.cuda.is_available()


def available_memory(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> int:
    """Bytes that one device has free: of the GPU, or of this machine."""
    import torch

    if not _on_cpu(recipe):
        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def total_memory(recipe: SftRecipe | AssessRecipe | GrpoRecipe) -> int:
    """Bytes of one device, used or not."""
    import torch

    if not _on_cpu(recipe):
        return int(torch.cuda.mem_get_info()[1])
    import psutil

    return int(psutil.virtual_memory().total)


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
