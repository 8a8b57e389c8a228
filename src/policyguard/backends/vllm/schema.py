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

__all__ = ["brief", "read_object", "response_format", "rest_pattern"]

_LONGEST_TEXT = 500
"""Characters of a free text, so that the object is closed before the tokens run out."""
_TEXT = rf'([^"\\\x00-\x1f]|\\["\\/nt]){{1,{_LONGEST_TEXT}}}'


def brief(schema: Mapping[str, Any]) -> dict[str, Any]:
    """``schema`` with the keys that are chosen from a list, and without free texts."""
    chosen = {name: kind for name, kind in schema["properties"].items() if "enum" in kind}
    return {**schema, "properties": chosen, "required": list(chosen)}


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


def read_object(text: str, prompt: Prompt, schema: Mapping[str, Any]) -> Answer:
    """Read an answer that must be exactly one object of ``schema``; AnswerError for anything else.

    An unsafe rating stands without a category: whatever else is odd about it, it is a violation.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise AnswerError("the model's answer gives a key twice")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise AnswerError("the server did not hold the model to the asked form: no JSON object") from None
    kinds = schema["properties"]
    if not isinstance(found, dict) or set(found) != set(kinds):
        raise AnswerError(f"the model's answer is not an object of {', '.join(kinds)}")
    rating, category, rationale = None, None, None
    for name, value in found.items():
        if not isinstance(value, str):
            raise AnswerError(f"the model's {name} is not a text")
        if "enum" not in kinds[name]:
            rationale = value.strip()
        elif value not in kinds[name]["enum"]:
            raise AnswerError(f"the model's {name} is none of those it was given")
        elif set(kinds[name]["enum"]) == set(prompt.ratings):
            rating = prompt.ratings[value]
        else:
            category = prompt.categories.get(value)
    if rating is None:
        raise AnswerError("the model's answer holds no rating")
    return Answer(rating, category if rating is Rating.UNSAFE else None, rationale)


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
