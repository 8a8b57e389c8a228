"""The form of an answer, as a pattern and as a schema, admits exactly what the dialect reads."""

from __future__ import annotations

import json
import re

import pytest

from backends_vllm.support import policy
from policyguard.assessment import Rating
from policyguard.backends.vllm.schema import brief, read_object, response_format, rest_pattern
from policyguard.dialects import PicoDialect, SafeguardDialect
from policyguard.errors import AnswerError

RESOLVED = policy().resolve()
DIALECT = SafeguardDialect()
PROMPT = DIALECT.render(RESOLVED)
SCHEMA = PROMPT.schema or {}

ANSWERS = [
    {"rating": rating, "category": category, "rationale": rationale}
    for rating, category in (("safe", "none"), ("safe", "A"), ("unsafe", "A"), ("unsafe", "B"))
    for rationale in ("A dagger.", 'It says "no\\way".\nTwice.', "é — 刀")
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_fits_the_pattern_after_any_beginning_is_what_the_dialect_parses(answer: dict[str, str]) -> None:
    text = json.dumps(answer, ensure_ascii=False)
    heads = [PROMPT.prefill, PROMPT.prefill + answer["rating"], text[: text.index('", "rationale')]]
    for head in heads:
        pattern = rest_pattern(SCHEMA, head)
        assert pattern is not None
        assert re.fullmatch(pattern, text.removeprefix(head)), head
    assert DIALECT.parse(text, RESOLVED).rating == answer["rating"]
    assert read_object(text, PROMPT, SCHEMA).rating == answer["rating"]


@pytest.mark.parametrize(
    "rest",
    [
        '", "category": "none", "rationale": ""}',
        '", "category": "Z", "rationale": "x"}',
        '", "category": "none", "rationale": "x", "rating": "safe"}',
        '", "category": "none"}',
        '", "rating": "safe", "category": "none", "rationale": "x"}',
        '", "category": "none", "rationale": "' + "x" * 501 + '"}',
        '", "category": "none", "rationale": "x"',
    ],
)
def test_nothing_else_fits_it(rest: str) -> None:
    pattern = rest_pattern(SCHEMA, '{"rating": "unsafe')
    assert pattern is not None
    assert not re.fullmatch(pattern, rest)


@pytest.mark.parametrize(
    "said", ["x", '{"rating": "maybe', '{"category": "', '{"rating": "safe", "rationale": "']
)
def test_what_is_no_beginning_of_an_answer_has_no_pattern(said: str) -> None:
    assert rest_pattern(SCHEMA, said) is None


def test_a_brief_answer_has_no_free_text() -> None:
    short = brief(SCHEMA)
    assert list(short["properties"]) == short["required"] == ["rating", "category"]
    assert response_format(short)["json_schema"]["strict"] is True
    assert read_object('{"rating": "unsafe", "category": "B"}', PROMPT, short).category == "drinks"


def test_an_unsafe_answer_stands_without_a_rule() -> None:
    found = read_object('{"rating": "unsafe", "category": "none"}', PROMPT, brief(SCHEMA))
    assert (found.rating, found.category) == (Rating.UNSAFE, None)


def test_a_whole_answer_is_not_read_where_a_brief_one_was_asked_for() -> None:
    with pytest.raises(AnswerError, match="not an object of rating, category"):
        read_object(json.dumps(ANSWERS[0]), PROMPT, brief(SCHEMA))


def test_a_dialect_in_plain_words_has_no_schema() -> None:
    under = policy(world="pictosafe", rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}])
    assert PicoDialect().render(under.resolve()).schema is None
