"""JSON over HTTP to a model's server: bounded in time, size and attempts.

Covered: a deadline for each attempt and for all together, a bound on the answer, retries of what may pass,
no redirects, keys out of messages. Not covered: whether the server may have the pictures; it gets them.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from policyguard.backends.vllm.endpoint import Endpoint
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.train.recaption.chat import ChatError, ServerDownError

__all__ = ["JsonClient"]

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
            found = json.loads(body)
        except (ValueError, RecursionError):
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
