"""Load a guard model: weights, device and dtype, processor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policyguard.backends.transformers.files import ModelFiles
from policyguard.backends.transformers.processors import load_processor
from policyguard.backends.transformers.quiet import quiet
from policyguard.errors import ConfigurationError, MissingExtraError, ModelLoadError, UsageError

__all__ = ["DTYPES", "LoadedModel", "choose_device", "choose_dtype", "load"]

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. ``context``: the most tokens it takes; ``ends``: tokens that end an answer."""

    model: Any
    processor: Any
    device: Any
    dtype: Any
    context: int | None
    ends: frozenset[int]


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "transformers") from None
    return torch


def choose_device(asked: str | None) -> Any:
    """The ``torch.device`` asked for; by default CUDA, else MPS, else the CPU. Raises ConfigurationError."""
    torch = _torch()
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)  # naming a device that is not there fails only when it is used
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigurationError(
            f"device='{asked}' cannot be used here: {str(error).splitlines()[0]}",
            hint="leave device out to take the best one there is, or give 'cpu'",
        ) from error
    return device


def choose_dtype(asked: str | None, device: Any) -> Any:
    """The ``torch.dtype`` asked for; by default bfloat16 where the hardware computes in it.

    Without bfloat16: float16 on CUDA, float32 elsewhere. Raises ConfigurationError for an unknown name.
    """
    torch = _torch()
    if asked is not None:
        if asked not in DTYPES:
            raise ConfigurationError(
                f"dtype='{asked}' is unknown", hint=f"choose one of: {', '.join(DTYPES)}"
            )
        return getattr(torch, asked)
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and _cpu_has_bf16(torch):
        return torch.bfloat16
    return torch.float32


def _cpu_has_bf16(torch: Any) -> bool:
    # torch versions that cannot say get float32.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def load(files: ModelFiles, *, device: Any, dtype: Any, max_pixels: int | None) -> LoadedModel:
    """Load ``files`` without network, without code of the model's own, from safetensors only.

    Raises ModelLoadError if it cannot be loaded, MissingExtraError without transformers.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "transformers") from None
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(
                files.folder, local_files_only=True, trust_remote_code=False
            )
            processor = load_processor(files.folder, config, name=files.name, max_pixels=max_pixels)
            model = _load_weights(files, config, dtype).to(device).eval().requires_grad_(False)
    except UsageError:
        raise
    except Exception as error:
        raise ModelLoadError(
            f"model '{files.name}' cannot be loaded from {files.folder}: {_short(error)}",
            hint=_load_hint(error, transformers.__version__),
        ) from error
    ends = _end_tokens(model, processor.tokenizer)
    # The model's own defaults (sampling, repetition penalties) would fill whatever a call leaves open.
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=sorted(ends), pad_token_id=processor.tokenizer.pad_token_id
    )
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return LoadedModel(model, processor, device, dtype, context, ends)


def _load_weights(files: ModelFiles, config: Any, dtype: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    def attempt(attention: str) -> tuple[Any, dict[str, Any]]:
        # The attention is always named: a config could name one that is fetched from the hub as code.
        model, info = AutoModelForImageTextToText.from_pretrained(
            files.folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        return model, info

    try:
        model, info = attempt("sdpa")
    except ValueError as error:
        if "scaled_dot_product_attention" not in str(error):
            raise
        model, info = attempt("eager")
    if missing := sorted(info["missing_keys"]):
        raise ModelLoadError(
            f"the weights of model '{files.name}' lack {len(missing)} tensors, the first is {missing[0]}",
            hint="fetch the model again; transformers would fill them with random numbers",
        )
    return model


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in (*ends, tokenizer.eos_token_id) if token is not None)


def _short(error: Exception) -> str:
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return text if len(text) <= 300 else f"{text[:297]}..."


def _load_hint(error: Exception, version: str) -> str:
    if isinstance(error, ImportError):
        return "install the package it names"
    if isinstance(error, ValueError) and "nrecognized" in str(error):
        return (
            f"transformers {version} knows no image-text-to-text model of this architecture; "
            "a newer transformers may, and text-only models cannot judge pictures"
        )
    return "fetch the model again, or choose another one: `policyguard models` lists some"
