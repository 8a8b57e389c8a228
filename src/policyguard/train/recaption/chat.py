"""What recaptioning asks of a model: the next turn of a conversation with an image in it.

``OpenAIChat`` asks a model on any OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a vendor's. Covered:
a deadline for each attempt and for all together, retries of passing failures, and all that
``backends.remote.client`` covers. Not covered: whether the server may have the images; it gets them.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from policyguard.backends.remote.client import MAX_BODY, JsonClient, json_bytes
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.frame_encoding import png_of
from policyguard.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = [
    "Chat",
    "ChatError",
    "Message",
    "OpenAIChat",
    "Reply",
    "RetryingClient",
    "ScriptedChat",
    "ServerDownError",
    "png_of",
]


class ChatError(Exception):
    """No usable answer about one image, also after retries. Becomes a ``Problem`` of that image."""


class ServerDownError(ChatError):
    """The server cannot be reached at all. A few of these in a row stop the job."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. The image, an RGB frame, comes before the text."""

    role: Literal["system", "user", "assistant"]
    text: str
    frame: PILImage | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The model's answer. Token counts are ``None`` where nobody counted; ``cut``: it reached its limit."""

    text: str
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    cut: bool = False


class Chat(Protocol):
    """A model that answers. ``model`` names it, for the rows and for telling old work from new."""

    @property
    def model(self) -> str: ...

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        """The next assistant turn. Raises ChatError, and ConfigurationError for a wrong set-up."""
        ...

    async def close(self) -> None: ...


class ScriptedChat:
    """A chat without a model: ``answer`` gives the text, or raises. For tests, and for editors that know."""

    def __init__(self, answer: Callable[[Sequence[Message], int], str], *, model: str = "scripted") -> None:
        self._answer = answer
        self.model = model
        self.calls = 0

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        self.calls += 1
        text = self._answer(messages, seed)
        return Reply(text, sum(len(message.text.split()) for message in messages), len(text.split()))

    async def close(self) -> None:
        """Nothing to close."""


class RetryingClient:
    """Connections to one server, within one event loop; a call is repeated where that may help.

    Args:
        endpoint: the server.
        headers: sent with each request; default: the endpoint's API key as a bearer token.
        timeout: seconds for one attempt, from first to last byte.
        attempts: how often a request is tried at most; all of them end within ``attempts * timeout``.
        connections: requests at the same time.
        max_body: bytes of an answer.
        first_wait: seconds before the second attempt; later waits double.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        headers: dict[str, str] | None = None,
        timeout: float = 120.0,
        attempts: int = 4,
        connections: int = 16,
        max_body: int = MAX_BODY,
        first_wait: float = 1.0,
    ) -> None:
        try:
            import tenacity  # noqa: F401 (raised now, not in the middle of a job)
        except ImportError:
            raise MissingExtraError("tenacity", "remote") from None
        self._http = JsonClient(
            endpoint, timeout=timeout, connections=connections, max_body=max_body, headers=headers
        )
        self._timeout = timeout
        self._attempts = attempts
        self._first_wait = first_wait

    async def post(self, path: str, payload: object) -> dict[str, Any]:
        """The JSON object that answers. Raises ChatError, ServerDownError and ConfigurationError."""
        import tenacity

        content = await asyncio.to_thread(json_bytes, payload)
        backoff = tenacity.wait_exponential(self._first_wait, max=20.0) + tenacity.wait_random(
            0.0, self._first_wait
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            requested = error.retry_after if isinstance(error, CallError) else None
            return max(backoff(state), min(requested or 0.0, 60.0))

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._attempts)
            | tenacity.stop_after_delay(self._attempts * self._timeout),
            wait=wait,
            retry=tenacity.retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return await retrying(self._post_once, path, content)
        except CallError as error:
            note = f", also after {self._attempts} attempts" if _may_pass(error) else ""
            raise (ServerDownError if error.server_failed else ChatError)(f"{error}{note}") from None

    async def close(self) -> None:
        await self._http.close()

    async def _post_once(self, path: str, content: bytes) -> dict[str, Any]:
        reply = await self._http.call("POST", path, content, within=self._timeout)
        if reply.status == 200:
            return reply.data
        quote, host = reply.endpoint.quote(reply.message), reply.endpoint.host
        if reply.status in (401, 403):
            raise ConfigurationError(
                f"{host} refuses the API key (HTTP {reply.status})", hint="set the right key"
            )
        reason = f"{host} answers HTTP {reply.status}" + (f": {quote}" if quote else "")
        if reply.status in (404, 405) or 300 <= reply.status < 400:
            raise ConfigurationError(
                reason, hint="check the address, which usually ends in /v1, and the model"
            )
        raise ChatError(reason)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, CallError) and error.failure.retryable


class OpenAIChat:
    """``model`` on the server at ``base_url``. ``client``: options of ``RetryingClient``."""

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
        self._client = RetryingClient(self._endpoint, **client)
        self._fields = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        turns = [await asyncio.to_thread(_turn, message) for message in messages]
        payload = {"model": self.model, "messages": turns, "seed": seed, **self._fields}
        answer = await self._client.post("/chat/completions", payload)
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"]
            usage = answer.get("usage") or {}
            if not isinstance(text, str):
                raise TypeError
            read, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise ChatError(f"the answer of {self._endpoint.host} holds no text") from None
        return Reply(text, read, written, cut=choice.get("finish_reason") == "length")

    async def close(self) -> None:
        await self._client.close()


def _turn(message: Message) -> dict[str, Any]:
    if message.frame is None:
        return {"role": message.role, "content": message.text}
    uri = "data:image/png;base64," + base64.b64encode(png_of(message.frame)).decode("ascii")
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": message.text}]
    return {"role": message.role, "content": parts}
