"""The one thing that recaptioning asks of a model: an answer to a conversation with an image in it.

JSON over HTTP to a model's server: bounded in time, size and attempts.

Covered: a deadline for each attempt and for all together, a bound on the answer, retries of what may pass,
no redirects, keys out of messages. Not covered: whether the server may have the images; it gets them.

A model behind any OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a vendor.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from policyguard.backends.remote.endpoint import Endpoint
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.strict.jsontext import JsonError, parse_json

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = [
    "Chat",
    "ChatError",
    "JsonClient",
    "Message",
    "OpenAIChat",
    "Reply",
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
    """What the model said. Token counts are ``None`` where nobody counted; ``cut``: it ran into its bound."""

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


_CONNECT_SECONDS = 10.0


class _PassingError(ChatError):
    """Worth another attempt. ``wait``: seconds that the server asks for."""

    def __init__(self, message: str, *, down: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.down = down
        self.wait = wait


class JsonClient:
    """Connections to one server, within one event loop.

    Args:
        endpoint: the server.
        headers: sent with each request, such as the API key.
        timeout: seconds for one attempt, from first to last byte.
        attempts: how often a request is tried at most; all of them end within ``attempts * timeout``.
        connections: requests at the same time.
        max_body: bytes of an answer.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        headers: dict[str, str],
        timeout: float = 120.0,
        attempts: int = 4,
        connections: int = 16,
        max_body: int = 8 << 20,
        first_wait: float = 1.0,
    ) -> None:
        try:
            import httpx
            import tenacity  # noqa: F401 (said now, and not in the middle of a job)
        except ImportError as error:
            raise MissingExtraError(error.name or "httpx", "remote") from None
        self._endpoint = endpoint
        self._timeout = timeout
        self._attempts = attempts
        self._max_body = max_body
        self._first_wait = first_wait
        self._http = httpx.AsyncClient(
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "policyguard"}
            | headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=connections),
            follow_redirects=False,
            trust_env=not endpoint.loopback,
            verify=endpoint.base.startswith("https:") or not endpoint.loopback,
        )

    async def post(self, url: str, payload: object) -> dict[str, Any]:
        """The JSON object that answers. Raises ChatError, ServerDownError and ConfigurationError."""
        import tenacity

        content = json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()
        backoff = tenacity.wait_exponential(self._first_wait, max=20.0) + tenacity.wait_random(
            0.0, self._first_wait
        )

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, _PassingError) else 0.0
            return max(backoff(state), min(asked, 60.0))

        try:
            async for attempt in tenacity.AsyncRetrying(
                stop=tenacity.stop_after_attempt(self._attempts)
                | tenacity.stop_after_delay(self._attempts * self._timeout),
                wait=wait,
                retry=tenacity.retry_if_exception_type(_PassingError),
                reraise=True,
            ):
                with attempt:
                    return await self._once(url, content)
        except _PassingError as error:
            kind = ServerDownError if error.down else ChatError
            raise kind(f"{error}, also after {self._attempts} attempts") from None
        raise AssertionError("tenacity ends with an answer or an error")

    async def close(self) -> None:
        await self._http.aclose()

    async def _once(self, url: str, content: bytes) -> dict[str, Any]:
        import httpx

        host = self._endpoint.host
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._http.stream(
                    "POST", url, content=content, headers={"Content-Type": "application/json"}
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > self._max_body:
                        raise ChatError(f"the answer of {host} is longer than {self._max_body >> 20} MiB")
        except (TimeoutError, httpx.TimeoutException):
            late = f"{host} did not answer within {self._timeout:g} s"
            raise _PassingError(late, down=True) from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, OSError) as error:
            said = f"{type(error).__name__}: {self._endpoint.quote(error)}"
            raise _PassingError(f"the connection to {host} failed ({said})", down=True) from None
        return self._read(response.status_code, bytes(body), response.headers.get("Retry-After", ""))

    def _read(self, status: int, body: bytes, after: str) -> dict[str, Any]:
        host = self._endpoint.host
        try:
            found = parse_json(body)
        except JsonError:
            found = None
        if status == 200:
            if isinstance(found, dict):
                return found
            raise _PassingError(f"the answer of {host} is no JSON object")
        said = self._endpoint.quote(_complaint(found))
        words = f"{host} answers HTTP {status}" + (f": {said}" if said else "")
        if status in (408, 425, 429) or status >= 500:
            raise _PassingError(words, down=status >= 500, wait=float(after) if after.isdigit() else 0.0)
        if status in (401, 403):
            raise ConfigurationError(f"{host} refuses the API key (HTTP {status})", hint="set the right key")
        if status in (404, 405) or 300 <= status < 400:
            raise ConfigurationError(
                words, hint="check the address, which usually ends in /v1, and the model"
            )
        raise ChatError(words)


def _complaint(found: Any) -> str:
    error = found.get("error", found) if isinstance(found, dict) else ""
    return str(error.get("message") or error.get("detail") or "") if isinstance(error, dict) else str(error)


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

    async def reply(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
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
    if message.frame is None:
        return {"role": message.role, "content": message.text}
    uri = "data:image/png;base64," + base64.b64encode(png_of(message.frame)).decode("ascii")
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": message.text}]
    return {"role": message.role, "content": parts}


def png_of(frame: PILImage) -> bytes:
    """The pixels as PNG, and nothing else of the image."""
    clean = frame.convert("RGB").copy()
    clean.info = {}
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
