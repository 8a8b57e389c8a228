"""JSON verdicts of models that give no probabilities: how they are asked for, and the one strict reader.

``verdict_schema`` asks for one and ``parse_verdict`` reads it; ``continuation_pattern`` holds the rest of an
answer to its form. No server is trusted to keep to a schema: one that ignores it answers 200 all the same.
Only fields that servers document today are used; ``guided_json`` and the like are ignored by vLLM since 0.12.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Rating
from policyguard.dialects import Answer
from policyguard.errors import AnswerError
from policyguard.strict.jsontext import DuplicateKeyError, JsonError, parse_json

if TYPE_CHECKING:
    from policyguard.dialects import Prompt

__all__ = ["continuation_pattern", "parse_verdict", "response_format", "verdict_schema"]

_CODE = re.compile(r"```(?:json)?\n([^`]*)\n```")
_LONGEST_TEXT = 500
"""Characters of a free text, so that the object is closed before the tokens run out."""
_TEXT = rf'([^"\\\x00-\x1f]|\\["\\/nt]){{1,{_LONGEST_TEXT}}}'


_ADVICE = (
    "the server did not hold it to the form; `policyguard doctor` says what the server can do, and a larger "
    "model or a guard's own --dialect may answer"
)


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
    """Read an answer that must be exactly what ``verdict_schema`` says, or what the prompt asks for;
    AnswerError for anything else.

    Services that ignore the schema (Claude) get the form from the prompt alone, and may put the whole answer
    into one block of code. An unsafe rating needs no rule; a safe one that names a rule contradicts itself,
    and is refused.
    """
    block = _CODE.fullmatch(text.strip())
    try:
        answer = parse_json(text if block is None else block[1])
    except DuplicateKeyError:
        raise AnswerError("the model's answer gives a key twice") from None
    except JsonError:
        raise AnswerError(f"the model's answer is no JSON object: {_ADVICE}") from None
    verdict = answer.get("verdict") if isinstance(answer, dict) and len(answer) == 1 else answer
    wrapped = verdict is not answer
    choices = _verdict_properties(prompt, rationale=rationale or not wrapped)
    properties = next((properties for properties in choices if _fits(verdict, properties)), None)
    if not isinstance(verdict, dict) or properties is None:
        raise AnswerError(f"the model's answer is not one verdict in the requested form: {_ADVICE}")
    labels = [verdict[name] for name, schema in properties.items() if "enum" in schema]
    texts = [verdict[name].strip() for name, schema in properties.items() if "enum" not in schema]
    return Answer(
        next(prompt.ratings[label] for label in labels if label in prompt.ratings),
        next((prompt.categories[label] for label in labels if label in prompt.categories), None),
        next(iter(texts), None) if rationale else None,
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
