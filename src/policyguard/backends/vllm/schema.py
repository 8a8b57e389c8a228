"""Answers that are one JSON object: how a server is held to their shape, and how they are read.

No server is trusted to hold to it: one that ignores the constraint answers 200 all the same. Only fields that
servers document today are used; ``guided_json`` and the like are ignored by vLLM since 0.12.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Rating
from policyguard.dialects import Answer
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.dialects import Prompt

__all__ = ["read_rated", "response_format", "rest_pattern", "verdict_form"]

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

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise AnswerError("the model's answer gives a key twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
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
