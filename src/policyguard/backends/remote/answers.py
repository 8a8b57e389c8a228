"""Reads the answers of a server strictly, and asks for JSON verdicts; pure functions.

Two things are read from a chat completion: the token probabilities at the first position, and the text. The
text of a model that gives no probabilities is a JSON verdict: ``verdict_schema`` asks for it and
``parse_verdict`` reads it. Covered: what is not exactly as it must be is a CallError or an AnswerError. No
server is trusted to keep to a schema: one that ignores it answers 200 all the same. Only fields that servers
document today are used; ``guided_json`` and the like are ignored by vLLM since 0.12.
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
    "NoLogprobsError",
    "TokenProbabilities",
    "continuation_pattern",
    "parse_verdict",
    "read_models",
    "read_partial_text",
    "read_probabilities",
    "read_text",
    "read_thought",
    "read_token_ids",
    "response_format",
    "verdict_schema",
    "whole_number",
]

_TOKEN_ID = re.compile(r"token_id:(\d+)")
_DECLINED = "the guard model declined to answer"

_TOLERANCE = 1e-3
"""By how much rounded log-probabilities may exceed what probabilities can be."""

_LONGEST_TEXT = 500
"""Characters of a free text, so that the object is closed before the tokens run out."""
_TEXT = rf'([^"\\\x00-\x1f]|\\["\\/nt]){{1,{_LONGEST_TEXT}}}'


class NoLogprobsError(Exception):
    """The answer is well-formed and holds no log-probabilities at all."""


@dataclass(frozen=True, slots=True)
class TokenProbabilities:
    """The tokens for which the server gives a probability, at one position.

    ``by_id`` is None where they are named by text. ``ceiling`` is the most that any other token can have.
    ``only_sampled``: there is nothing but the sampled token, listed alone or as if it had been certain. Some
    servers write that without having looked; no score can be made of it.
    """

    by_text: Mapping[str, float]
    by_id: Mapping[int, float] | None
    ceiling: float
    only_sampled: bool

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
        probabilities: dict[str, float] = {}
        shared = 0.0
        for token, probability in self.by_text.items():
            matches = [label for label in labels if token and label.startswith(token)]
            if len(matches) == 1:
                probabilities[matches[0]] = probabilities.get(matches[0], 0.0) + probability
            elif matches:
                shared += probability
        if shared > _TOLERANCE:
            raise CallError(
                f"the server's tokens do not distinguish the labels, for {shared:.3f} of the probability"
            )
        return probabilities


def read_probabilities(data: Mapping[str, Any]) -> TokenProbabilities:
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
    id_matches = [match for match in ids if match is not None]
    if id_matches and (len(id_matches) < len(ids) or len(top) != len({token for token, _ in top})):
        raise CallError("the answer names its tokens ambiguously")
    total = sum(by_text.values())
    if total > 1.0 + _TOLERANCE:
        raise CallError(f"the answer's probabilities add up to {total:.3f}")
    by_id = {int(match[1]): by_text[match[0]] for match in id_matches} if id_matches else None
    # Servers list the most likely tokens, so no other exceeds the least likely of these.
    ceiling = min([max(0.0, 1.0 - total), *(probability for _, probability in top)])
    return TokenProbabilities(
        by_text, by_id, ceiling, only_sampled=not top or (len(by_text) == 1 and sampled[1] == 1.0)
    )


def read_text(data: Mapping[str, Any]) -> str:
    """The text of an answer that the model ended itself."""
    text, whole = read_partial_text(data)
    if not whole:
        raise CallError("the model's explanation was cut off")
    return text


def read_partial_text(data: Mapping[str, Any]) -> tuple[str, bool]:
    """The text of an answer, and whether the model ended it itself."""
    choice = _choice(data)
    finish, message = choice.get("finish_reason"), _field(choice, "message", dict)
    if finish == "content_filter" or message.get("refusal"):
        raise CallError(_DECLINED, kind=FailureKind.REFUSED)
    if finish not in ("stop", "length"):
        raise CallError(f"the server ended the answer with {finish!r}")
    return _field(message, "content", str), finish == "stop"


def read_thought(data: Mapping[str, Any], end: str) -> str | None:
    """What was decoded before the stop text ``end``; ``None`` if the limit on tokens came first.

    Raises CallError where the model ended its turn itself, or the server does not say what stopped it.
    """
    text, whole = read_partial_text(data)
    if not whole:
        return None
    if _choice(data).get("stop_reason") != end:
        raise CallError(f"the model ended its answer without {end!r}")
    return text.removesuffix(end)


def read_token_ids(data: Mapping[str, Any]) -> tuple[list[int], int | None]:
    """Token ids, and the model's context length where it is given, from an answer of ``/tokenize``."""
    tokens = _field(data, "tokens", list)
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise CallError("the server's token ids are not numbers")
    return tokens, whole_number(data.get("max_model_len"))


def read_models(data: Mapping[str, Any]) -> dict[str, int | None]:
    """The models of a server's list, by name, with the context length where it is given."""
    entries = data.get("data")
    models = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {
        model["id"]: whole_number(model.get("max_model_len"))
        for model in models
        if isinstance(model.get("id"), str)
    }


def whole_number(value: object) -> int | None:
    """``value`` where it is a count, else None."""
    return value if type(value) is int and value >= 0 else None


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
        names = " or ".join(kind.__name__ for kind in types)
        raise CallError(f"the answer has no '{name}' of type {names}")
    return value


def verdict_schema(prompt: Prompt, *, rationale: bool) -> dict[str, Any]:
    """A schema of ``{"verdict": ANSWER}``: what the dialect asks for, but safe cannot name a rule.

    Without ``rationale``, ANSWER has no free texts. It is wrapped because servers want a single object at the
    root, not a choice of two.
    """
    choices = [_object_schema(properties) for properties in _verdict_properties(prompt, rationale=rationale)]
    return _object_schema({"verdict": {"anyOf": choices}})


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The field ``response_format`` of the OpenAI API, which most servers know."""
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": dict(schema)}}


def continuation_pattern(schema: Mapping[str, Any], prefix: str) -> str | None:
    """A regular expression for what may follow ``prefix``, the beginning of an object of ``schema``.

    None where ``prefix`` is no such beginning.
    """
    rest, pattern = prefix, ""
    for literal, value in _literals_and_patterns(schema):
        whole = value or _escape(literal)
        if not rest:
            pattern += whole
        elif value is None and literal.startswith(rest):
            pattern, rest = _escape(literal.removeprefix(rest)), ""
        elif (match := re.match(whole, rest)) is not None:
            rest = rest[match.end() :]
        else:
            return None
    return None if rest else pattern


def parse_verdict(text: str, prompt: Prompt, *, rationale: bool) -> Answer:
    """Read an answer that must be exactly what ``verdict_schema`` says; AnswerError for anything else.

    An unsafe rating needs no rule; a safe one that names a rule contradicts itself, and is refused.
    """
    try:
        answer = parse_json(text)
    except DuplicateKeyError:
        raise AnswerError("the model's answer gives a key twice") from None
    except JsonError:
        raise AnswerError("the server did not hold the model to the requested form: no JSON object") from None
    verdict = answer.get("verdict") if isinstance(answer, dict) and len(answer) == 1 else None
    choices = _verdict_properties(prompt, rationale=rationale)
    properties = next((properties for properties in choices if _fits(verdict, properties)), None)
    if not isinstance(verdict, dict) or properties is None:
        raise AnswerError("the model's answer is not one verdict in the requested form")
    labels = [verdict[name] for name, schema in properties.items() if "enum" in schema]
    texts = [verdict[name].strip() for name, schema in properties.items() if "enum" not in schema]
    return Answer(
        next(prompt.ratings[label] for label in labels if label in prompt.ratings),
        next((prompt.categories[label] for label in labels if label in prompt.categories), None),
        next(iter(texts), None),
    )


def _verdict_properties(prompt: Prompt, *, rationale: bool) -> Iterator[dict[str, Any]]:
    """The properties of a safe answer, and of any other: name -> schema."""
    assert prompt.schema is not None
    for safe in (True, False):
        barred = {label for label, rating in prompt.ratings.items() if (rating is Rating.SAFE) is not safe}
        barred |= set(prompt.categories) if safe else set()
        yield {
            name: schema | {"enum": [label for label in schema["enum"] if label not in barred]}
            if "enum" in schema
            else schema
            for name, schema in prompt.schema["properties"].items()
            if rationale or "enum" in schema
        }


def _fits(verdict: object, properties: Mapping[str, Any]) -> bool:
    return (
        isinstance(verdict, dict)
        and set(verdict) == set(properties)
        and all(
            isinstance(text, str) and text in properties[name].get("enum", (text,))
            for name, text in verdict.items()
        )
    )


def _object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _literals_and_patterns(schema: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The parts of an object of ``schema`` in order: a literal text and None, or "" and a value's pattern."""
    before = "{"
    for name, value in schema["properties"].items():
        yield f'{before}{json.dumps(name)}: "', None
        # Longest first: matching takes the first that fits.
        choices = sorted(value.get("enum", ()), key=len, reverse=True)
        yield "", f"({'|'.join(map(_escape, choices))})" if choices else _TEXT
        before = '", '
    yield '"}', None


def _escape(text: str) -> str:
    """``text`` as a pattern, with fewer escapes than ``re.escape``: servers' grammars know only these."""
    return re.sub(r"([\\.^$*+?()\[\]{}|])", r"\\\1", text)
