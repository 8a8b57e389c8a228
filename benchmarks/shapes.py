"""Random-weight models in the geometry of real ones, what a pass through them costs, and what they are asked.

FLOPs are those of the products alone, a multiplication and an addition counted as two:

- linear layers: 2 x weights x rows. Rows are the new tokens for the language model, patches for the vision
  tower, a quarter of them (``spatial_merge_size`` squared) for its mergers, positions read for the head;
- attention: 4 x queries x keys x heads x head size per layer, for the keys that a query may see: what is
  cached and, of the new tokens, those up to itself (half of them on average); in the vision tower all
  patches of a picture, or of a window.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import policy
from PIL import Image

from policyguard.policy import Policy
from support.tiny_models import Family, build_tiny_model

CONTEXT = 8192


@dataclass(frozen=True)
class Shape:
    """A geometry; ``what`` says which. ``text`` and ``vision`` are fields of the two configs."""

    what: str
    family: Family
    text: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] = field(default_factory=dict)

    def build(self, folder: Path, *, device: str = "cpu", dtype: str = "float32") -> Path:
        """Write a checkpoint with weights drawn on ``device``, which for billions of them is the GPU."""
        import torch

        before = torch.get_default_dtype()
        torch.set_default_dtype(getattr(torch, dtype))
        try:
            with torch.device(device):
                return build_tiny_model(
                    folder, self.family, context=CONTEXT, text=dict(self.text), vision=dict(self.vision)
                )
        finally:
            torch.set_default_dtype(before)


def _qwen3(hidden: int, layers: int, vision: int) -> dict[str, Any]:
    """Heads of 64, half as many for keys; MLPs of three times the width, in the tower of four."""
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [12, 10, 10],
        "mrope_interleaved": True,
    }
    text = {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 128,
        "head_dim": 64,
        "rope_parameters": rope,
    }
    tower = {
        "hidden_size": vision,
        "intermediate_size": 4 * vision,
        "depth": layers,
        "num_heads": vision // 64,
        "out_hidden_size": hidden,
        "deepstack_visual_indexes": [layers // 4, layers // 2, 3 * layers // 4],
    }
    return {"family": "qwen3_vl", "text": text, "vision": tower}


def _qwen25(hidden: int, inner: int, layers: int, heads: int, kv: int, vocabulary: int) -> dict[str, Any]:
    """The published geometry of Qwen2.5-VL; the tower is the same in all sizes."""
    text = {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    tower = {
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "depth": 32,
        "num_heads": 16,
        "out_hidden_size": hidden,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return {"family": "qwen2_5_vl", "text": text, "vision": tower}


SHAPES = {
    "tiny": Shape("a toy of Qwen2.5-VL, to try the script", "qwen2_5_vl"),
    "language": Shape("language model to tower 10:1, as in a 7B model", **_qwen3(1024, 12, 256)),
    "vision": Shape("tower nearly as large as the language model", **_qwen3(1024, 12, 768)),
    "tower": Shape("most of a check in the tower, as in SmolVLM-256M", **_qwen3(1024, 12, 1536)),
    "small-language": Shape("the first at half the width and two thirds of the depth", **_qwen3(512, 8, 128)),
    "small-vision": Shape("the second at half the width and two thirds of the depth", **_qwen3(512, 8, 384)),
    "small-tower": Shape("the third at half the width and two thirds of the depth", **_qwen3(512, 8, 768)),
    "3b": Shape("Qwen2.5-VL-3B", **_qwen25(2048, 11008, 36, 16, 2, 151936)),
    "7b": Shape("Qwen2.5-VL-7B", **_qwen25(3584, 18944, 28, 28, 4, 152064)),
}


def parameters(module: Any) -> int:
    """Each shared tensor counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class Flops:
    """Of one pass, in operations: linear layers and attention of the language model and of the tower."""

    language: float
    language_attention: float
    vision: float
    vision_attention: float

    @property
    def total(self) -> float:
        return self.language + self.language_attention + self.vision + self.vision_attention


def flops(model: Any, *, new: int, before: int, patches: int, read: int) -> Flops:
    """One picture of ``patches`` patches in ``new`` tokens behind ``before`` cached ones, ``read`` logits.

    By the formula of the module's docstring, for Qwen2.5-VL and Qwen3-VL.
    """
    text, vision = model.config.get_text_config(), model.config.vision_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    layers = _weights(model.model.language_model.layers)
    seen = before + (new + 1) / 2
    tower = model.model.visual
    merged = patches / vision.spatial_merge_size**2
    mergers = [tower.merger, *getattr(tower, "deepstack_merger_list", [])]
    keys = sum(
        patches if block in _whole(vision) else min(patches, _window(vision)) for block in range(vision.depth)
    )
    return Flops(
        language=2.0 * (layers * new + model.lm_head.weight.numel() * read),
        language_attention=4.0 * new * seen * text.num_attention_heads * width * text.num_hidden_layers,
        vision=2.0
        * (
            (_weights(tower.blocks) + _weights(tower.patch_embed)) * patches
            + sum(map(_weights, mergers)) * merged
        ),
        vision_attention=4.0 * patches * keys * vision.hidden_size,
    )


def _weights(module: Any) -> int:
    """The weights of the products in ``module``: matrices of linear layers and of the patches' projection."""
    return sum(weight.numel() for weight in module.parameters() if weight.ndim >= 2)


def _whole(vision: Any) -> range | frozenset[int]:
    """The blocks of the tower in which a patch sees the whole picture."""
    listed = getattr(vision, "fullatt_block_indexes", None)
    return range(vision.depth) if listed is None else frozenset(listed)


def _window(vision: Any) -> int:
    """Patches in a window."""
    side = getattr(vision, "window_size", 0) // vision.patch_size
    return side * side


def policy_of(tokens: int, length: Callable[[Policy], int], name: str) -> Policy:
    """The policy whose ``length`` is nearest to ``tokens`` from below, to within a row of each rule."""
    step, words = 80, 80
    while length(policy(words + 8 * step, name)) <= tokens:
        words += 8 * step
    while length(policy(words + step, name)) <= tokens:
        words += step
    return policy(words, name)


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG of soft shapes with grain, about as large as a photograph's of that size."""
    import numpy as np

    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = random.integers(-6, 7, (height, width, 1), dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
