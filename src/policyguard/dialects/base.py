"""A dialect says how one model family is spoken to: layout, verdict position, label texts, parser.

Covered: ``render_for`` refuses a policy of a world that the models do not know, and control tokens in it.
Not covered: a server does not list its model's control tokens, so those of the families in use are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    "Limits",
    "Message",
    "Prompt",
    "refuse_control_tokens",
    "render_for",
    "render_one",
    "require_rule_scores",
    "require_world",
]

HOW_TO_CHOOSE = (
    "name a real guard model with model= (--model) or POLICYGUARD_MODEL, such as Qwen/Qwen3-VL-4B-Instruct; "
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
        ratings: label text -> rating; labels differ in their first token. Several labels may mean one rating.
        category_prefill: what stands between the label unsafe and the category.
        categories: label text -> rule id; labels differ in their first token. Empty: none to read.
        max_new_tokens: bound on what an explain reading decodes.
        schema: JSON schema of a whole answer, where it is one object of texts, its keys in order, written
            as ``json.dumps`` does; keys that hold a rating or a category have an ``enum``.
        rule: the id of the one rule it asks about; ``None``: the whole policy.
        template: arguments of the model's own chat template, such as ``policy``: JSON values. Each text
            of two words or more in them must stand in what the template makes of them.
        thinks_until: the model first decodes freely up to this text, at most ``max_thought_tokens`` tokens;
            the rating is read behind it, with what was thought as part of the prefill. A thought that does
            not end in time is UNDECIDED.
        undecided_at: the share of the ratings' probability, in (0, 0.5], from which the answer is UNDECIDED
            even where another rating has more: for models that put too little on it.
    """

    messages: tuple[Message, ...]
    prefill: str
    ratings: Mapping[str, Rating]
    category_prefill: str
    categories: Mapping[str, str]
    max_new_tokens: int = 256
    schema: Mapping[str, Any] | None = None
    rule: str | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    thinks_until: str | None = None
    max_thought_tokens: int = 1024
    undecided_at: float = 0.5

    def rating_of(self, shares: Mapping[Rating, float]) -> Rating:
        """The rating that ``shares`` of a positive sum stand for. The likeliest, on a tie the graver one."""
        if shares.get(Rating.UNDECIDED, 0.0) >= self.undecided_at * sum(shares.values()):
            return Rating.UNDECIDED
        graver_first = (Rating.UNSAFE, Rating.UNDECIDED, Rating.SAFE)
        return max(graver_first, key=lambda rating: shares.get(rating, 0.0))

    def label(self, rating: Rating) -> str:
        """The label text of ``rating``, the first where there are several."""
        return next(text for text, value in self.ratings.items() if value is rating)

    def texts(self) -> list[str]:
        """Every text that a policy can have put into it: message parts, and texts of ``template``."""
        parts = [part for message in self.messages for part in message.parts if isinstance(part, str)]
        return [*parts, *_texts(self.template)]


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key, item in value.items() for text in (*_texts(key), *_texts(item))]
    return [text for item in value for text in _texts(item)] if isinstance(value, (list, tuple)) else []


@dataclass(frozen=True, slots=True)
class Answer:
    """A full answer, read by the dialect's one strict rule. ``category`` is a rule id or ``None``."""

    rating: Rating
    category: str | None = None
    rationale: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a family can be asked. ``lost``: what of a policy does not reach the model, in sentences."""

    max_rules: int | None = None
    lost: tuple[str, ...] = ()


class Dialect(Protocol):
    """How one model family is spoken to. Implementations hold no state.

    To write your own, inherit from this class and define ``name``, ``version``, ``render`` and ``parse``.
    """

    name: str
    version: str
    """Changes with every change to what ``render`` makes or ``parse`` accepts."""
    layout: Layout = "policy-first"
    world: str | None = None
    """The only ``world`` these models can judge; ``None`` for photographs and everything else."""
    limits: Limits = Limits()
    wording: str = ""
    """Whose sentences are put to a model that was trained on its makers': ``"own"``, ``"template"`` (those in
    the model's chat template) or ``"file:"`` and a digest. Empty where nobody's exact words matter."""

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """The requests for ``policy``: one for all of it, or one for each rule that is not exempt.

        Raises ConfigurationError if it cannot be put to these models.
        """
        ...

    def precheck(self, frame: PILImage) -> str | None:
        """A reason why this frame is UNDECIDED whatever the model would say, or ``None``."""
        return None

    def contradicts(self, thought: str, rating: Rating) -> bool:
        """Whether ``thought`` states another rating than the one read behind it: an ERROR."""
        return False

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read a whole answer to ``prompt``, its prefill included.

        Raises AnswerError unless it holds one verdict.
        """
        ...


def require_world(dialect: Dialect, policy: ResolvedPolicy) -> None:
    """Raises ConfigurationError if the models know one world only, and ``policy`` is of another."""
    if dialect.world is not None and policy.world != dialect.world:
        raise ConfigurationError(
            f"models of the dialect '{dialect.name}' judge policies of 'world: {dialect.world}' and nothing "
            f"else; policy '{policy.id}' is not one",
            hint=HOW_TO_CHOOSE,
        )


def render_for(dialect: Dialect, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
    """The prompts for a model whose control tokens are not known.

    Raises ConfigurationError where ``render``, ``require_world`` and ``refuse_control_tokens`` do.
    """
    require_world(dialect, policy)
    prompts = dialect.render(policy)
    require_rule_scores(dialect, prompts, policy)
    for prompt in prompts:
        refuse_control_tokens(prompt, policy, _CONTROL_TOKEN)
    return prompts


def require_rule_scores(dialect: Dialect, prompts: Sequence[Prompt], policy: ResolvedPolicy) -> None:
    """Raises ConfigurationError where a policy decides by rules, and the model is not asked for one.

    A model that names no rule leaves rules with thresholds undecided, and a violation of a rule that blocks
    would get the policy's own, perhaps milder, action.
    """
    if len(prompts) > 1 or prompts[0].rule is not None or prompts[0].categories:
        return
    for rule in policy.rules:
        has = "a threshold" if rule.threshold is not None else "an action"
        if rule.status != "exempt" and (
            rule.threshold is not None or rule.action not in (None, policy.action)
        ):
            raise ConfigurationError(
                f"rule '{rule.id}' of policy '{policy.id}' has {has} of its own, and in the dialect "
                f"'{dialect.name}' the model names no rule",
                hint=f"ask about one rule at a time: dialect='{dialect.name}+per-rule' (--dialect)",
            )


def refuse_control_tokens(prompt: Prompt, policy: ResolvedPolicy, tokens: re.Pattern[str]) -> None:
    """Raises ConfigurationError for a text that holds one of ``tokens``.

    A policy with ``<|im_end|>`` in it would end its own turn and speak in another's name.
    """
    for text in prompt.texts():
        if (match := tokens.search(text)) is not None:
            raise ConfigurationError(
                f"the prompt for policy '{policy.id}' holds {match[0]!r}, a control token of the model",
                hint="take it out of the policy's texts",
            )


def render_one(dialect: Dialect, policy: ResolvedPolicy) -> Prompt:
    """The one request for ``policy``. Raises ConfigurationError for a dialect that asks rule by rule."""
    prompts = dialect.render(policy)
    if len(prompts) != 1 or prompts[0].rule is not None:
        raise ConfigurationError(
            f"the dialect '{dialect.name}' asks about one rule at a time, and this needs one prompt",
            hint="use a dialect that asks about the whole policy, such as 'safeguard'",
        )
    return prompts[0]
