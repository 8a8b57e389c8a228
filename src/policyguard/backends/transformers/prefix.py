"""The policy's KV prefix: the text before the picture is computed once and shared by all pictures under it.

Two things make this exact (with float32, to about 1e-6 in the logits) for models with M-RoPE positions:

- The positions are always passed. Left to itself, such a model takes the text after a cached prefix for
  the continuation of whatever picture it saw last (``rope_deltas`` is state on the module), or starts at
  zero again; the logits are then silently wrong.
- A prefix is never written to. Each batch gets a fork: new layer objects around the same tensors, which
  ``DynamicLayer.update`` replaces by concatenation and never changes in place.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

__all__ = ["PrefixCache", "compute", "fork", "supports", "with_positions"]

FAMILIES = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
"""Tested with qwen2_5_vl and qwen3_vl; the others compute positions the same way. The rest run in full."""


def supports(model: Any) -> bool:
    """Whether a prefix of ``model`` can be shared: a known family, and plain layers in its cache."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if model.config.model_type not in FAMILIES:
        return False
    layers = DynamicCache(config=model.config.get_text_config()).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def compute(model: Any, ids: Any) -> Any:
    """The KV cache of the text tokens ``ids``, shape (1, tokens)."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config.get_text_config())
    positions = torch.arange(ids.shape[1], device=ids.device).expand(3, 1, -1)
    model.model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    return cache


def fork(cache: Any, rows: int) -> Any:
    """A cache for ``rows`` pictures that begins with ``cache`` and shares its tensors. Copies no numbers."""
    forked = copy.copy(cache)
    forked.layers = []
    for layer in cache.layers:
        branch = copy.copy(layer)
        branch.keys = layer.keys.expand(rows, -1, -1, -1)
        branch.values = layer.values.expand(rows, -1, -1, -1)
        forked.layers.append(branch)
    return forked


def with_positions(model: Any, inputs: Any, prefix_ids: Any | None) -> dict[str, Any]:
    """``inputs`` with explicit M-RoPE positions, and a mask that covers ``prefix_ids`` before them."""
    import torch

    ids, mask, kinds = inputs["input_ids"], inputs["attention_mask"], inputs["mm_token_type_ids"]
    skip = 0
    if prefix_ids is not None:
        before = prefix_ids.expand(ids.shape[0], -1)
        skip = before.shape[1]
        ids = torch.cat([before, ids], 1)
        mask = torch.cat([torch.ones_like(before), mask], 1)
        kinds = torch.cat([torch.zeros_like(before), kinds], 1)
    positions, _ = model.model.get_rope_index(
        input_ids=ids, mm_token_type_ids=kinds, image_grid_thw=inputs["image_grid_thw"], attention_mask=mask
    )
    rest = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    return rest | {"attention_mask": mask, "position_ids": positions[:, :, skip:]}


class PrefixCache:
    """The most recently used prefixes, bounded by the bytes they hold; the last one is always kept."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The prefix under ``key``, made if it is not there. Call it where the model is locked."""
        if key not in self._entries:
            self._entries[key] = make()
        self._entries.move_to_end(key)
        while len(self._entries) > 1 and self.bytes > self.max_bytes:
            self._entries.popitem(last=False)
        return self._entries[key]

    @property
    def bytes(self) -> int:
        """What the keys and values of all prefixes take."""
        layers = (layer for cache in self._entries.values() for layer in cache.layers)
        return sum(int(layer.keys.nbytes) + int(layer.values.nbytes) for layer in layers)

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()
