"""Any file gives a policy or a PolicyError, and any policy survives being written to a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyguard.errors import PolicyError, Problem
from policyguard.policy import parse_policy
from policyguard.policy.load import validate_document
from policyguard.strict.documents import parse
from policyguard.strict.text import collapsed as one_line
from policyguard.strict.text import find_forbidden, paragraphs

KEYS = ["id: ", "version: 1.0.0", "title: T", "rules:", "  - id: w", "    title: W", "    unsafe: [x]", "? "]
SIGNS = [
    "- ",
    "&a ",
    "*a",
    "!!str ",
    "<<: ",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    ": ",
    ", ",
    "#",
    "---",
    "> ",
    "%YAML 1.2",
]
VALUES = ["null", "true", "0777", "1e999", "\\u202e", "\t", "\r\n", "\x00", "\u2028", "\ufeff", "- - - "]
SCRAPS = st.sampled_from(KEYS + SIGNS + VALUES)
BLANKS = st.sampled_from(["\n", "\n  ", " "])
FILES = st.lists(st.one_of(SCRAPS, BLANKS, st.text(max_size=5)), max_size=30)

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: (
        find_forbidden(text) is None and one_line(text) != "" and not re.search(r"{{|}}", text)
    )  # of a parameter
)
rules: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"id": st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True), "title": words},
    optional={
        "description": words,
        "safe": st.lists(words, max_size=3),
        "status": st.sampled_from(["active", "exempt", "sensitive"]),
        "threshold": st.floats(0.001, 1.0),
        "action": st.sampled_from(["allow", "flag", "block"]),
    },
).flatmap(lambda rule: st.lists(words, min_size=1, max_size=3).map(lambda unsafe: rule | {"unsafe": unsafe}))
policies: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "id": st.just("a/b"),
        "version": st.just("0.1.0"),
        "title": words,
        "rules": st.lists(rules, min_size=1, max_size=4, unique_by=lambda rule: rule["id"]),
    },
    optional={
        "description": words,
        "world": st.just("pictosafe"),
        "owner": words,
        "sources": st.lists(words),
    },
)
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def refusal(load: Callable[[], object]) -> tuple[Problem, ...]:
    try:
        load()
    except PolicyError as error:
        return error.problems
    return ()


@quick
@given(FILES)
def test_any_file_gives_a_policy_or_a_policy_error(scraps: list[str]) -> None:
    data = "".join(scraps).encode("utf-8", "replace")
    problems = refusal(lambda: validate_document(parse(data, "x.yaml")))
    assert all(problem.line and problem.column for problem in problems[:50])


@quick
@given(st.binary(max_size=200))
def test_any_bytes_give_a_policy_error(data: bytes) -> None:
    with pytest.raises(PolicyError):
        validate_document(parse(data, "x.yaml"))


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner)
        ),
        max_leaves=10,
    ),
    st.sampled_from(
        ["id", "version", "title", "rules", "defaults", "outcomes", "world", "sources", "description"]
    ),
)
def test_any_value_in_any_field_gives_a_policy_or_a_policy_error(value: Any, field: str) -> None:
    rule = {"id": "w", "title": "W", "unsafe": ["x"]}
    for data in (
        {"id": "a", "version": "1.0.0", "title": "T", "rules": [rule], field: value},
        {"id": "a", "version": "1.0.0", "title": "T", "rules": [rule | {"status": value, "unsafe": value}]},
        value,
    ):
        assert all(str(problem).isprintable() for problem in refusal(partial(parse_policy, data)))


@quick
@given(policies, st.randoms())
def test_a_policy_is_the_same_from_a_file_and_from_values(data: dict[str, Any], random: Any) -> None:
    keys = list(data)
    random.shuffle(keys)
    # JSON is YAML, so this writes a file without our own or PyYAML's idea of quoting.
    text = json.dumps(
        {key: data[key] for key in keys}, indent=random.choice([None, 1, 2]), ensure_ascii=False
    )
    file = text.encode()
    assert validate_document(parse(file, "x.yaml")).resolve() == parse_policy(data).resolve()


@quick
@given(st.text())
def test_tidying_a_text_twice_is_tidying_it_once(text: str) -> None:
    assert one_line(one_line(text)) == one_line(text)
    assert paragraphs(paragraphs(text)) == paragraphs(text)
    text = text.replace("\r", "")
    assert paragraphs(text.replace("\n", "\r\n")) == paragraphs(text)
