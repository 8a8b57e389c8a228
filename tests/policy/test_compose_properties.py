"""Any value in any field of a layer gives a policy or a PolicyError, and composing is what it should be."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from policyguard.errors import PolicyError, Problem
from policyguard.guard import Guard
from policyguard.policy import extend_policy, load_policy, parse_policy
from policyguard.testing import FakeBackend

BASE = parse_policy(
    {
        "id": "base",
        "version": "1.0.0",
        "title": "Base",
        "rules": [
            {"id": "w", "title": "W", "unsafe": ["a", "b"], "safe": ["c"]},
            {"id": "v", "title": "V", "description": "d", "status": "exempt"},
        ],
    }
)
FIELDS = ["id", "version", "title", "description", "world", "extends", "parameters", "rules", "replace"]
FIELDS += ["overrides", "drop", "defaults", "outcomes", "weakens", "owner", "licence", "sources"]
KEYS = ["id", "title", "description", "unsafe", "safe", "status", "threshold", "action", "weakens", "move"]
WORDS = [
    "w",
    "v",
    "a",
    "c",
    "add",
    "remove",
    "to_safe",
    "exempt",
    "block",
    "{{ x }}",
    "{{",
    "",
    "\0",
    "\ud800",
]
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=3)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, *WORDS]) | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)
changes = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
layers = st.fixed_dictionaries(
    {"id": st.just("t"), "version": st.just("1.0.0")},
    optional={
        "overrides": st.dictionaries(st.sampled_from(["w", "v", "u"]), changes, max_size=3),
        "rules": st.lists(changes, max_size=2),
        "replace": st.lists(changes.map(lambda c: {"id": "w"} | c), max_size=2),
        "drop": st.lists(changes.map(lambda c: {"id": "v"} | c), max_size=2),
        "parameters": st.dictionaries(st.sampled_from(["x", "y", "Z", ""]), values, max_size=2),
    },
)
quick = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def attempt(layer: Any) -> None:
    problems: tuple[Problem, ...] = (Problem("none"),)
    try:
        extend_policy(BASE, layer)
    except PolicyError as error:
        problems = error.problems
    assert problems
    assert all(str(problem).isprintable() for problem in problems)


@quick
@given(values, st.sampled_from(FIELDS))
def test_any_value_in_any_field_gives_a_policy_or_a_policy_error(value: Any, field: str) -> None:
    attempt({"id": "t", "version": "1.0.0", field: value})
    attempt(value)


@quick
@given(layers)
def test_any_layer_gives_a_policy_or_a_policy_error(layer: dict[str, Any]) -> None:
    attempt(layer)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({}, "add `id: house-rules`"),
        ({"id": "t", "version": "1.0.0", "extends": "safeedit/l3"}, "leave this out"),
        ([], "expected a mapping"),
        (None, "expected a mapping"),
        ("safeedit/l3", "expected a mapping"),
    ],
)
def test_a_layer_is_a_mapping_with_a_name_of_its_own(layer: Any, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        extend_policy(BASE, layer)


def test_layers_can_be_put_on_layers() -> None:
    stricter = extend_policy(BASE, {"id": "t", "version": "1.0.0", "overrides": {"w": {"threshold": 0.4}}})
    looser = extend_policy(
        stricter,
        {"id": "u", "version": "1.0.0", "drop": [{"id": "v", "weakens": "one"}], "weakens": "unused"},
    )
    again = extend_policy(
        looser, {"id": "x", "version": "1.0.0", "overrides": {"w": {"threshold": 0.45, "weakens": "two"}}}
    )
    assert [(w.policy, w.reason) for w in again.weakenings] == [("u", "one"), ("x", "two")]
    assert again.rules[0].threshold == 0.45


def test_an_image_is_decoded_once_for_several_policies() -> None:
    backend = FakeBackend(0.1)
    guard = Guard([BASE, load_policy("safeedit/l3")], backend=backend)
    assert guard.check(Image.new("RGB", (64, 64), "red")).allowed
    one, other = backend.requests
    assert one.frame is other.frame
    assert one.policy.id != other.policy.id
