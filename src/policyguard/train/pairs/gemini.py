"""Gemini's image models as editor, over their REST API.

Covered: bounds on time, size and attempts; a refusal of the provider is said as such and is no verdict.
Not covered: the image leaves this machine. Send only what you may send, and read the provider's terms.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from typing import TYPE_CHECKING, Any

from policyguard.backends.remote.endpoint import Endpoint
from policyguard.errors import ConfigurationError, ImageError
from policyguard.images import decode
from policyguard.train.pairs.candidate import EditError, Order
from policyguard.train.recaption.chat import ChatError, RetryingClient, png_of

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["GeminiEditor"]

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
