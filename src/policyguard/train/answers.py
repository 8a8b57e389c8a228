"""What a guard should say: the inverse of a dialect's parser, and the request in the dialect's own layout.

Every answer is read back by ``dialect.parse`` before it is used, and must begin with what the runtime puts
into the model's mouth; so what is learnt is what is served.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from policyguard.assessment import Rating
from policyguard.dialects import Answer, Dialect, FrameSlot, Prompt, render_one
from policyguard.errors import ConfigurationError
from policyguard.policy import ResolvedPolicy

__all__ = ["AnswerFormat", "beginning_of", "conversation", "split_thought", "write_answer"]

AnswerFormat = Literal["rating-first", "thinking-first"]

THINK = (
    "Before you answer, think aloud between <think> and </think>: what the picture shows, and what the "
    "policy says of it. Then give the answer in the format asked for."
)
_OPEN, _CLOSE = "<think>", "</think>"


def conversation(
    dialect: Dialect, policy: ResolvedPolicy, *, answer: AnswerFormat = "rating-first"
) -> list[dict[str, Any]]:
    """The chat turns before the assistant's, as ``{"role", "content": [parts]}``, with one image part.

    Thinking first adds one sentence to the last turn; the runtime's fast reading does not think, so a model
    trained that way is served off the ground it was trained on. Raises ConfigurationError as ``render`` does.
    """
    messages: list[dict[str, Any]] = []
    for message in render_one(dialect, policy).messages:
        parts: list[dict[str, str]] = [
            {"type": "image"} if isinstance(part, FrameSlot) else {"type": "text", "text": part}
            for part in message.parts
        ]
        messages.append({"role": message.role, "content": parts})
    if answer == "thinking-first":
        messages[-1]["content"].append({"type": "text", "text": THINK})
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
    elif dialect.name == "pico":
        text = _pico(prompt, answer, key)
    else:
        raise ConfigurationError(
            f"answers in the dialect '{dialect.name}' cannot be written for training",
            hint="train in the dialect 'safeguard'",
        )
    read = dialect.parse(text, policy, prompt)
    if not text.startswith(beginning_of(prompt, answer)) or read.rating is not answer.rating:
        raise ConfigurationError(f"the dialect '{dialect.name}' reads another answer than was written")
    return text


def beginning_of(prompt: Prompt, answer: Answer) -> str:
    """How an answer begins, up to the last place where the guard reads scores: rating, and broken rule."""
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


def split_thought(text: str) -> tuple[str, str]:
    """The thought and the answer after it, of ``<think>...</think>answer``.

    Raises ValueError unless the text begins with one thought, closed once.
    """
    body = text.removeprefix(_OPEN)
    if body == text or text.count(_OPEN) != 1 or text.count(_CLOSE) != 1:
        raise ValueError("the answer does not begin with one thought")
    thought, answer = body.split(_CLOSE)
    return thought.strip(), answer.lstrip("\n")
