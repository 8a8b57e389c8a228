"""A diffusers editing pipeline in this process as editor, such as Qwen-Image-Edit or FLUX.1 Kontext.

Covered: weights are loaded from safetensors, without code of the model's own. Not covered: pipelines change
their call from version to version; ours is the common one: ``image``, ``prompt``, ``generator``, and the
``options`` given.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.train.pairs.candidate import EditError, Order

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["DiffusersEditor"]


class DiffusersEditor:
    """``model``: a hub id or folder of an image-to-image editing pipeline. ``options`` go to each call, such
    as ``num_inference_steps``. ``pipeline``: one that is loaded already.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        options: Mapping[str, Any] | None = None,
        pipeline: Any = None,
        seed: int = 0,
    ) -> None:
        self.name = model
        self._options = dict(options or {})
        self._seed = seed
        self._lock = threading.Lock()
        self._device = device or "cpu"
        self._pipeline = _load(model, device) if pipeline is None else pipeline

    async def edit(self, order: Order) -> PILImage:
        return await asyncio.to_thread(self._run, order)

    async def close(self) -> None:
        """Nothing to close; the weights go with the object."""

    def _run(self, order: Order) -> PILImage:
        from PIL.Image import Image

        try:
            import torch
        except ImportError:
            raise MissingExtraError("torch", "train") from None
        try:
            with self._lock:
                generator = torch.Generator("cpu").manual_seed(self._seed + order.attempt)
                result = self._pipeline(
                    image=order.frame, prompt=order.instruction, generator=generator, **self._options
                )
            frame = result.images[0]
        except Exception as error:  # the edge to torch and diffusers
            message = " ".join(str(error).split())[:300]
            raise EditError(f"the pipeline failed: {type(error).__name__}: {message}") from error
        flagged = getattr(result, "nsfw_content_detected", None)
        if flagged and flagged[0]:
            raise EditError("the pipeline's own safety checker blanked the image")
        if not isinstance(frame, Image):
            raise EditError("the pipeline gave no PIL image (output_type must be 'pil')")
        return frame


def _load(model: str, device: str | None) -> Any:
    try:
        import diffusers
    except ImportError:
        raise MissingExtraError("diffusers", "train") from None
    from policyguard.backends.transformers.loading import choose_device, choose_dtype

    place = choose_device(device)
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            model, torch_dtype=choose_dtype(None, place), use_safetensors=True, trust_remote_code=False
        )
        return pipeline.to(place)
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise ConfigurationError(
            f"the pipeline '{model}' cannot be loaded: {type(error).__name__}: {message}",
            hint="give a hub id or folder of an image editing pipeline with safetensors weights",
        ) from error
