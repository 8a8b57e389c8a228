"""What edits a picture for a pair: PictoSafe's exact editor, Gemini over its REST API, a diffusers pipeline.

Covered: bounds on time, size and attempts; a provider's refusal raises with its reason; pipelines are loaded
from safetensors, without code of the model's own.
Not covered: a picture for Gemini leaves this machine: send only what you may send. Pipelines change their
call from version to version; ours is the common one: ``image``, ``prompt``, ``generator``, and ``options``.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from policyguard.backends.remote.endpoint import Endpoint
from policyguard.errors import ConfigurationError, ImageError, MissingExtraError
from policyguard.images import decode
from policyguard.pictosafe.dataset import load
from policyguard.pictosafe.render import STYLES, Renderer, Style
from policyguard.pictosafe.rules import PictoPolicy, violating
from policyguard.pictosafe.scene import SIDE, Scene
from policyguard.pictosafe.world import BENCHMARK_NAMES, GROUP_OF, MEMBERS
from policyguard.strict.files import sha256_of
from policyguard.strict.jsontext import parse_json
from policyguard.train.pairs.candidate import EditError, Order
from policyguard.train.recaption.chat import ChatError, RetryingClient, png_of

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["DiffusersEditor", "GeminiEditor", "PictoEditor", "complying"]

_ADDRESS = "https://generativelanguage.googleapis.com/v1beta"
_MAX_BODY = 64 << 20


class GeminiEditor:
    """``model`` through ``:generateContent``. The key is ``api_key`` or GEMINI_API_KEY.

    The default model and temperature are those of SafeGuard-VL's released pipeline.
    """

    def __init__(
        self,
        model: str = "gemini-2.5-flash-image",
        *,
        api_key: str | None = None,
        base_url: str = _ADDRESS,
        temperature: float = 0.5,
        timeout: float = 180.0,
        **client: Any,
    ) -> None:
        key = api_key or os.environ.get("GEMINI_API_KEY")
        if not key:
            raise ConfigurationError("the Gemini editor needs an API key", hint="set GEMINI_API_KEY")
        self.name = model
        endpoint = Endpoint.parse(base_url, key)
        self._temperature = temperature
        options = {"timeout": timeout, "max_body": _MAX_BODY} | client
        self._client = RetryingClient(endpoint, headers={"x-goog-api-key": key}, **options)

    async def edit(self, order: Order) -> PILImage:
        data = base64.b64encode(await asyncio.to_thread(png_of, order.frame)).decode("ascii")
        payload = {
            "contents": [
                {
                    "role": "user",
                    "parts": [
                        {"inlineData": {"mimeType": "image/png", "data": data}},
                        {"text": order.instruction},
                    ],
                }
            ],
            "generationConfig": {
                "responseModalities": ["TEXT", "IMAGE"],
                "temperature": self._temperature,
                "seed": order.attempt,
            },
        }
        try:
            answer = await self._client.post(f"/models/{self.name}:generateContent", payload)
        except ChatError as error:
            raise EditError(str(error)) from None
        return await asyncio.to_thread(_frame, answer)

    async def close(self) -> None:
        await self._client.close()


def _frame(answer: dict[str, Any]) -> PILImage:
    """The one image of an answer. Raises EditError, with the provider's reason where there is none."""
    try:
        candidates = answer.get("candidates") or [{}]
        parts = (candidates[0].get("content") or {}).get("parts") or []
        images = [
            part["inlineData"]["data"] for part in parts if part.get("inlineData") and not part.get("thought")
        ]
        blocked = (answer.get("promptFeedback") or {}).get("blockReason") or candidates[0].get("finishReason")
        if len(images) == 1:
            return decode(base64.b64decode(images[0], validate=True)).frames[0]
    except (AttributeError, KeyError, IndexError, TypeError, binascii.Error):
        raise EditError("the answer is not of the form that Gemini's API documents") from None
    except ImageError as error:
        raise EditError(f"the answer holds no image that can be opened: {error.message}") from None
    if len(images) > 1:
        raise EditError(f"the answer holds {len(images)} images, and one was asked for")
    raise EditError(f"the provider gave no image ({str(blocked or 'no reason given')[:100]})")


class PictoEditor:
    """Draws the scene again, each offending pictogram replaced by a complying one, of its group if it can.

    ``scenes``: SHA-256 of an image file -> the scene it shows, and its drawing style. No model is needed, so
    a whole job can be tested exactly.
    """

    name = "pictosafe"

    def __init__(self, scenes: Mapping[str, tuple[Scene, Style]]) -> None:
        self._scenes = scenes
        self._renderers = {style: Renderer(style) for style in STYLES}
        self._lock = asyncio.Lock()

    @classmethod
    def from_path(cls, path: Path) -> PictoEditor:
        """``path``: a folder of ``policyguard bench pictosafe make``, or a file of JSON lines with ``image``
        (relative to the file), ``style`` and ``scene``. Raises ConfigurationError.
        """
        if path.is_dir():
            shots = load(path).all_shots()
            return cls({sha256_of(shot.path): (shot.scene, shot.style) for shot in shots if shot.path})
        scenes: dict[str, tuple[Scene, Style]] = {}
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                row = parse_json(line)
                if row["style"] not in STYLES:
                    raise ValueError(f"no drawing style {row['style']!r}")
                scene = Scene.from_dict(row["scene"])
                scenes[sha256_of(path.parent / row["image"])] = (scene, row["style"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path}, line {len(scenes) + 1}, says nothing about a scene: {error}",
                hint="make some with: policyguard bench pictosafe make FOLDER, and give FOLDER",
            ) from error
        return cls(scenes)

    async def edit(self, order: Order) -> PILImage:
        if order.sha256 not in self._scenes:
            raise EditError("the scene of this image is not known")
        scene, style = self._scenes[order.sha256]
        try:
            policy = PictoPolicy.from_resolved(order.policy)
        except ValueError as error:
            raise ConfigurationError(
                f"policy '{order.policy.id}' is not one of PictoSafe: {error}"
            ) from error
        edited = complying(policy, scene, Random(f"{order.sha256}/{order.attempt}"))
        if edited is None:
            raise EditError("no pictogram in this place would comply")
        async with self._lock:  # a renderer is not for two at once
            return self._renderers[style].draw(edited, scale=order.frame.width // SIDE)

    async def close(self) -> None:
        """Nothing to close."""


def complying(policy: PictoPolicy, scene: Scene, random: Random) -> Scene | None:
    """``scene`` with each offending pictogram replaced by one that complies; ``None`` if there is none."""
    for place in sorted({place for _, place in violating(policy, scene)}):
        before = scene.placements[place].name
        siblings = [name for name in MEMBERS[GROUP_OF[before]] if name in BENCHMARK_NAMES]
        others = [
            *random.sample(siblings, len(siblings)),
            *random.sample(BENCHMARK_NAMES, len(BENCHMARK_NAMES)),
        ]
        for name in others:
            changed = scene.replace(place, name=name)
            if name not in scene.names and all(where != place for _, where in violating(policy, changed)):
                scene = changed
                break
        else:
            return None
    return scene


class DiffusersEditor:
    """An editing pipeline in this process, such as Qwen-Image-Edit or FLUX.1 Kontext.

    ``model``: a hub id or folder of an image-to-image editing pipeline. ``options`` go to each call, such
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
    from policyguard.backends.transformers.placement import choose_device, choose_dtype

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
