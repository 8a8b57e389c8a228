"""The form of an answer, as a pattern and as a schema, admits exactly what the dialect reads."""

from __future__ import annotations

import json
import re

import pytest

from backends.remote.support import policy
from policyguard.assessment import Rating
from policyguard.backends.remote.forms import (
    continuation_pattern,
    parse_verdict,
    response_format,
    verdict_schema,
)
from policyguard.dialects import Answer, PicoDialect, SafeguardDialect
from policyguard.errors import AnswerError

RESOLVED = policy().resolve()
DIALECT = SafeguardDialect()
PROMPT = DIALECT.render(RESOLVED)[0]
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
        pattern = continuation_pattern(SCHEMA, head)
        assert pattern is not None
        assert re.fullmatch(pattern, text.removeprefix(head)), head
    assert DIALECT.parse(text, RESOLVED).rating == answer["rating"]


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
    pattern = continuation_pattern(SCHEMA, '{"rating": "unsafe')
    assert pattern is not None
    assert not re.fullmatch(pattern, rest)


@pytest.mark.parametrize(
    "said", ["x", '{"rating": "maybe', '{"category": "', '{"rating": "safe", "rationale": "']
)
def test_what_is_no_beginning_of_an_answer_has_no_pattern(said: str) -> None:
    assert continuation_pattern(SCHEMA, said) is None


def rated(*, with_text: bool = False, **said: str) -> Answer:
    return parse_verdict(json.dumps({"verdict": said}), PROMPT, rationale=with_text)


def test_a_brief_verdict_has_no_free_text() -> None:
    form = verdict_schema(PROMPT, rationale=False)
    for choice in form["properties"]["verdict"]["anyOf"]:
        assert list(choice["properties"]) == choice["required"] == ["rating", "category"]
    assert response_format(form)["json_schema"]["strict"] is True
    assert rated(rating="unsafe", category="B").category == "drinks"


@pytest.mark.parametrize("words", [False, True])
def test_the_form_lets_safe_name_no_rule_and_unsafe_any(words: bool) -> None:
    safe, unsafe = verdict_schema(PROMPT, rationale=words)["properties"]["verdict"]["anyOf"]
    chosen = [
        {name: kind.get("enum") for name, kind in form["properties"].items()} for form in (safe, unsafe)
    ]
    assert [form["rating"] for form in chosen] == [["safe"], ["unsafe"]]
    assert [form["category"] for form in chosen] == [["none"], ["A", "B", "none"]]
    assert ("rationale" in chosen[0]) is words


@pytest.mark.parametrize("category", ["A", "B"])
def test_a_safe_verdict_that_names_a_rule_contradicts_itself(category: str) -> None:
    assert rated(rating="safe", category="none") == Answer(Rating.SAFE)
    with pytest.raises(AnswerError):
        rated(rating="safe", category=category)
    with pytest.raises(AnswerError):
        rated(rating="safe", category=category, rationale="A dagger.", with_text=True)


def test_a_rationale_that_reads_like_a_label_is_no_label() -> None:
    found = rated(rationale="safe", category="A", rating="unsafe", with_text=True)
    assert found == Answer(Rating.UNSAFE, "arms", "safe")


def test_an_unsafe_answer_stands_without_a_rule() -> None:
    assert rated(rating="unsafe", category="none") == Answer(Rating.UNSAFE)


def test_a_whole_answer_is_not_read_where_a_brief_one_was_asked_for() -> None:
    with pytest.raises(AnswerError, match="requested form"):
        rated(**ANSWERS[0])
    with pytest.raises(AnswerError, match="requested form"):
        parse_verdict('{"rating": "safe", "category": "none"}', PROMPT, rationale=False)


def test_a_dialect_in_plain_words_has_no_schema() -> None:
    under = policy(world="pictosafe", rules=[{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}])
    assert PicoDialect().render(under.resolve())[0].schema is None
