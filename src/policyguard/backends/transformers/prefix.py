"""What all frames under a policy share: the KV cache of the text before the image, and how to go on from it.

Three things make it exact (in float32, to about 1e-6 in the logits):

- **The positions are always passed.** Left to itself, a model with M-RoPE takes the text after a cached
  prefix for the continuation of whatever image it saw last (``rope_deltas`` is state on the module), or
  starts at zero again; any model counts the padding of a batch, which here stands between prefix and frame,
  as text. The logits are then silently wrong.
- **A prefix is never written to.** Each batch gets a fork: new layer objects around the same tensors, which
  the layers replace by concatenation and never change in place.
- **Layers with a window count places, not positions.** Padding between prefix and frame would push text out
  of it, so that there only rows of equal length share a prefix.

Which families do is a table, and each of them is held against the full pass in the tests. Of the others a
prefix is not shared, and ``why_not`` says so.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Hashable
from typing import Any, Literal

from policyguard.strict.lru import LruDict

__all__ = [
    "PrefixCache",
    "cached",
    "compute_prefix",
    "fork_prefix",
    "has_window",
    "positions_of",
    "why_not",
    "with_positions",
]

Positions = Literal["mrope", "text"]

_POSITIONS: dict[str, Positions] = {
    "gemma3": "text",
    "glm4v": "mrope",
    "idefics3": "text",
    "internvl": "text",
    "llama4": "text",
    "llava": "text",
    "llava_next": "text",
    "llava_onevision": "text",
    "mistral3": "text",
    "mllama": "text",
    "qwen2_5_vl": "mrope",
    "qwen2_vl": "mrope",
    "qwen3_vl": "mrope",
    "qwen3_vl_moe": "mrope",
    "shieldgemma2": "text",
    "smolvlm": "text",
}
"""Model type -> how it counts: one number a token, or one for time, height and width each.

Qwen2-VL and the mixture of Qwen3-VL compute positions as their tested relatives do."""

_NOT_SHARED = {
    "mllama": "in this architecture the text before the image attends to it too",
}


def positions_of(model: Any) -> Positions | None:
    """How ``model`` counts positions; ``None`` where that is not known, and they are left to it."""
    return _POSITIONS.get(model.config.model_type)


def why_not(model: Any) -> str:
    """Why ``model`` cannot share a prefix; empty if it can."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kind = model.config.model_type
    if kind in _NOT_SHARED:
        return _NOT_SHARED[kind]
    if kind not in _POSITIONS:
        return f"sharing is not proven for models of type '{kind}'"
    layers = DynamicCache(config=model.config.get_text_config()).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return "" if layers and plain else "its cache holds more than keys and values"


def has_window(cache: Any) -> bool:
    """Whether some layer keeps the last tokens only."""
    return any(getattr(layer, "is_sliding", False) for layer in cache.layers)


def cached(model: Any, cache: Any) -> dict[str, Any]:
    """The options of a pass of ``model`` that goes on from ``cache`` and writes to it."""
    # transformers 5.24 calls it ``cache``, and warns of the old name until 5.40 drops it.
    new = "cache" in inspect.signature(model.forward).parameters
    return {"cache" if new else "past_key_values": cache, "use_cache": True}


def compute_prefix(model: Any, ids: Any) -> Any:
    """The KV cache of the text tokens ``ids``, shape (1, tokens)."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.get_text_config())
    positions = torch.arange(ids.shape[1], device=ids.device)
    shape = (3, 1, -1) if positions_of(model) == "mrope" else (1, -1)
    body = getattr(model, "model", model)  # without the head, where it stands apart
    body(input_ids=ids, position_ids=positions.expand(shape), **cached(body, cache))
    return cache


def fork_prefix(cache: Any, rows: int) -> Any:
    """A cache for ``rows`` frames that begins with ``cache`` and shares its tensors. Copies no numbers."""
    forked = copy.copy(cache)
    forked.layers = []
    for layer in cache.layers:
        branch = copy.copy(layer)
        branch.keys = layer.keys.expand(rows, -1, -1, -1)
        branch.values = layer.values.expand(rows, -1, -1, -1)
        forked.layers.append(branch)
    return forked


def with_positions(model: Any, inputs: Any, prefix_ids: Any | None) -> dict[str, Any]:
    """``inputs`` with explicit positions, and masks that cover ``prefix_ids`` before them.

    ``position_ids`` has the shape (rows, tokens), or (3, rows, tokens) with M-RoPE.
    """
    import torch

    rest = dict(inputs)
    ids, mask = rest["input_ids"], rest["attention_mask"]
    skip = 0
    if prefix_ids is not None:
        before = prefix_ids.expand(ids.shape[0], -1)
        skip = before.shape[1]
        mask = torch.cat([torch.ones_like(before), mask], 1)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in rest:
                rest[name] = torch.cat([torch.zeros_like(before), rest[name]], 1)
    if positions_of(model) == "mrope":  # counted in Python, token by token: not for the prefix, which is text
        kinds = rest.pop("mm_token_type_ids")[:, skip:]
        positions, _ = model.model.get_rope_index(
            input_ids=ids,
            mm_token_type_ids=kinds,
            image_grid_thw=rest["image_grid_thw"],
            attention_mask=mask[:, skip:],
        )
        positions = positions + skip
    else:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, skip:]
    return rest | {"attention_mask": mask, "position_ids": positions}


class PrefixCache(LruDict[Hashable, Any]):
    """The most recently used prefixes, bounded by the bytes they hold; the last one is always kept."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, weigh=_bytes_of)


def _bytes_of(prefix: Any) -> int:
    return sum(int(layer.keys.nbytes) + int(layer.values.nbytes) for layer in prefix.layers)
