"""A dialect says how one model family is spoken to: layout, verdict position, label texts, parser.

Covered: ``render_for`` refuses a policy of a world that the models do not know, and control tokens in it.
Not covered: a server does not list its model's control tokens, so those of the families in use are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from policyguard.assessment import Rating
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.policy import ResolvedPolicy

__all__ = [
    "FRAME",
    "HOW_TO_CHOOSE",
    "Answer",
    "Dialect",
    "FrameSlot",
    "Layout",
    "Message",
    "Prompt",
    "refuse_control_tokens",
    "render_for",
    "require_world",
]

HOW_TO_CHOOSE = (
    "name a real guard model, for example model='Qwen/Qwen3-VL-4B-Instruct', or set POLICYGUARD_MODEL; "
    "`policyguard models` lists some"
)
_CONTROL_TOKEN = re.compile(
    r"<[|｜][\w▁ -]{1,40}[|｜]>|</?s>|<[be]os>|<(start|end)_of_(turn|image)>|<end_of_utterance>"
    r"|<image>|<image_soft_token>|<fake_token_around_image>|\[/?INST\]"
)
"""Control tokens of the model families in use."""

Layout = Literal["policy-first", "image-first"]


class FrameSlot:
    """Marks the place of the frame in a message."""

    def __repr__(self) -> str:
        return "<image>"


FRAME = FrameSlot()


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn; ``parts`` are texts and, at most once in a whole prompt, the frame."""

    role: Literal["system", "user"]
    parts: tuple[str | FrameSlot, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request, ready for any backend.

    The assistant's turn is ``prefill + rating + ...``. For an unsafe rating it goes on with
    ``category_prefill + category``. So one forward pass over
    ``prefill + <unsafe label> + category_prefill`` gives both P(rating) at the end of ``prefill`` and
    P(category | unsafe) at the end: a causal model's earlier logits do not see what follows.

    Args:
        messages: the chat turns before the assistant's.
        prefill: what the assistant has already written where the rating is read.
        ratings: label text -> rating; labels differ in their first token.
        category_prefill: what stands between the label unsafe and the category.
        categories: label text -> rule id; labels differ in their first token. Empty: none to read.
        max_new_tokens: bound on what an explain reading decodes.
        schema: JSON schema of a whole answer, where it is one object of texts, its keys in order, written
            as ``json.dumps`` does; keys that hold a rating or a category have an ``enum``.
    """

    messages: tuple[Message, ...]
    prefill: str
    ratings: Mapping[str, Rating]
    category_prefill: str
    categories: Mapping[str, str]
    max_new_tokens: int = 256
    schema: Mapping[str, Any] | None = None

    def label(self, rating: Rating) -> str:
        """The label text of ``rating``."""
        return next(text for text, value in self.ratings.items() if value is rating)


@dataclass(frozen=True, slots=True)
class Answer:
    """A full answer, read by the dialect's one strict rule. ``category`` is a rule id or ``None``."""

    rating: Rating
    category: str | None = None
    rationale: str | None = None


class Dialect(Protocol):
    """How one model family is spoken to. Implementations hold no state."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str:
        """Changes with every change to what ``render`` makes or ``parse`` accepts."""
        ...

    @property
    def layout(self) -> Layout: ...

    @property
    def world(self) -> str | None:
        """The only ``world`` these models can judge; ``None`` for photographs and everything else."""
        ...

    def render(self, policy: ResolvedPolicy) -> Prompt:
        """The request for ``policy``. Raises ConfigurationError if it cannot be put to these models."""
        ...

    def precheck(self, frame: PILImage) -> str | None:
        """A reason why this frame is UNDECIDED whatever the model would say, or ``None``."""
        ...

    def parse(self, text: str, policy: ResolvedPolicy) -> Answer:
        """Read a whole answer, ``prefill`` included. Raises AnswerError unless it holds one verdict."""
        ...


def require_world(dialect: Dialect, policy: ResolvedPolicy) -> None:
    """Raises ConfigurationError if the models know one world only, and ``policy`` is of another."""
    if dialect.world is not None and policy.world != dialect.world:
        raise ConfigurationError(
            f"models of the dialect '{dialect.name}' judge policies of 'world: {dialect.world}' and nothing "
            f"else; policy '{policy.id}' is not one",
            hint=HOW_TO_CHOOSE,
        )


def render_for(dialect: Dialect, policy: ResolvedPolicy) -> Prompt:
    """The prompt for a model whose control tokens are not known.

    Raises ConfigurationError where ``render``, ``require_world`` and ``refuse_control_tokens`` do.
    """
    require_world(dialect, policy)
    prompt = dialect.render(policy)
    refuse_control_tokens(prompt, policy, _CONTROL_TOKEN)
    return prompt


def refuse_control_tokens(prompt: Prompt, policy: ResolvedPolicy, tokens: re.Pattern[str]) -> None:
    """Raises ConfigurationError for a text that holds one of ``tokens``.

    A policy with ``<|im_end|>`` in it would end its own turn and speak in another's name.
    """
    for part in (part for message in prompt.messages for part in message.parts):
        if isinstance(part, str) and (match := tokens.search(part)) is not None:
            raise ConfigurationError(
                f"the prompt for policy '{policy.id}' holds {match[0]!r}, a control token of the model",
                hint="take it out of the policy's texts",
            )
