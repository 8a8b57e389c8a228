"""Ways of running a model: attention, compiling, weights in fewer bits, many GPUs.

All but ``matmul`` are transformers' own. That one is on where it pays (``placement.choose_attention``), the
others where they are asked for. Each stands in the model's identity, as each moves scores a little; how far
is in docs/backends.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from policyguard.errors import ConfigurationError
from policyguard.strict.text import shortened

if TYPE_CHECKING:
    from policyguard.backends.stats import Counters

__all__ = ["MATMUL", "Compiled", "Ways", "attend_by_matmul", "register_matmul"]

MATMUL = "matmul"

ATTENTION = {
    "eager": None,
    "sdpa": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
    MATMUL: None,
}
"""Attention -> its package. Without that transformers would fetch a kernel from the hub."""

QUANTISED = {"int8": "torchao", "fp8": "torchao", "int4": "bitsandbytes"}
"""Numbers that weights can be kept in -> the package that does it, as transformers calls it."""

_DISTRIBUTIONS = {"flash_attn": "flash-attn", "flash_attn_interface": "flash-attn-3"}

_PARTS = ("language_model", "text_model", "visual", "vision_tower")
"""Under which names models have what computes."""

DEVICE_MAPS = ("auto", "balanced", "sequential")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How transformers runs a model, where that is not as usual. See docs/backends.md.

    Raises ConfigurationError for a way that there is not, and where its package is not installed.
    """

    attention: str | None = None
    quantise: str | None = None
    compiled: bool = False
    device_map: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("attention", ATTENTION), ("quantise", QUANTISED), ("device_map", DEVICE_MAPS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigurationError(
                    f"{name}={value!r} is unknown", hint=f"choose one of: {', '.join(known)}"
                )
            package = known.get(value) if isinstance(known, dict) else None
            if package is not None and find_spec(package) is None:
                raise ConfigurationError(
                    f"{name}={value!r} needs the package {package}, which is not installed",
                    hint=f"pip install {_DISTRIBUTIONS.get(package, package)}",
                )

    def settings(self) -> Iterator[str]:
        """What of it a model's answers depend on, for its identity; ``quantise`` has a field of its own."""
        if self.attention is not None:
            yield f"attention={self.attention}"
        if self.compiled:
            yield "compiled"
        if self.device_map is not None:
            yield f"device_map={self.device_map}"

    @property
    def quantisation(self) -> str | None:
        """The numbers that weights are kept in, and what does it."""
        if self.quantise is None:
            return None
        package = QUANTISED[self.quantise]
        return f"{self.quantise} {package} {version(package)}"

    def config(self, dtype: Any, device: Any) -> Any:
        """transformers' own config of the quantisation, for a model that otherwise computes in ``dtype``."""
        if self.quantise == "int4":
            if device.type == "cpu":
                raise ConfigurationError(
                    "quantise='int4' is for GPUs: on a CPU bitsandbytes looks for a kernel on the hub, "
                    "and no code is fetched from there",
                    hint="quantise='int8' works on a CPU",
                )
            from transformers import BitsAndBytesConfig

            return BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        import torchao.quantization as torchao
        from transformers import TorchAoConfig

        kind = torchao.Int8WeightOnlyConfig if self.quantise == "int8" else torchao.Float8WeightOnlyConfig
        return TorchAoConfig(kind())


LONG = 768
"""Keys from which on attention by products is faster than torch's own on a CPU."""

EVERY = 8
"""One in so many keys is looked at for the largest score of a query."""

_NOT_HERE = ("cache", "output_attentions", "position_bias", "s_aux", "softcap")
"""Arguments of an attention that ``attend_by_matmul`` leaves to torch's."""


def register_matmul() -> None:
    """Make ``attend_by_matmul`` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(MATMUL, attend_by_matmul)
    AttentionMaskInterface.register(MATMUL, sdpa_mask)


def attend_by_matmul(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Any, None]:
    """Attention as two products and a softmax for each head of keys, for few queries over many keys.

    ``query``: (rows, heads, queries, size), ``key`` and ``value``: (rows, heads of keys, keys, size),
    ``attention_mask``: (rows, 1, queries, keys), True for what may be seen; gives (rows, queries, heads,
    size), and no weights.

    On a CPU without AMX, products in bfloat16 are faster than torch's attention is. Scores in bfloat16 are
    coarse where they are large, so the largest score of a query, as far as one in ``EVERY`` keys shows it, is
    taken off inside the product, before it rounds: a softmax does not change by that, and what has weight in
    it then has a score near zero. Short and causal attention is left to torch's.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, heads, queries, size = query.shape
    own, keys = key.shape[1], key.shape[2]
    causal = attention_mask is None and queries > 1
    causal = causal and (getattr(module, "is_causal", True) if is_causal is None else is_causal)
    fits = attention_mask is None or (
        attention_mask.dtype == torch.bool and attention_mask.shape == (rows, 1, queries, keys)
    )
    if keys < LONG or causal or not fits or dropout or any(kwargs.get(name) for name in _NOT_HERE):
        options = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **kwargs}
        attended: Any = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return attended[0], None

    scale = size**-0.5 if scaling is None else scaling
    grouped = query.reshape(rows, own, -1, size)  # queries of the heads that share keys, below each other
    hidden, first = (None, keys) if attention_mask is None else _hidden(attention_mask)
    out = grouped.new_empty(rows, own, grouped.shape[2], value.shape[-1])
    scores = grouped.new_empty(grouped.shape[2], keys)
    by_head = scores.view(-1, queries, keys)[..., first:]
    lowest = torch.finfo(query.dtype).min  # not minus infinity: of a row that sees nothing, nothing is used
    for row in range(rows):
        for head in range(own):
            asked, transposed = grouped[row, head], key[row, head].T
            largest = torch.mm(asked, transposed[:, ::EVERY]).amax(-1, keepdim=True).mul_(scale)
            torch.addmm(largest, asked, transposed, beta=-1, alpha=scale, out=scores)
            if hidden is not None and first < keys:
                by_head.masked_fill_(hidden[row, ..., first:], lowest)
            torch.mm(torch.softmax(scores, -1), value[row, head], out=out[row, head])
    return out.view(rows, heads, queries, -1).transpose(1, 2).contiguous(), None


def _hidden(mask: Any) -> tuple[Any, int]:
    """What ``mask`` hides, and the first key that some query may not see; asked by all layers of a pass."""
    if (found := getattr(mask, "hidden", None)) is None:
        hidden = ~mask
        places = hidden.flatten(0, 2).any(0).nonzero()
        found = mask.hidden = hidden, int(places[0]) if len(places) else int(mask.shape[-1])
    return found


class Compiled:
    """The parts of a model that compute, run through ``torch.compile`` until that fails."""

    def __init__(self, model: Any, counters: Counters) -> None:
        import torch

        self._counters = counters
        body = getattr(model, "model", model)
        parts = [part for name in _PARTS if (part := getattr(body, name, None)) is not None]
        self._plain = [(part, part.forward) for part in parts]
        for part in parts:
            part.forward = torch.compile(part.forward, dynamic=True)

    def gave_way(self, error: Exception) -> bool:
        """Whether ``error`` is the compiler's. From then on the model runs as usual, which is said once."""
        if not self._plain or not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return False
        for part, forward in self._plain:
            part.forward = forward
        self._plain = []
        reason = shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
        self._counters.say(f"torch.compile failed, and the model runs without it: {reason}")
        return True
