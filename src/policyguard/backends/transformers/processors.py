"""The model's own processor, with or without torchvision.

A family's processor often takes a video processor, and in transformers every video processor needs
torchvision. A guard looks at pictures only, so without torchvision the same processor is put together from
its tokenizer and its PIL image processor; the token ids are the same either way, the resized pixels
differ by what two implementations of one filter differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.errors import ModelLoadError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["load_processor", "prepare", "shrink"]

_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_processor(folder: Path, config: Any, *, name: str, max_pixels: int | None = None) -> Any:
    """The processor of the model in ``folder``, padding on the left, scaling pictures to ``max_pixels``.

    Raises ModelLoadError where the folder holds none that takes a picture and a text.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    family = _family(folder, config)
    parts = family.get_attributes() if family is not None else []
    if family is not None and "video_processor" in parts and not is_torchvision_available():
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
            f"model '{name}' has no processor for pictures and text in {folder}",
            hint="it needs processor_config.json or preprocessor_config.json beside the tokenizer files",
        )
    if not tokenizer.is_fast:
        raise ModelLoadError(
            f"model '{name}' has no fast tokenizer, and without one the place of an answer cannot be found",
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
    """The model's inputs for one picture per text, padded on the left.

    ``special``: whether the tokenizer adds its own marks; not where the chat template has written them.
    Raises ValueError for a picture that the processor does not take.
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
        named: Mapping[str, Any] = read_json(path) if path.is_file() else {}
        if isinstance(found := named.get("processor_class"), str):
            return processor_class_from_name(found)
    return PROCESSOR_MAPPING.get(type(config), None)


def _without_video(family: type) -> Any:
    """``family`` without its video part, which must be its last: parts are passed by position."""

    def get_attributes(cls: type) -> list[str]:
        return [part for part in family.get_attributes() if part != "video_processor"]  # type: ignore[attr-defined]

    return type(family.__name__, (family,), {"get_attributes": classmethod(get_attributes)})
