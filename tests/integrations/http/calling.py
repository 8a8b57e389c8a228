"""The six kinds of guarded client, called in one manner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import requests

from policyguard import Guard
from policyguard.integrations.http import GuardedAdapter, HttpResult, guarded_async_client, guarded_client


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    result: HttpResult

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass(frozen=True)
class Way:
    """How a request is sent: with which package, and whether by an asynchronous client."""

    name: str

    def send(
        self, guard: Guard, method: str, url: str, *, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> Reply:
        """One request by a client made for it; ``kwargs`` as httpx takes them."""
        family, _, kind = self.name.partition("-")
        if family == "requests":
            return self._requests(guard, method, url, options or {}, kwargs)
        if family == "aiohttp":
            return asyncio.run(self._aiohttp(guard, method, url, options or {}, kwargs))
        if kind == "async":
            return asyncio.run(self._async(guard, method, url, {"family": family, **(options or {})}, kwargs))
        with guarded_client(guard, family=family, **(options or {})) as client:  # type: ignore[arg-type]
            return _reply(client.request(method, url, **kwargs))

    async def _async(
        self, guard: Guard, method: str, url: str, options: dict[str, Any], kwargs: dict[str, Any]
    ) -> Reply:
        async with guarded_async_client(guard, **options) as client:
            return _reply(await client.request(method, url, **kwargs))

    async def _aiohttp(
        self, guard: Guard, method: str, url: str, options: dict[str, Any], kwargs: dict[str, Any]
    ) -> Reply:
        import aiohttp

        from policyguard.integrations.http import GuardedSession

        if "content" in kwargs:
            content = kwargs.pop("content")
            kwargs["data"] = content if isinstance(content, bytes | str) else _pieces(content)
        if "files" in kwargs:
            form = aiohttp.FormData(kwargs.pop("data", ()))
            files = kwargs.pop("files")
            for name, (filename, data, kind) in files.items() if isinstance(files, Mapping) else files:
                form.add_field(name, data, filename=filename, content_type=kind)
            kwargs["data"] = form
        async with (
            GuardedSession(guard, **options) as session,
            session.request(method, url, **kwargs) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status, headers, await response.read(), response.policyguard)  # type: ignore[attr-defined]

    def _requests(
        self, guard: Guard, method: str, url: str, options: dict[str, Any], kwargs: dict[str, Any]
    ) -> Reply:
        if "content" in kwargs:
            kwargs["data"] = kwargs.pop("content")
        with requests.Session() as session:
            session.mount("http://", GuardedAdapter(guard, **options))
            response = session.request(method, url, **kwargs)
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Reply(response.status_code, headers, response.content, response.policyguard)  # type: ignore[attr-defined]


WAYS = [Way(name) for name in ("httpx-sync", "httpx-async", "httpx2-sync", "httpx2-async", "requests")]
if find_spec("aiohttp") is not None:
    WAYS.append(Way("aiohttp"))
PLAIN = Way("httpx-sync")


async def _pieces(content: Any) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


def _reply(response: Any) -> Reply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, response.content, response.extensions["policyguard"])


def chat(*urls: Any, text: str = "What is this?") -> dict[str, Any]:
    """An OpenAI chat request with images."""
    parts: list[Any] = [{"type": "text", "text": text}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"model": "m", "messages": [{"role": "user", "content": parts}]}


CHAT = "/v1/chat/completions"
