"""Whatever policies say, lint and diff have an answer, and diff misses nothing that needs a reason."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from policy.test_properties import policies, quick
from policyguard.authoring import Effect, compare_policies, doubts
from policyguard.policy import parse_policy
from policyguard.policy.loosening import loosening

TEXTS = st.lists(
    st.sampled_from(["guns", "knives", "toy guns", "beer", "a glass of beer"]), max_size=4, unique=True
)
RULE = st.fixed_dictionaries(
    {
        "title": st.sampled_from(["Arms", "Drink"]),
        "unsafe": TEXTS,
        "safe": TEXTS,
        "description": st.just("Things."),
    },
    optional={
        "status": st.sampled_from(["active", "exempt", "sensitive"]),
        "threshold": st.sampled_from([0.3, 0.5, 0.7]),
        "action": st.sampled_from(["allow", "flag", "block"]),
    },
)
SMALL = st.fixed_dictionaries(
    {
        "id": st.just("a"),
        "version": st.just("1.0.0"),
        "title": st.just("A"),
        "rules": st.dictionaries(st.sampled_from(["one", "two", "three"]), RULE, min_size=1).map(
            lambda rules: [{"id": name} | rule for name, rule in rules.items()]
        ),
    },
    optional={
        "defaults": st.fixed_dictionaries(
            {"threshold": st.sampled_from([0.4, 0.5]), "action": st.sampled_from(["flag", "block"])}
        ),
        "outcomes": st.dictionaries(
            st.sampled_from(["error", "undecided"]), st.sampled_from(["allow", "block"])
        ),
    },
)


def without_parameters(data: dict[str, Any]) -> bool:
    return not re.search(
        r"[{]{2}|[}]{2}", str([data.get("title"), data.get("description")]) + str(data["rules"])
    )


@quick
@given(policies.filter(without_parameters))
def test_lint_has_an_answer_for_every_valid_policy(data: dict[str, Any]) -> None:
    policy = parse_policy(data)
    assert all(remark.message and remark.code for remark in doubts(policy))


@quick
@given(policies.filter(without_parameters))
def test_a_policy_does_not_differ_from_itself(data: dict[str, Any]) -> None:
    policy = parse_policy(data)
    assert () == compare_policies(policy, policy).changes


@quick
@given(SMALL, SMALL)
def test_policies_without_a_difference_have_the_same_fingerprints(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    diff = compare_policies(parse_policy(one), parse_policy(other))
    assert diff.changes or (diff.same_prompt and diff.same_decisions)


@quick
@given(SMALL, SMALL)
def test_what_composition_calls_loosening_is_weaker_or_unclear_here(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    before, after = parse_policy(one), parse_policy(other)
    effects: dict[str | None, set[Effect]] = {}
    for change in compare_policies(before, after).changes:
        effects.setdefault(change.rule, set()).add(change.effect)
    for loose in loosening(before, after):
        assert effects.get(loose.rule, set()) & {Effect.WEAKER, Effect.UNCLEAR}, (loose, effects)
