"""A model in this process, through transformers. One image at a time: for many, serve it with vLLM."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.train.recaption.chat import ChatError, Message, Reply

__all__ = ["LocalChat"]


class LocalChat:
    """``model``: a hub id or folder of an image-text-to-text model with a chat template.

    It is loaded by the guard's own loader: safetensors only, no code of the model's own. Raises
    ModelLoadError and ConfigurationError when it is built, before the first frame.
    """

    def __init__(
        self,
        model: str,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 1024,
        max_pixels: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
    ) -> None:
        from policyguard.backends.registry import resolve_model
        from policyguard.backends.transformers.files import complete, find
        from policyguard.backends.transformers.loading import load
        from policyguard.backends.transformers.placement import choose_device, choose_dtype

        place = choose_device(device)
        files = complete(find(resolve_model(model).location, name=model))
        self._loaded = load(files, device=place, dtype=choose_dtype(dtype, place), max_pixels=max_pixels)
        if not getattr(self._loaded.processor, "chat_template", None):
            raise ConfigurationError(
                f"model '{model}' has no chat template, and cannot be asked for a caption",
                hint="choose an instruct model, such as 'Qwen/Qwen2.5-VL-7B-Instruct'",
            )
        self.model = model
        self._max_pixels = max_pixels
        self._options: dict[str, Any] = {"max_new_tokens": max_tokens, "do_sample": temperature > 0}
        if temperature > 0:
            self._options |= {"temperature": temperature, "top_p": top_p, "top_k": 0}
        self._lock = threading.Lock()

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        return await asyncio.to_thread(self._answer, messages, seed)

    async def close(self) -> None:
        """Nothing to close; the weights go with the object."""

    def _answer(self, messages: Sequence[Message], seed: int) -> Reply:
        try:
            import torch
        except ImportError:
            raise MissingExtraError("torch", "transformers") from None
        from policyguard.backends.transformers.loading import prepare, shrink

        loaded = self._loaded
        turns = [
            {
                "role": message.role,
                "content": [
                    *([{"type": "image"}] if message.frame is not None else []),
                    {"type": "text", "text": message.text},
                ],
            }
            for message in messages
        ]
        frames = [
            shrink(loaded.processor, message.frame, self._max_pixels)
            for message in messages
            if message.frame is not None
        ]
        try:
            with self._lock, torch.inference_mode():
                text = loaded.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
                inputs = prepare(loaded.processor, [text], frames, special=False).to(loaded.device)
                inputs = {
                    name: value.to(loaded.dtype) if value.is_floating_point() else value
                    for name, value in inputs.items()
                }
                torch.manual_seed(seed)
                produced = loaded.model.generate(**inputs, **self._options)[0]
        except Exception as error:
            message = " ".join(str(error).split())[:300]
            raise ChatError(f"{self.model} failed: {type(error).__name__}: {message}") from error
        length = int(inputs["input_ids"].shape[1])
        answer = produced[length:].tolist()
        ended = bool(answer) and answer[-1] in loaded.ends
        message = loaded.processor.tokenizer.decode(answer, skip_special_tokens=True)
        return Reply(message, length, len(answer), cut=not ended)
