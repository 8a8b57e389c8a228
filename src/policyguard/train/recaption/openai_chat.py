"""A model behind any OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a vendor."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from policyguard.backends.vllm.endpoint import Endpoint
from policyguard.train.recaption.chat import ChatError, Message, Reply
from policyguard.train.recaption.http import JsonClient

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["OpenAIChat", "png_of"]


class OpenAIChat:
    """``model`` on the server at ``base_url``. Sampling as given; see ``http.JsonClient`` for the bounds."""

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_tokens: int = 1024,
        **client: Any,
    ) -> None:
        self.model = model
        self._endpoint = Endpoint.parse(base_url, api_key)
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client = JsonClient(self._endpoint, headers=headers, **client)
        self._fields = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}

    async def ascribe(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        turns = [await asyncio.to_thread(_turn, message) for message in messages]
        payload = {"model": self.model, "messages": turns, "seed": seed, **self._fields}
        found = await self._client.post(f"{self._endpoint.base}/chat/completions", payload)
        try:
            choice = found["choices"][0]
            text = choice["message"]["content"]
            usage = found.get("usage") or {}
            if not isinstance(text, str):
                raise TypeError
            read, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise ChatError(f"the answer of {self._endpoint.host} holds no text") from None
        return Reply(text, read, written, cut=choice.get("finish_reason") == "length")

    async def close(self) -> None:
        await self._client.close()


def _turn(message: Message) -> dict[str, Any]:
    if message.picture is None:
        return {"role": message.role, "content": message.text}
    uri = "data:image/png;base64," + base64.b64encode(png_of(message.picture)).decode("ascii")
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": message.text}]
    return {"role": message.role, "content": parts}


def png_of(picture: PILImage) -> bytes:
    """The pixels as PNG, and nothing else of the picture."""
    clean = picture.convert("RGB").copy()
    clean.info = {}
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
