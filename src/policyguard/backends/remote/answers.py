"""Reads a server's answers strictly; pure functions. Whatever is not exactly as it must be is CallError.

Answers that are one JSON object: how a server is held to their shape, and how they are read.

No server is trusted to hold to it: one that ignores the constraint answers 200 all the same. Only fields that
servers document today are used; ``guided_json`` and the like are ignored by vLLM since 0.12.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.assessment import FailureKind, Rating
from policyguard.backends.remote.errors import CallError
from policyguard.dialects import Answer
from policyguard.errors import AnswerError
from policyguard.strict.jsontext import DuplicateKeyError, JsonError, parse_json

if TYPE_CHECKING:
    from policyguard.dialects import Prompt

__all__ = [
    "Listing",
    "NoLogprobsError",
    "read_beginning",
    "read_listing",
    "read_rated",
    "read_text",
    "read_thought",
    "read_tokens",
    "response_format",
    "rest_pattern",
    "verdict_form",
]


_LONGEST_TEXT = 500
"""Characters of a free text, so that the object is closed before the tokens run out."""
_TEXT = rf'([^"\\\x00-\x1f]|\\["\\/nt]){{1,{_LONGEST_TEXT}}}'


def verdict_form(prompt: Prompt, *, words: bool) -> dict[str, Any]:
    """A schema of ``{"verdict": ANSWER}``: what the dialect asks for, but safe cannot name a rule.

    Without ``words``, ANSWER has no free texts. It is wrapped because servers want one object at the root,
    and no choice of two.
    """
    forms = [_object(kinds) for kinds in _verdicts(prompt, words=words)]
    return _object({"verdict": {"anyOf": forms}})


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The field ``response_format`` of the OpenAI API, which most servers know."""
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": dict(schema)}}


def rest_pattern(schema: Mapping[str, Any], said: str) -> str | None:
    """A regular expression for what may follow ``said``, the beginning of an object of ``schema``.

    None where ``said`` is no such beginning.
    """
    rest, pattern = said, ""
    for literal, value in _pieces(schema):
        whole = value or _escaped(literal)
        if not rest:
            pattern += whole
        elif value is None and literal.startswith(rest):
            pattern, rest = _escaped(literal.removeprefix(rest)), ""
        elif (found := re.match(whole, rest)) is not None:
            rest = rest[found.end() :]
        else:
            return None
    return None if rest else pattern


def read_rated(text: str, prompt: Prompt, *, words: bool) -> Answer:
    """Read an answer that must be exactly what ``verdict_form`` says; AnswerError for anything else.

    An unsafe rating stands without a rule; a safe one that names a rule contradicts itself, and is refused.
    """
    try:
        found = parse_json(text)
    except DuplicateKeyError:
        raise AnswerError("the model's answer gives a key twice") from None
    except JsonError:
        raise AnswerError("the server did not hold the model to the asked form: no JSON object") from None
    said = found.get("verdict") if isinstance(found, dict) and len(found) == 1 else None
    kinds = next((kinds for kinds in _verdicts(prompt, words=words) if _fits(said, kinds)), None)
    if not isinstance(said, dict) or kinds is None:
        raise AnswerError("the model's answer is not one verdict in the asked form")
    chosen = [said[name] for name, kind in kinds.items() if "enum" in kind]
    return Answer(
        next(prompt.ratings[label] for label in chosen if label in prompt.ratings),
        next((prompt.categories[label] for label in chosen if label in prompt.categories), None),
        next((said[name].strip() for name, kind in kinds.items() if "enum" not in kind), None),
    )


def _verdicts(prompt: Prompt, *, words: bool) -> Iterator[dict[str, Any]]:
    """The keys of a safe answer, and of any other: name -> what it may hold."""
    assert prompt.schema is not None
    for safe in (True, False):
        barred = {label for label, rating in prompt.ratings.items() if (rating is Rating.SAFE) is not safe}
        barred |= set(prompt.categories) if safe else set()
        yield {
            name: kind | {"enum": [label for label in kind["enum"] if label not in barred]}
            if "enum" in kind
            else kind
            for name, kind in prompt.schema["properties"].items()
            if words or "enum" in kind
        }


def _fits(said: object, kinds: Mapping[str, Any]) -> bool:
    return (
        isinstance(said, dict)
        and set(said) == set(kinds)
        and all(
            isinstance(text, str) and text in kinds[name].get("enum", (text,)) for name, text in said.items()
        )
    )


def _object(kinds: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(kinds),
        "required": list(kinds),
        "additionalProperties": False,
    }


def _pieces(schema: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The fixed texts of an object, and between them the patterns of its values."""
    before = "{"
    for name, kind in schema["properties"].items():
        yield f'{before}{json.dumps(name)}: "', None
        # Longest first: matching takes the first that fits.
        choices = sorted(kind.get("enum", ()), key=len, reverse=True)
        yield "", f"({'|'.join(map(_escaped, choices))})" if choices else _TEXT
        before = '", '
    yield '"}', None


def _escaped(text: str) -> str:
    """``text`` as a pattern. Fewer escapes than ``re.escape`` makes: grammars on servers know only these."""
    return re.sub(r"([\\.^$*+?()\[\]{}|])", r"\\\1", text)


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
    ``alone``: there is only the token that was generated, listed by itself or as if it had been certain. Some
    servers write that without having looked; no score can be made of it.
    """

    by_text: Mapping[str, float]
    by_id: Mapping[int, float] | None
    ceiling: float
    alone: bool

    def of_ids(self, ids: Mapping[str, int]) -> dict[str, float] | None:
        """Label -> probability of its token, for the labels listed; None where tokens have no ids."""
        if self.by_id is None:
            return None
        return {label: self.by_id[token] for label, token in ids.items() if token in self.by_id}

    def of_texts(self, labels: Sequence[str]) -> dict[str, float]:
        """Label -> probability of all listed tokens that only this label begins with.

        Each of them excludes the others, so they add up. Raises CallError where a token that several labels
        begin with has more than a trace of probability: it could be any of theirs.
        """
        found: dict[str, float] = {}
        shared = 0.0
        for token, probability in self.by_text.items():
            begun = [label for label in labels if token and label.startswith(token)]
            if len(begun) == 1:
                found[begun[0]] = found.get(begun[0], 0.0) + probability
            elif begun:
                shared += probability
        if shared > _TOLERANCE:
            raise CallError(
                f"the server's tokens do not tell labels apart, for {shared:.3f} of the probability"
            )
        return found


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
    return Listing(by_text, by_id, ceiling, alone=not top or (len(by_text) == 1 and sampled[1] == 1.0))


def read_text(data: Mapping[str, Any]) -> str:
    """The text of an answer that the model ended itself."""
    text, whole = read_beginning(data)
    if not whole:
        raise CallError("the model's explanation was cut off")
    return text


def read_beginning(data: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of an answer, and whether the model ended it itself."""
    choice = _choice(data)
    finish, message = choice.get("finish_reason"), _field(choice, "message", dict)
    if finish == "content_filter" or message.get("refusal"):
        raise CallError(_DECLINED, kind=FailureKind.REFUSED)
    if finish not in ("stop", "length"):
        raise CallError(f"the server ended the answer with {finish!r}")
    return _field(message, "content", str), finish == "stop"


def read_thought(data: Mapping[str, Any], end: str) -> str | None:
    """What was decoded before the stop text ``end``; ``None`` if the bound on tokens came first.

    Raises CallError where the model ended its turn by itself, or the server does not say what stopped it.
    """
    text, whole = read_beginning(data)
    if not whole:
        return None
    if _choice(data).get("stop_reason") != end:
        raise CallError(f"the model ended its answer without coming to {end!r}")
    return text.removesuffix(end)


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
