"""What the service answers when it gives no verdict, and the bodies of requests, read within bounds.

Every such answer says ``"allowed": false`` beside its error, so that a client which looks at nothing but that
field lets nothing through. The error has the shape of OpenAI's, which its SDKs raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, Request

from policyguard.errors import ConfigurationError

__all__ = ["Refusal", "Room"]

_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refusal(Exception):  # noqa: N818 (an answer, not a fault)
    """A request that gets no verdict: the HTTP status, a code for programs, a sentence for people.

    ``close`` ends the connection, where what is left of the request is not worth reading.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        close: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after + 0.5)))
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if close:
            self.headers["Connection"] = "close"

    def response(self) -> JSONResponse:
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code} | self.more
        return JSONResponse({"allowed": False, "error": error}, self.status, headers=self.headers)


class Room:
    """How much a service takes on at once: bytes of bodies it holds, images it judges, requests that wait.

    Args:
        workers: images that are judged at the same time.
        queue: requests that may wait for their turn; one more is refused.
        wait: seconds a request may wait for its turn.
        body: bytes that one body may have.
        memory: bytes that all bodies together may have.
        body_seconds: seconds in which a body must have come.
    """

    def __init__(
        self, *, workers: int, queue: int, wait: float, body: int, memory: int, body_seconds: float
    ) -> None:
        if memory < body:
            raise ConfigurationError("the memory for bodies is smaller than one body may be")
        self.workers, self.queue, self.wait = workers, queue, wait
        self.body, self.memory, self.body_seconds = body, memory, body_seconds
        self.judging = self.waiting = self.held = 0
        self._turns = asyncio.Semaphore(workers)

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """The body of ``request``, held for the length of the block. Raises Refusal."""
        announced = request.headers.get("content-length")
        size = int(announced) if announced and announced.isascii() and announced.isdigit() else 0
        if size > self.body:
            raise await self._too_large(request)
        held = 0
        chunks: list[bytes] = []
        try:
            held = self._take(size)
            async with asyncio.timeout(self.body_seconds):
                count = 0
                async for chunk in request.stream():
                    chunks.append(chunk)
                    count += len(chunk)
                    if count > self.body:
                        chunks.clear()
                        raise await self._too_large(request)
                    if count > held:
                        held += self._take(count - held)
            if announced and count != size:
                raise Refusal(400, "body_incomplete", "the body is shorter than it says", close=True)
            data = b"".join(chunks)
            chunks.clear()
            yield data
        except TimeoutError:
            raise Refusal(
                408, "body_too_slow", f"the body took over {self.body_seconds:g} s to come", close=True
            ) from None
        except ClientDisconnect:
            raise Refusal(
                400, "body_incomplete", "the connection ended before the body", close=True
            ) from None
        finally:
            self.held -= held

    def _take(self, size: int) -> int:
        if self.held + size > self.memory:
            raise Refusal(
                429, "overloaded", "too many large requests at once: try again", retry_after=1, close=True
            )
        self.held += size
        return size

    async def _too_large(self, request: Request) -> Refusal:
        """The refusal, once the client had a chance to send what it is about to send, so that it reads it."""
        left = 2 * self.body
        try:
            async with asyncio.timeout(min(5.0, self.body_seconds)):
                async for chunk in request.stream():
                    left -= len(chunk)
                    if left < 0:
                        break
        except (TimeoutError, ClientDisconnect, RuntimeError):
            pass
        return Refusal(413, "body_too_large", f"the body has more than {self.body >> 20} MiB", close=True)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One of the places to judge an image. Raises Refusal if too many wait, or it waits too long."""
        if self._turns.locked() and self.waiting >= self.queue:
            raise Refusal(429, "overloaded", "too many requests wait already: try again", retry_after=1)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.wait):
                await self._turns.acquire()
        except TimeoutError:
            raise Refusal(
                429, "overloaded", f"no turn within {self.wait:g} s: try again", retry_after=self.wait / 2
            ) from None
        finally:
            self.waiting -= 1
        self.judging += 1
        try:
            yield
        finally:
            self.judging -= 1
            self._turns.release()
