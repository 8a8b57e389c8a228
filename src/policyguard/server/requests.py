"""What requests hold, read within bounds, and what is answered to those that get no verdict.

Every such answer says ``"allowed": false`` beside its error, so that a client which looks at nothing but that
field lets nothing through. The error has the shape of OpenAI's, which its SDKs raise. Nothing here opens a
path or an address.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect, Request

from policyguard.errors import ConfigurationError
from policyguard.images import Limits
from policyguard.images.decode import parse
from policyguard.images.sources import load
from policyguard.integrations.http.multipart import MultipartError, split

__all__ = ["PIXELS", "Json", "Refusal", "Room", "question", "read_image", "read_json", "weigh"]

PIXELS = 128_000_000
_LIMITS = Limits()

Question: TypeAlias = tuple[bytes | str, list[str], bool | None]
"""An image (bytes, or a data URI), the policies that a body names, and whether reasons are wanted."""

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

    def response(self) -> Json:
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code} | self.more
        return Json({"allowed": False, "error": error}, self.status, headers=self.headers)


class Json(JSONResponse):
    """JSON in ASCII: broken characters, of a caller or a model, break no answer."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Room:
    """How much a service takes on at once: bytes of bodies it holds, images it judges, requests that wait.

    Args:
        workers: requests whose images are judged or made ready to be at the same time.
        queue: requests that may wait for their turn; one more is refused.
        wait: seconds a request may wait for its turn.
        body: bytes that one body may have.
        memory: bytes that all bodies together may have.
        body_seconds: seconds in which a body must have come.

    Of images that are being judged, at most ``PIXELS`` are held at once (three bytes each, some more while
    they are decoded), but always one image.
    """

    def __init__(
        self, *, workers: int, queue: int, wait: float, body: int, memory: int, body_seconds: float
    ) -> None:
        if memory < body:
            raise ConfigurationError("the memory for bodies is smaller than one body may be")
        self.workers, self.queue, self.wait = workers, queue, wait
        self.body, self.memory, self.body_seconds = body, memory, body_seconds
        self.judging = self.waiting = self.held = self.pixels = 0
        self._turns = asyncio.Semaphore(workers)
        self._lighter = asyncio.Condition()

    @asynccontextmanager
    async def reading(self, request: Request) -> AsyncIterator[bytes]:
        """The body of ``request``, held for the length of the block. Raises Refusal."""
        announced = request.headers.get("content-length")
        size = int(announced) if announced and announced.isascii() and announced.isdigit() else 0
        if size > self.body:
            raise await self._too_large(request)
        held = 0  # what came, and not what was announced: announcing costs nothing
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self.body_seconds):
                async for chunk in request.stream():
                    held += self._take(len(chunk))
                    chunks.append(chunk)
                    if held > self.body:
                        chunks.clear()
                        raise await self._too_large(request)
            if announced and held != size:
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
        refusal = Refusal(413, "body_too_large", f"the body has more than {self.body >> 20} MiB", close=True)
        if "expect" in request.headers:  # it waits for leave to send, and this is none
            return refusal
        left = 2 * self.body
        try:
            async with asyncio.timeout(min(5.0, self.body_seconds)):
                async for chunk in request.stream():
                    left -= len(chunk)
                    if left < 0:
                        break
        except (TimeoutError, ClientDisconnect, RuntimeError):
            pass
        return refusal

    @asynccontextmanager
    async def turn(self, pixels: int = 0) -> AsyncIterator[None]:
        """One of the places to judge, for images of so many ``pixels``.

        Raises Refusal if too many wait, or it waits too long.
        """
        if self._turns.locked() and self.waiting >= self.queue:
            raise Refusal(429, "overloaded", "too many requests wait already: try again", retry_after=1)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.wait):
                await self._turns.acquire()
                try:
                    async with self._lighter:
                        await self._lighter.wait_for(
                            lambda: not self.pixels or self.pixels + pixels <= PIXELS
                        )
                        self.pixels += pixels
                except BaseException:
                    self._turns.release()
                    raise
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
            async with self._lighter:
                self.pixels -= pixels
                self._lighter.notify_all()


def weigh(image: bytes | str) -> int:
    """The pixels of all frames of an image, by its headers; 0 for what is refused before it is decoded."""
    try:
        data = load(image, _LIMITS)
        assert isinstance(data, bytes)
        found = parse(data)
        width, height = found.size
    except Exception:
        return 0
    return min(width * height * found.frame_count, _LIMITS.max_total_pixels)


def question(kind: str, body: bytes) -> Question:
    """The image, the policies and ``explain`` of a body. Raises Refusal."""
    media = kind.partition(";")[0].strip().lower()
    if media == "multipart/form-data":
        return _form(kind, body)
    if media == "application/json":
        return _json(body)
    raise Refusal(415, "media_type", "send multipart/form-data with a file `image`, or application/json")


def _form(kind: str, body: bytes) -> Question:
    try:
        parts = split(kind, body)
        images = [part.decoded() for part in parts if part.name == "image"]
    except MultipartError as error:
        raise Refusal(400, "body_malformed", f"the body {error}") from None
    policies, explain = [], None
    for part in parts:
        value = bytes(part.content[:1000]).decode("utf-8", "replace")
        if part.name == "policy":
            policies.append(value)
        elif part.name == "explain" and value in ("true", "false"):
            explain = value == "true"
        elif part.name != "image":
            raise Refusal(422, "field_unknown", "the fields are image, policy and explain (true or false)")
    if len(images) != 1:
        raise Refusal(422, "image_missing" if not images else "several_images", "send one file as `image`")
    return images[0], policies, explain


def _json(body: bytes) -> Question:
    data = read_json(body)
    if not isinstance(data, dict) or data.keys() - {"image", "policy", "explain"}:
        raise Refusal(422, "field_unknown", "expected an object with image, policy and explain")
    policy, explain = data.get("policy", []), data.get("explain")
    policies = [policy] if isinstance(policy, str) else policy
    if not isinstance(policies, list) or not all(isinstance(name, str) for name in policies):
        raise Refusal(422, "field_wrong", "`policy` is a name, or a list of names")
    if not isinstance(explain, bool | None):
        raise Refusal(422, "field_wrong", "`explain` is true or false")
    return read_image(data.get("image")), policies, explain


def read_json(body: bytes) -> Any:
    """What ``body`` says, each key once. Raises Refusal."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    try:
        return json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Refusal(400, "body_malformed", "the body is not JSON, or a key stands twice") from None


_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def read_image(image: object) -> bytes | str:
    """An image in JSON: a data URI as it is, base64 as bytes. Raises Refusal for everything else."""
    if not isinstance(image, str) or not image.strip():
        raise Refusal(422, "image_missing", "`image` is a data URI, or base64")
    if image[:5].lower() == "data:":
        return image
    if _ADDRESS.match(image[:100]):
        raise Refusal(422, "image_by_address", "images are not fetched: send the image as a data URI")
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "image_malformed", "`image` is neither a data URI nor base64") from None
