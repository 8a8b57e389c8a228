"""Ways of running a model that are transformers' own: attention, compiling, weights in fewer bits, many GPUs.

None is on unless asked for, and each stands in the model's identity, as each moves scores a little; how far
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

__all__ = ["Compiled", "Ways"]

ATTENTION = {
    "eager": None,
    "sdpa": None,
    "flex_attention": None,
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}
"""Attention of transformers -> its package. Without that transformers would fetch a kernel from the hub."""

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
