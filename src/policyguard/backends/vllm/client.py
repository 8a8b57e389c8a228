"""One HTTP call: bounded in time and size, and read strictly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from policyguard.backends.vllm.faults import CallError
from policyguard.errors import MissingExtraError

if TYPE_CHECKING:
    import httpx

    from policyguard.backends.vllm.endpoint import Endpoint

__all__ = ["MAX_BODY", "Client", "Reply"]

MAX_BODY = 8 * 2**20
"""Bytes of an answer that are read at most. A real one has a few thousand."""

_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: ``data`` is the JSON object of a 200, ``message`` and ``parameter`` say what is wrong."""

    status: int
    data: dict[str, Any]
    message: str = ""
    parameter: str = ""


class Client:
    """The HTTP connections to one server; belongs to one event loop.

    Args:
        endpoint: the server.
        timeout: seconds for one call from first to last byte, a hard bound.
        connections: how many calls run at the same time at most.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float, connections: int) -> None:
        try:
            import httpx
        except ImportError:
            raise MissingExtraError("httpx", "remote") from None
        self.endpoint = endpoint
        self._timeout = timeout
        # No compression: a bound on bytes received is then a bound on bytes held.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "policyguard"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        self._http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
            # Some networks reach a server through a proxy from the environment; no machine reaches itself so.
            trust_env=not endpoint.loopback,
            # Reading all certificates takes 40 ms, and plain HTTP within a machine meets none.
            verify=endpoint.base.startswith("https:") or not endpoint.loopback,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, method: Literal["GET", "POST"], url: str, payload: object = None) -> Reply:
        """Send ``payload`` as JSON. Raises CallError unless there is a whole answer below 500 to look at."""
        loop = asyncio.get_running_loop()
        content = None if payload is None else await loop.run_in_executor(None, _dump, payload)
        headers = {"Content-Type": "application/json"} if content is not None else {}
        async with (
            self._edge(),
            self._http.stream(method, url, content=content, headers=headers) as response,
        ):
            body = await self._body(response)
        status = response.status_code
        if status == 200:
            return Reply(status, self._object(body))
        message, parameter = _complaint(body)
        if status in (408, 425, 429) or status >= 500:
            said = self.endpoint.quote(message)
            reason = f"{self.endpoint.host} cannot answer now (HTTP {status})" + (f": {said}" if said else "")
            raise CallError(reason, retryable=status != 501)
        return Reply(status, {}, message, parameter)

    @asynccontextmanager
    async def _edge(self) -> AsyncIterator[None]:
        """Turns everything that httpx raises, and the deadline, into CallError."""
        import httpx

        late = CallError(f"{self.endpoint.host} did not answer within {self._timeout:g} s", retryable=True)
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except (TimeoutError, httpx.TimeoutException):
            raise late from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict, OSError) as error:
            words = self.endpoint.quote(error)
            said = f"{type(error).__name__}: {words}" if words else type(error).__name__
            reason = f"the connection to {self.endpoint.host} failed ({said})"
            raise CallError(reason, retryable=isinstance(error, httpx.TransportError | OSError)) from None

    async def _body(self, response: httpx.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise CallError(f"{self.endpoint.host} sends a compressed answer, which was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BODY:
                raise CallError(f"the answer of {self.endpoint.host} is longer than {MAX_BODY // 2**20} MiB")
        return bytes(body)

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            data = _load(body)
        except (ValueError, RecursionError):
            raise CallError(f"the answer of {self.endpoint.host} is not JSON", retryable=True) from None
        if not isinstance(data, dict):
            raise CallError(f"the answer of {self.endpoint.host} is not a JSON object")
        return data


def _dump(payload: object) -> bytes:
    return json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()


def _load(body: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(body, parse_constant=refuse)


def _complaint(body: bytes) -> tuple[str, str]:
    """Message and parameter of an error body, in the shapes of OpenAI, vLLM and FastAPI; else its text."""
    try:
        data = _load(body)
    except (ValueError, RecursionError):
        return body[:2000].decode(errors="replace"), ""
    if isinstance(data, dict):
        error = data.get("error", data)
        if isinstance(error, dict):
            message = error.get("message") or error.get("detail") or ""
            return str(message), str(error.get("param") or "")
        return str(error), ""
    return str(data)[:2000], ""
