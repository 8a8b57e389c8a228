"""Where, in a tokenised prompt, a rating and a category are read.

The whole text (chat, prefill, label) is tokenised in one piece, as in training and on a server: a prefill
tokenised apart from its label would put token boundaries where the model never saw them. The place of an
answer follows from comparing: it is the token that holds the label's first character, and all labels
must agree on everything before it and differ there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Rating
from policyguard.backends.transformers.decoding import begun_after
from policyguard.backends.transformers.loading import prepare
from policyguard.dialects.base import FrameSlot, Message, Prompt, refuse_control_tokens
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.transformers.loading import LoadedModel
    from policyguard.policy import ResolvedPolicy

__all__ = ["Plan", "Prefix", "control_tokens", "make_plan"]

MIN_PREFIX = 32
"""Tokens. A shorter prefix costs more to fork and extend than to compute again."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The text before the image, and what comes after it. ``ids``: shape (1, tokens); ``key``: the same."""

    ids: Any
    rest: str
    key: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One policy, put to one model.

    Args:
        head: the chat as text, up to where the assistant speaks; the image is a placeholder in it.
        text: ``head``, prefill, the label unsafe and the category prefill: all that one forward pass reads.
        ids: ``text`` as tokens, the image as its placeholder.
        special: whether the tokenizer adds its own marks, such as a beginning of sequence.
        ratings: first token of a label -> rating; ``categories``: first token -> label text.
        rating_at, category_at: from the end (negative), the positions whose logits predict those tokens.
        prefix: what all frames share, where their KV cache can be shared too.
    """

    policy: ResolvedPolicy
    prompt: Prompt
    head: str
    text: str
    ids: Sequence[int]
    special: bool
    ratings: Mapping[int, Rating]
    rating_at: int
    categories: Mapping[int, str]
    category_at: int
    prefix: Prefix | None

    @property
    def keep(self) -> int:
        """How many positions at the end need logits."""
        return -min(self.rating_at, self.category_at)

    def answered(self, rating: Rating, category: str | None) -> str:
        """The assistant's text after ``rating``, and after ``category`` (a label) if there is one."""
        answer = self.prompt.prefill + self.prompt.label(rating)
        return answer if category is None else answer + self.prompt.category_prefill + category

    def begun(self, processor: Any, answers: Sequence[str]) -> tuple[int, list[list[int]]] | None:
        """How ``answers`` go on after a part of ``text``; see ``begun_after``."""
        tokens = _Tokens(processor.tokenizer, self.special)
        known = {answer: tokens.ids(self.head + answer) for answer in set(answers)}
        # From the rating on it is known that no processor rewrites the text after the image.
        return begun_after(self.ids, [known[answer] for answer in answers], at_most=-self.rating_at)


def make_plan(loaded: LoadedModel, prompt: Prompt, policy: ResolvedPolicy, *, share_prefix: bool) -> Plan:
    """Tokenise ``prompt`` for ``loaded``. Raises ConfigurationError where the two do not fit together."""
    from PIL import Image

    if not {Rating.SAFE, Rating.UNSAFE} <= set(prompt.ratings.values()):
        raise ConfigurationError("a dialect's ratings need a label for safe and one for unsafe")
    tokenizer = loaded.processor.tokenizer
    refuse_control_tokens(prompt, policy, control_tokens(loaded.processor))
    head = _chat_text(loaded.processor, prompt, policy)
    special = not (tokenizer.bos_token and head.startswith(tokenizer.bos_token))
    tokens = _Tokens(tokenizer, special)

    before = head + prompt.prefill
    text = before + prompt.label(Rating.UNSAFE) + prompt.category_prefill
    ids = tokens.ids(text)
    rating_index, rating_tokens = _labels(tokens, before, list(prompt.ratings))
    unsafe = rating_tokens[prompt.label(Rating.UNSAFE)]
    if ids[: rating_index + 1] != [*tokens.ids(before + prompt.label(Rating.UNSAFE))[:rating_index], unsafe]:
        raise ConfigurationError(
            "the tokenizer of this model joins the label for unsafe with what follows it",
            hint="begin the dialect's category_prefill with a mark or a space",
        )
    category_index, category_tokens = (
        _labels(tokens, text, list(prompt.categories)) if prompt.categories else (len(ids), {})
    )

    blank = Image.new("RGB", (64, 64))
    whole = prepare(loaded.processor, [text], [blank], special=special)["input_ids"]
    if whole[0, rating_index - 1 - len(ids) :].tolist() != ids[rating_index - 1 :]:
        raise ConfigurationError(
            "the processor of this model rewrites the text after the image, so no answer can be read there",
            hint="run the model on a server instead, with base_url= (--base-url)",
        )
    if loaded.context is not None and whole.shape[1] > loaded.context:
        raise ConfigurationError(
            f"policy '{policy.id}' makes a prompt of {whole.shape[1]} tokens with the smallest image, "
            f"and the model takes {loaded.context}",
            hint="shorten the policy, split it into several, or use a model with a longer context",
        )
    return Plan(
        policy=policy,
        prompt=prompt,
        head=head,
        text=text,
        ids=ids,
        special=special,
        ratings={rating_tokens[label]: rating for label, rating in prompt.ratings.items()},
        rating_at=rating_index - 1 - len(ids),
        categories={token: label for label, token in category_tokens.items()},
        category_at=category_index - 1 - len(ids),
        prefix=_prefix(loaded, tokens, text, blank, whole) if share_prefix else None,
    )


class _Tokens:
    """One tokenizer, always called in one way: calls that differ change its state, which threads share."""

    def __init__(self, tokenizer: Any, special: bool) -> None:
        self.tokenizer = tokenizer
        self.special = special

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self._encode(text)["input_ids"]
        return ids

    def at(self, text: str, character: int) -> tuple[list[int], int]:
        """The tokens of ``text``, and the index of the one that holds ``character``."""
        encoded = self._encode(text)
        ends = [end for _, end in encoded["offset_mapping"]]
        return encoded["input_ids"], next(index for index, end in enumerate(ends) if end > character)

    def _encode(self, text: str) -> Any:
        return self.tokenizer(
            text, padding=True, add_special_tokens=self.special, return_offsets_mapping=True
        )


def _labels(tokens: _Tokens, before: str, labels: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Where the labels stand after ``before``, and the first token of each.

    Raises ConfigurationError unless they begin at one place and differ in their first token.
    """
    places = {label: tokens.at(before + label, len(before)) for label in labels}
    first_ids, first_index = places[labels[0]]
    for label, (ids, index) in places.items():
        if index != first_index or ids[:index] != first_ids[:index]:
            raise ConfigurationError(
                f"the labels '{labels[0]}' and '{label}' do not begin at one place for this tokenizer",
                hint="end the dialect's prefill with a mark, not a space, or begin every label with a space",
            )
    starts = {label: ids[index] for label, (ids, index) in places.items()}
    by_token: dict[int, str] = {}
    for label, token in starts.items():
        if token in by_token:
            raise ConfigurationError(
                f"the labels '{by_token[token]}' and '{label}' begin with the same token for this tokenizer, "
                "so one forward pass cannot tell them apart",
                hint="use labels that differ in their first token, for example single letters",
            )
        by_token[token] = label
    return first_index, starts


def _chat_text(processor: Any, prompt: Prompt, policy: ResolvedPolicy) -> str:
    messages = [_chat_message(message) for message in prompt.messages]
    blind = [
        {**message, "content": [part for part in message["content"] if part["type"] != "image"]}
        for message in messages
    ]
    text = _apply_template(processor, messages, prompt, policy)
    if text == _apply_template(processor, blind, prompt, policy):
        raise ConfigurationError(
            "the chat template of this model drops the image, and nothing would be judged",
            hint="use the chat template that the model was published with",
        )
    for words in prompt.texts():
        if len(words.split()) > 1 and words.strip() not in text:
            raise ConfigurationError(
                f"the chat template of this model drops part of the prompt for policy '{policy.id}': "
                f"{words.strip()[:40]!r}",
                hint="use the chat template that the model was published with, or choose its own dialect",
            )
    return text


def _apply_template(
    processor: Any, messages: list[dict[str, Any]], prompt: Prompt, policy: ResolvedPolicy
) -> str:
    from jinja2 import TemplateError

    speaker = processor if getattr(processor, "chat_template", None) else processor.tokenizer
    try:
        text: str = speaker.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **prompt.template
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigurationError(
            f"the chat template of this model does not take the prompt for policy '{policy.id}': {error}",
            hint="choose another dialect for this model, or a model with a chat template",
        ) from error
    return text


def _chat_message(message: Message) -> dict[str, Any]:
    parts = [
        {"type": "image"} if isinstance(part, FrameSlot) else {"type": "text", "text": part}
        for part in message.parts
    ]
    return {"role": message.role, "content": parts}


def control_tokens(processor: Any) -> re.Pattern[str]:
    """The texts that the model takes for something other than words: ends of turns, places of frames."""
    special = {token.content for token in processor.tokenizer.added_tokens_decoder.values() if token.special}
    places = {getattr(processor, name, None) for name in ("image_token", "video_token", "boi_token")}
    # A tokenizer may hand out its placeholder as an AddedToken, which is no text.
    tokens = special | {str(place) for place in places if place}
    return re.compile("|".join(re.escape(token) for token in sorted(tokens)) or r"(?!)")


def _prefix(loaded: LoadedModel, tokens: _Tokens, text: str, blank: Any, whole: Any) -> Prefix | None:
    """The split at the image, if tokenising the two sides apart gives the same tokens as the whole."""
    import torch

    start = text.find(loaded.processor.image_token)
    ids = torch.tensor([tokens.ids(text[:start])])
    if ids.shape[1] < MIN_PREFIX:
        return None
    rest = prepare(loaded.processor, [text[start:]], [blank], special=False)["input_ids"]
    if not torch.equal(torch.cat([ids, rest], 1), whole):
        return None
    return Prefix(ids, text[start:], tuple(ids[0].tolist()))
