"""Whether the frames of requests reach the model.

A text-only model answers *safe* for everything, and so does one behind a proxy that strips images, or behind
a template that leaves them out. So each server is looked at with its first answer about a frame, and again
after every thousand frames: the same request is sent without the frame, and its prompt must be shorter. Where
that leaves doubt, because the frame is small, one of our own takes its place; and where it says nothing,
because the server does not count prompts, a model that can be asked anything is asked which colour two frames
have. Not covered: a model that gets the frame and does not look.
"""

from __future__ import annotations

import asyncio
import base64
import io
import re
import secrets
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from policyguard.backends.remote.answers import prompt_tokens, read_completion, read_partial_text
from policyguard.backends.remote.errors import CallError, takes_no_images
from policyguard.errors import ConfigurationError
from policyguard.strict.lru import LruDict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from policyguard.backends.remote.endpoint import Endpoint
    from policyguard.backends.remote.errors import Reply

    Ask = Callable[[Endpoint, Mapping[str, Any]], Awaitable[Reply]]

__all__ = ["MIN_TOKENS", "Lengths", "Look", "Sight"]

EVERY = 1000
"""Frames after which a server is looked at again."""

MIN_TOKENS = 16
"""Models make 36 (pico) to some hundreds of tokens of an image; a word in its place takes a few."""

_COLOURS = {
    "red": (230, 20, 20),
    "green": (20, 160, 40),
    "blue": (20, 40, 230),
    "yellow": (250, 230, 30),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "orange": (255, 140, 0),
    "purple": (130, 20, 160),
}
_QUESTION = f"Which colour fills this image: {', '.join(_COLOURS)}? Answer with that one word."
_LONGEST = 512
"""Tokens: a request that asks for more is repeated without its frame for one token."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of a server: whether the model gets images (None: it does not tell), and how that shows.

    ``tokens`` is by how many the image made the prompt longer.
    """

    seen: bool | None
    how: str
    tokens: int | None = None


class Lengths:
    """How long each server says that its prompts are: the same for requests that differ in the pixels.

    An answer with another length is that to another request. ``fits`` learns from what it is shown: a length
    counts once it has come twice, and a server that wavers before that is not held to any.
    """

    def __init__(self) -> None:
        self._known: LruDict[Hashable, tuple[int, bool]] = LruDict(4096)
        self._waver: set[Endpoint] = set()

    def fits(self, reply: Reply, request: Hashable) -> bool:
        """Whether the answer may be that to ``request``, which names all but the pixels."""
        tokens, key = prompt_tokens(reply.data) or 0, (reply.endpoint, request)
        known, is_sure = self._known.get(key) or (0, False)
        if tokens == known or reply.endpoint in self._waver:
            is_sure = is_sure or tokens > 0
        elif is_sure:
            return False
        elif known:
            self._waver.add(reply.endpoint)
        self._known.put(key, (tokens, is_sure))
        return True

    def forget(self, reply: Reply, request: Hashable) -> None:
        """Learn the length of ``request`` anew, as the model or its template may have changed."""
        self._known.pop((reply.endpoint, request))


@dataclass(slots=True)
class _Server:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    last: int | None = None
    note: str | None = None


class Sight:
    """Belongs to one event loop. ``ask`` sends a chat completion to one server; it raises CallError.

    ``frames`` is the number of frames so far, which the caller counts.
    """

    def __init__(self, model: str, ask: Ask) -> None:
        self.frames = 0
        self._model = model
        self._ask = ask
        self._servers: dict[Endpoint, _Server] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not known about the servers that have answered."""
        return tuple(dict.fromkeys(it.note for it in self._servers.values() if it.note is not None))

    async def require(self, sent: Mapping[str, Any], reply: Reply, *, free: bool) -> None:
        """Raises ConfigurationError if the server that gave ``reply`` does not show frames to the model.

        ``sent`` is the request. ``free``: the model answers questions of any kind. Raises CallError for an
        answer that is none.
        """
        server = self._servers.setdefault(reply.endpoint, _Server())
        if server.last is not None and self.frames - server.last < EVERY:
            return
        async with server.lock:
            if server.last is not None and self.frames - server.last < EVERY:
                return
            read_completion(reply.data)
            look = await self.look(sent, reply, free=free)
            if look.seen is False:
                raise ConfigurationError(
                    f"'{self._model}' on {reply.endpoint.host} does not see images: {look.how}",
                    hint="serve a vision-language model with its own chat template, and let no proxy take "
                    "images out of requests",
                )
            server.last, server.note = self.frames, None if look.seen else look.how

    async def look(self, sent: Mapping[str, Any], reply: Reply, *, free: bool) -> Look:
        """One look at the server that answered ``sent`` with ``reply``. Raises CallError."""
        look = await self._count(sent, reply)
        if look.seen or not free:
            return look
        answered = await self._name_colours(reply.endpoint)
        if answered is None:
            return Look(True, "the model names colours", look.tokens)
        return Look(False, f"{look.how}, and {answered}", look.tokens)

    async def _count(self, sent: Mapping[str, Any], reply: Reply) -> Look:
        """By how much the prompt grows with the frame, and if that is little, with one of our own."""
        unknown = Look(
            None, "the server does not report prompt lengths, so whether the model sees images is unknown"
        )
        whole = prompt_tokens(reply.data)
        if not whole:
            return unknown
        less = await self._ask(reply.endpoint, _with_frame(sent, None))
        if less.status != 200:
            # It takes the request with the frame, and so it has noticed that there was one.
            wants = less.status in (400, 422) and not takes_no_images(less)
            wants &= re.search(r"image|empty", less.message, re.IGNORECASE) is not None
            return Look(True, "the server refuses the same request without its image") if wants else unknown
        without = prompt_tokens(less.data)
        if not without:
            return unknown
        tokens = whole - without
        if tokens < MIN_TOKENS:
            own = await self._ask(reply.endpoint, _with_frame(sent, _picture("purple", 448)))
            tokens = max(tokens, (prompt_tokens(own.data) or 0) - without)
        if tokens < MIN_TOKENS:
            return Look(False, f"an image makes the prompt only {max(0, tokens)} tokens longer", tokens)
        return Look(True, f"an image makes the prompt {tokens} tokens longer", tokens)

    async def _name_colours(self, endpoint: Endpoint) -> str | None:
        """None if the model names the colours of two frames; else what it answers, in half a sentence."""
        chosen = secrets.SystemRandom().sample(sorted(_COLOURS), 2)
        for colour in chosen:
            parts = [
                {"type": "image_url", "image_url": {"url": _picture(colour, 448)}},
                {"type": "text", "text": _QUESTION},
            ]
            messages = [{"role": "user", "content": parts}]
            reply = await self._ask(endpoint, {"messages": messages, "max_tokens": 64})
            if reply.status != 200:
                return f"asked for the colour of one, it is refused (HTTP {reply.status})"
            try:
                text = read_partial_text(reply.data)[0]
            except CallError as error:
                return f"asked for the colour of a {colour} one, {error}"
            if set(re.findall("|".join(_COLOURS), text.lower())) != {colour}:
                said = endpoint.quote(text[:80])
                return f"asked for the colour of a {colour} one, the model answers '{said}'"
        return None


def _with_frame(sent: Mapping[str, Any], uri: str | None) -> dict[str, Any]:
    """``sent`` with the image at ``uri`` in place of its own, or with none."""
    messages = []
    for message in sent["messages"]:
        content = message["content"]
        if not isinstance(content, str):
            other = [] if uri is None else [{"type": "image_url", "image_url": {"url": uri}}]
            content = [
                part for old in content for part in (other if old["type"] == "image_url" else [old])
            ] or "."
        messages.append({**message, "content": content})
    limit = sent.get("max_tokens", 1)
    return {**sent, "messages": messages, "max_tokens": limit if limit <= _LONGEST else 1}


@cache
def _picture(colour: str, side: int) -> str:
    """A data URI of a frame in one colour."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (side, side), _COLOURS[colour]).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
