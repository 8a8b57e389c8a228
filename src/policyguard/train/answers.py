"""What a guard should say: the inverse of a dialect's parser, and the request in the dialect's own layout.

Every answer is read back by ``dialect.parse`` before it is used, and must begin with what the runtime puts
into the model's mouth; so what is learnt is what is served. A model that thinks first is trained in the
variant of its dialect that lets it (``safeguard:think``), and is served in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from policyguard.assessment import Rating
from policyguard.dialects import Answer, Dialect, FrameSlot, Prompt, get_dialect, render_one
from policyguard.errors import ConfigurationError
from policyguard.policy import ResolvedPolicy

if TYPE_CHECKING:
    from policyguard.train.recipe import AssessRecipe, GrpoRecipe

__all__ = [
    "AnswerFormat",
    "beginning_of",
    "conversation",
    "dialect_of",
    "served_dialect",
    "split_at_answer",
    "write_answer",
]

AnswerFormat = Literal["rating-first", "thinking-first"]

_THOUGHT = "Each rule of the policy is held against what the picture shows, one by one."


def served_dialect(name: str, answer: AnswerFormat) -> str:
    """The name of the dialect in which a guard speaks to a model that was trained so.

    Raises ConfigurationError for a dialect that has no variant in which the model thinks first.
    """
    plain, _, mode = name.partition(":")
    if answer == "rating-first" or mode == "think":
        return name
    try:
        get_dialect(f"{plain}:think")
    except ConfigurationError:
        raise ConfigurationError(
            f"answer: thinking-first: no guard lets a model of the dialect '{name}' think first",
            hint="train in the dialect 'safeguard', or answer: rating-first",
        ) from None
    return f"{plain}:think"


def dialect_of(recipe: AssessRecipe | GrpoRecipe) -> Dialect:
    """The dialect that the model of ``recipe`` is trained and served in. Raises ConfigurationError."""
    return get_dialect(served_dialect(recipe.dialect, recipe.answer))


def conversation(dialect: Dialect, policy: ResolvedPolicy) -> list[dict[str, Any]]:
    """The chat turns before the assistant's, as ``{"role", "content": [parts]}``, with one image part.

    Raises ConfigurationError as ``render`` does.
    """
    messages: list[dict[str, Any]] = []
    for message in render_one(dialect, policy).messages:
        parts: list[dict[str, str]] = [
            {"type": "image"} if isinstance(part, FrameSlot) else {"type": "text", "text": part}
            for part in message.parts
        ]
        messages.append({"role": message.role, "content": parts})
    return messages


def write_answer(dialect: Dialect, policy: ResolvedPolicy, answer: Answer) -> str:
    """The assistant's whole turn that ``dialect.parse`` reads as ``answer``.

    Raises ConfigurationError for a dialect that has no writer, or that cannot say this.
    """
    prompt = render_one(dialect, policy)
    keys = {rule: key for key, rule in policy.keys.items()}
    if answer.category is not None and answer.category not in keys:
        raise ConfigurationError(f"policy '{policy.id}' has no rule '{answer.category}'")
    key = None if answer.category is None else keys[answer.category]
    if dialect.name == "safeguard":
        fields = {
            "rating": str(answer.rating),
            "category": key or "none",
            "rationale": answer.rationale or "",
        }
        text = json.dumps(fields, ensure_ascii=False)
        if prompt.thinks_until is not None:
            thought = f"{_THOUGHT} {answer.rationale or ''}".strip()
            text = f"<think>{thought}{prompt.thinks_until}\n{text}"
    elif dialect.name == "pico":
        text = _pico(prompt, answer, key)
    else:
        raise ConfigurationError(
            f"answers in the dialect '{dialect.name}' cannot be written for training",
            hint="train in the dialect 'safeguard'",
        )
    read = dialect.parse(text, policy, prompt)
    _, begun = split_at_answer(text, prompt)
    if not begun.startswith(beginning_of(prompt, answer)) or read.rating is not answer.rating:
        raise ConfigurationError(f"the dialect '{dialect.name}' reads another answer than was written")
    return text


def beginning_of(prompt: Prompt, answer: Answer) -> str:
    """How an answer begins, up to the last place where the guard reads scores: rating, and broken rule.

    Of a thinking model's, what begins behind the thought.
    """
    beginning = prompt.prefill + prompt.label(answer.rating)
    if answer.rating is not Rating.UNSAFE or answer.category is None:
        return beginning
    label = next(label for label, rule in prompt.categories.items() if rule == answer.category)
    return beginning + prompt.category_prefill + label


def _pico(prompt: Prompt, answer: Answer, key: str | None) -> str:
    """pico says a rating, a key, and names of pictograms; it has no words for anything else."""
    if answer.rating is not Rating.UNSAFE:
        return prompt.label(answer.rating)
    names = (answer.rationale or "").removeprefix("The scene shows ").removesuffix(".").split(", ")
    return " ".join([prompt.label(Rating.UNSAFE), key or "", *(name for name in names if name)])


def split_at_answer(text: str, prompt: Prompt) -> tuple[str, str]:
    """What was thought, with its tags, and the rest, where the guard reads: all, where none is thought."""
    if prompt.thinks_until is None:
        return "", text
    thought, _, rest = text.partition(prompt.thinks_until)
    return thought, rest
