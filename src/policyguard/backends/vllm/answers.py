"""Reads a server's answers strictly; pure functions. Whatever is not exactly as it must be is CallError."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policyguard.assessment import FailureKind
from policyguard.backends.vllm.faults import CallError

__all__ = ["Listing", "NoLogprobsError", "read_listing", "read_text", "read_tokens"]

_TOKEN_ID = re.compile(r"token_id:(\d+)")
_DECLINED = "the guard model declined to answer"
_TOLERANCE = 1e-3
"""By how much rounded log-probabilities may exceed what probabilities can be."""


class NoLogprobsError(Exception):
    """The answer is well-formed and holds no log-probabilities at all."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The tokens for which the server gives a probability, at one position.

    ``by_id`` is None where it names them by text. ``ceiling`` is the most that any other token can have.
    """

    by_text: Mapping[str, float]
    by_id: Mapping[int, float] | None
    ceiling: float

    def of_ids(self, ids: Mapping[str, int]) -> dict[str, float] | None:
        """Label -> probability of its token, for the labels listed; None where tokens have no ids."""
        if self.by_id is None:
            return None
        return {label: self.by_id[token] for label, token in ids.items() if token in self.by_id}

    def of_texts(self, labels: Sequence[str]) -> dict[str, float]:
        """Label -> probability of the longest listed token that only this label begins with."""
        found: dict[str, tuple[int, float]] = {}
        for token, probability in self.by_text.items():
            begun = [label for label in labels if token and label.startswith(token)]
            if len(begun) == 1 and len(token) > found.get(begun[0], (0, 0.0))[0]:
                found[begun[0]] = (len(token), probability)
        return {label: probability for label, (_, probability) in found.items()}


def read_listing(data: Mapping[str, Any]) -> Listing:
    """The log-probabilities at the first generated position. Raises NoLogprobsError where there are none."""
    choice = _choice(data)
    if choice.get("finish_reason") == "content_filter":
        raise CallError(_DECLINED, kind=FailureKind.REFUSED)
    if choice.get("finish_reason") not in ("length", "stop"):
        raise CallError(f"the server ended the answer with {choice.get('finish_reason')!r}")
    if choice.get("logprobs") is None:
        raise NoLogprobsError
    content = _field(choice["logprobs"], "content", list)
    if not content:
        raise CallError("the answer holds no token to read a rating from")
    listed = content[0].get("top_logprobs") if isinstance(content[0], dict) else None
    top = [_entry(entry) for entry in _list(listed, "top_logprobs")] if listed is not None else []
    sampled = _entry(content[0])

    by_text: dict[str, float] = {}
    for token, probability in top:
        by_text[token] = by_text.get(token, 0.0) + probability
    by_text.setdefault(*sampled)
    ids = [_TOKEN_ID.fullmatch(token) for token in by_text]
    named = [match for match in ids if match is not None]
    if named and (len(named) < len(ids) or len(top) != len({token for token, _ in top})):
        raise CallError("the answer names its tokens ambiguously")
    total = sum(by_text.values())
    if total > 1.0 + _TOLERANCE:
        raise CallError(f"the answer's probabilities add up to {total:.3f}")
    by_id = {int(match[1]): by_text[match[0]] for match in named} if named else None
    # Servers list the likeliest tokens, so no other one exceeds the least likely of these.
    ceiling = min([max(0.0, 1.0 - total), *(probability for _, probability in top)])
    return Listing(by_text, by_id, ceiling)


def read_text(data: Mapping[str, Any]) -> str:
    """The text of an answer that the model ended itself."""
    choice = _choice(data)
    finish, message = choice.get("finish_reason"), _field(choice, "message", dict)
    if finish == "content_filter" or message.get("refusal"):
        raise CallError(_DECLINED, kind=FailureKind.REFUSED)
    if finish == "length":
        raise CallError("the model's explanation was cut off")
    if finish != "stop":
        raise CallError(f"the server ended the answer with {finish!r}")
    text: str = _field(message, "content", str)
    return text


def read_tokens(data: Mapping[str, Any]) -> tuple[list[int], int | None]:
    """Token ids, and the model's context length where it is told, from an answer of ``/tokenize``."""
    tokens = _field(data, "tokens", list)
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise CallError("the server's token ids are not numbers")
    longest = data.get("max_model_len")
    return tokens, longest if type(longest) is int else None


def _choice(data: Mapping[str, Any]) -> dict[str, Any]:
    choices = _field(data, "choices", list)
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise CallError(f"the answer holds {len(choices)} choices instead of one")
    return choices[0]


def _entry(entry: object) -> tuple[str, float]:
    token, logprob = _field(entry, "token", str), _field(entry, "logprob", int, float)
    if not math.isfinite(logprob) or logprob > _TOLERANCE:
        raise CallError(f"the answer holds {logprob!r} for a log-probability")
    return token, math.exp(min(0.0, logprob))


def _list(value: object, name: str) -> list[Any]:
    return _field({name: value}, name, list)  # type: ignore[no-any-return]


def _field(holder: object, name: str, *types: type) -> Any:
    value = holder.get(name) if isinstance(holder, dict) else None
    if type(value) not in types:
        wanted = " or ".join(kind.__name__ for kind in types)
        raise CallError(f"the answer has no '{name}' of type {wanted}")
    return value
