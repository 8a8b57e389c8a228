"""The one thing that recaptioning asks of a model: an answer to a conversation with a picture in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["Chat", "ChatError", "Message", "Reply", "ScriptedChat", "ServerDownError"]


class ChatError(Exception):
    """No usable answer about one picture, also after retries. Becomes a ``Problem`` of that picture."""


class ServerDownError(ChatError):
    """The server cannot be reached at all. A few of these in a row stop the job."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. The picture, an RGB frame, comes before the text."""

    role: Literal["system", "user", "assistant"]
    text: str
    picture: PILImage | None = None


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

    async def ascribe(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        """The next assistant turn. Raises ChatError, and ConfigurationError for a wrong set-up."""
        ...

    async def close(self) -> None: ...


class ScriptedChat:
    """A chat without a model: ``answer`` gives the text, or raises. For tests, and for editors that know."""

    def __init__(self, answer: Callable[[Sequence[Message], int], str], *, model: str = "scripted") -> None:
        self._answer = answer
        self.model = model
        self.calls = 0

    async def ascribe(self, messages: Sequence[Message], *, seed: int = 0) -> Reply:
        self.calls += 1
        text = self._answer(messages, seed)
        return Reply(text, sum(len(message.text.split()) for message in messages), len(text.split()))

    async def close(self) -> None:
        """Nothing to close."""
