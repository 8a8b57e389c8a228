"""Load a guard model: weights, and its own processor, with or without torchvision.

A family's processor often takes a video processor, and in transformers every video processor needs
torchvision. A guard looks at images only, so without torchvision the same processor is put together from
its tokenizer and its PIL image processor; the token ids are the same either way, the resized pixels
differ by what two implementations of one filter differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.backends.transformers.files import ModelFiles, quiet
from policyguard.backends.transformers.ways import MATMUL, Ways, register_matmul
from policyguard.errors import MissingExtraError, ModelLoadError, UsageError
from policyguard.strict.text import shortened

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = [
    "LoadedModel",
    "load",
    "load_processor",
    "prepare",
    "shrink",
]


_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_processor(folder: Path, config: Any, *, name: str, max_pixels: int | None = None) -> Any:
    """The processor of the model in ``folder``, padding on the left, scaling images to ``max_pixels``.

    Raises ModelLoadError where the folder holds none that takes an image and a text.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    family = _family(folder, config)
    parts = family.get_attributes() if family is not None else []
    if config.model_type == _SHIELDGEMMA:
        processor = family.from_pretrained(folder, **_LOCAL)
    elif family is not None and "video_processor" in parts and not is_torchvision_available():
        if parts[-1] != "video_processor":
            raise ModelLoadError(
                f"the processor of model '{name}' ({family.__name__}) cannot do without its video part",
                hint="pip install torchvision",
            )
        processor = _without_video(family).from_pretrained(folder, **_LOCAL)
    else:
        processor = AutoProcessor.from_pretrained(folder, **_LOCAL)

    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(processor, "image_processor", None) is None:
        raise ModelLoadError(
            f"model '{name}' has no processor for images and text in {folder}",
            hint="it needs processor_config.json or preprocessor_config.json beside the tokenizer files",
        )
    if not tokenizer.is_fast:
        raise ModelLoadError(
            f"model '{name}' has no fast tokenizer, and without one the place of an answer is not known",
            hint="add a tokenizer.json, for example by loading and saving the tokenizer with transformers",
        )
    tokenizer.padding_side = "left"
    tokenizer.model_max_length = 1 << 30  # the context is checked where the message can name the policy
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if max_pixels is not None and _sized_by_pixels(processor):
        smallest = min(processor.image_processor.size["shortest_edge"], max_pixels)
        processor.image_processor.size = {"shortest_edge": smallest, "longest_edge": max_pixels}
    return processor


def shrink(processor: Any, frame: PILImage, max_pixels: int | None) -> PILImage:
    """``frame``, scaled down to ``max_pixels`` if it is larger and the processor does not bound it itself."""
    width, height = frame.size
    if max_pixels is None or width * height <= max_pixels or _sized_by_pixels(processor):
        return frame
    factor = (max_pixels / (width * height)) ** 0.5
    return frame.resize((max(1, int(width * factor)), max(1, int(height * factor))))


def prepare(processor: Any, texts: Sequence[str], frames: Sequence[PILImage], *, special: bool) -> Any:
    """The model's inputs for one frame per text, padded on the left.

    ``special``: whether the tokenizer adds its own marks; not where the chat template has written them.
    Raises ValueError for a frame that the processor does not take.
    """
    options = {} if special else {"add_special_tokens": False}
    images = [[frame] for frame in frames]  # nested: one list per text is what every family takes
    return processor(text=list(texts), images=images, padding=True, return_tensors="pt", **options)


def _sized_by_pixels(processor: Any) -> bool:
    """Whether ``size`` bounds the number of pixels, as in the Qwen-VL families, not the length of a side."""
    size = getattr(processor.image_processor, "size", None)
    names_edges = size is not None and {"shortest_edge", "longest_edge"} <= set(dict(size))
    return names_edges and hasattr(processor.image_processor, "merge_size")


def _family(folder: Path, config: Any) -> Any:
    """The processor class the files name, else the one transformers has for this architecture."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
    from transformers.utils import CONFIG_NAME

    from policyguard.backends.transformers.files import read_json

    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json", CONFIG_NAME):
        path = folder / file
        settings: Mapping[str, Any] = read_json(path) if path.is_file() else {}
        if isinstance(family := settings.get("processor_class"), str):
            # ShieldGemma 2's own processor ignores the text that it is given.
            return processor_class_from_name("Gemma3Processor" if "ShieldGemma2" in family else family)
    return PROCESSOR_MAPPING.get(type(config), None)


def _without_video(family: type) -> Any:
    """``family`` without its video part, which must be its last: parts are passed by position."""

    def get_attributes(cls: type) -> list[str]:
        return [part for part in family.get_attributes() if part != "video_processor"]  # type: ignore[attr-defined]

    return type(family.__name__, (family,), {"get_attributes": classmethod(get_attributes)})


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. ``context``: the most tokens it takes; ``ends``: tokens that end an answer."""

    model: Any
    processor: Any
    device: Any
    dtype: Any
    context: int | None
    ends: frozenset[int]

    @property
    def template(self) -> str:
        """The chat template that prompts go through; all of them, where there are several by name."""
        speaker = (
            self.processor if getattr(self.processor, "chat_template", None) else self.processor.tokenizer
        )
        template = getattr(speaker, "chat_template", None) or ""
        return template if isinstance(template, str) else "\n".join(map(str, dict(template).values()))


def load(
    files: ModelFiles, *, device: Any, dtype: Any, max_pixels: int | None, ways: Ways | None = None
) -> LoadedModel:
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
            _refuse_unfit(files.name, config.architectures or ())
            processor = load_processor(files.folder, config, name=files.name, max_pixels=max_pixels)
            _refuse_unfit(files.name, [type(processor).__name__])
            ways = ways or Ways()
            model = _load_weights(files, config, dtype, ways, device).eval().requires_grad_(False)
    except UsageError:
        raise
    except Exception as error:
        reason = shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
        raise ModelLoadError(
            f"model '{files.name}' cannot be loaded from {files.folder}: {reason}",
            hint=_load_hint(error, transformers.__version__),
        ) from error
    _require_causal(files.name, model, processor.tokenizer)
    ends = end_tokens(model, processor.tokenizer)
    # The model's own defaults (sampling, repetition penalties) would fill whatever a call leaves open.
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=sorted(ends), pad_token_id=processor.tokenizer.pad_token_id
    )
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return LoadedModel(model, processor, device, dtype, context, ends)


_SHIELDGEMMA, _SHIELDGEMMA_CLASS = "shieldgemma2", "ShieldGemma2ForImageClassification"
"""Published as a classifier around Gemma 3; inside of it, under ``model``, is the model to ask."""

_UNFIT = (
    (
        r".*ForImageClassification|ViTModel",
        "it rates images by labels of its own and reads no policy; see docs/sensors.md",
    ),
    (r"(CLIP|Siglip2?|AltCLIP|ChineseCLIP)\w*", "it compares images with captions and reads no policy"),
    (r"InstructBlip\w*|Blip2?For\w*", "it takes one bare question and has no chat template for a policy"),
    (r"PaliGemmaProcessor", "it answers short tasks and moves the text that an answer is read behind"),
)
"""Architectures, and a processor, that cannot be asked about a policy, and why."""


def _refuse_unfit(name: str, kinds: Sequence[str]) -> None:
    """Raises ModelLoadError where one of ``kinds`` cannot be asked about a policy."""
    for kind in kinds:
        reason = next((reason for pattern, reason in _UNFIT if re.fullmatch(pattern, kind)), None)
        if reason is not None and kind != _SHIELDGEMMA_CLASS:
            raise ModelLoadError(
                f"model '{name}' is {kind}: {reason}",
                hint="choose a model that follows instructions, such as Qwen/Qwen3-VL-4B-Instruct or "
                "google/gemma-3-4b-it; `policyguard models` lists more",
            )


LEAK = 0.02
"""By how many standard deviations of its logits a model may move where nothing it may see has changed."""


def _require_causal(name: str, model: Any, tokenizer: Any) -> None:
    """Raises ModelLoadError if the model's earlier logits change with later text.

    One forward pass reads rating and category, and a label stands in it: a prefix or diffusion model would
    read its answer off the question.
    """
    import torch

    ids = torch.tensor([tokenizer.encode("Is it safe? It is unsafe.")], device=model.device)
    later = ids.shape[1] // 2
    changed = torch.cat([ids[:, :later], ids[:, :-later].flip(1)], 1)
    with torch.inference_mode():
        first, second = [
            model(input_ids=text, attention_mask=torch.ones_like(text)).logits[0, :later].float()
            for text in (ids, changed)
        ]
    if (first - second).abs().max() > LEAK * first.std():
        raise ModelLoadError(
            f"the earlier tokens of model '{name}' see later ones, so no score can be read from it",
            hint="choose a model that reads from left to right, such as Qwen/Qwen3-VL-4B-Instruct",
        )


def _load_weights(files: ModelFiles, config: Any, dtype: Any, ways: Ways, device: Any) -> Any:
    from transformers import AutoModelForImageClassification, AutoModelForImageTextToText

    classifies = config.model_type == _SHIELDGEMMA
    auto = AutoModelForImageClassification if classifies else AutoModelForImageTextToText

    options: dict[str, Any] = {}
    if ways.quantise is not None:
        options["quantization_config"] = ways.config(dtype, device)
        options["device_map"] = {"": str(device)}  # weights are converted one by one, where they will be
    if ways.device_map is not None:
        options["device_map"] = ways.device_map

    def attempt(attention: str) -> tuple[Any, dict[str, Any]]:
        # The attention is always named: a config could name one that is fetched from the hub as code.
        model, info = auto.from_pretrained(
            files.folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
        return model, info

    matmul = ways.attention == MATMUL
    try:
        model, info = attempt("sdpa" if matmul else ways.attention or "sdpa")
    except ValueError as error:
        if (ways.attention or MATMUL) != MATMUL or "scaled_dot_product_attention" not in str(error):
            raise
        model, info = attempt("eager")
    else:
        if matmul:  # takes what sdpa takes
            register_matmul()
            model.set_attn_implementation(MATMUL)
    if missing := sorted(info["missing_keys"]):
        raise ModelLoadError(
            f"the weights of model '{files.name}' lack {len(missing)} tensors, the first is {missing[0]}",
            hint="fetch the model again; transformers would fill them with random numbers",
        )
    model = model.model if classifies else model
    return model if options else model.to(device)


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer, by the model's settings and its tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in (*ends, tokenizer.eos_token_id) if token is not None)


def _load_hint(error: Exception, version: str) -> str:
    if isinstance(error, ImportError):
        return "install the package it names"
    if isinstance(error, ValueError) and "nrecognized" in str(error):
        return (
            f"transformers {version} knows no image-text-to-text model of this architecture; "
            "a newer transformers may, and text-only models cannot judge images"
        )
    return "fetch the model again, or choose another one: `policyguard models` lists some"
