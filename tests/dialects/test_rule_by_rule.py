"""Asking rule by rule: readings merge to one assessment, and what could not be read never complies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyguard import Action, Outcome
from policyguard.assessment import Assessment, Failure, FailureKind, Rating, Result
from policyguard.deciding import decide
from policyguard.dialects import PerRule, Prompt, SafeguardDialect, merge, render_one
from policyguard.errors import ConfigurationError
from policyguard.policy import ResolvedPolicy, parse_policy

RULES = ("arms", "drink", "smoke")
DOWN = Failure(FailureKind.ERROR, "the server is down")


def policy(**changes: Any) -> ResolvedPolicy:
    rules = [{"id": rule, "title": rule.title(), "unsafe": [f"some {rule}"]} for rule in RULES]
    rules[1]["action"] = "flag"
    return parse_policy({"id": "p", "version": "1.0.0", "title": "P", "rules": rules} | changes).resolve()


def prompts(under: ResolvedPolicy) -> tuple[Prompt, ...]:
    return PerRule(SafeguardDialect()).render(under)


def reading(score: float, mass: float = 0.9) -> Assessment:
    return Assessment(Rating.UNSAFE if score >= 0.5 else Rating.SAFE, score, mass)


def merged(under: ResolvedPolicy, *results: Result) -> Result:
    return merge(under, list(zip(prompts(under), results, strict=True)))


def test_there_is_a_prompt_for_each_rule_that_can_be_broken_and_it_shows_that_rule_alone() -> None:
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["guns"]},
        {"id": "art", "title": "Art", "unsafe": ["statues"], "status": "exempt"},
        {"id": "drink", "title": "Drink", "unsafe": ["wine"]},
    ]
    first, second = prompts(policy(rules=rules))
    assert (first.rule, second.rule) == ("arms", "drink")
    texts = " ".join(second.texts())
    assert "wine" in texts
    assert "guns" not in texts
    assert "statues" not in texts


def test_a_policy_of_exempt_rules_alone_has_nothing_to_ask() -> None:
    rules = [{"id": "art", "title": "Art", "unsafe": ["statues"], "status": "exempt"}]
    with pytest.raises(ConfigurationError, match="no rules to judge by"):
        prompts(policy(rules=rules))


def test_what_needs_one_prompt_refuses_a_dialect_that_asks_rule_by_rule() -> None:
    with pytest.raises(ConfigurationError, match="one rule at a time"):
        render_one(PerRule(SafeguardDialect()), policy())


@given(st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3))
def test_the_image_score_is_the_highest_rule_score_and_decides_alike(scores: list[float]) -> None:
    under = policy()
    result = merged(under, *map(reading, scores))
    assert isinstance(result, Assessment)
    assert result.p_unsafe == max(scores)
    assert dict(zip(RULES, scores, strict=True)) == result.rule_scores
    violating = {rule for rule, score in zip(RULES, scores, strict=True) if score >= 0.5}
    decision = decide(under, result)
    assert {finding.rule for finding in decision.findings if finding.violates} == violating
    assert (decision.outcome is Outcome.COMPLIES) == (not violating)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("broken", [DOWN, Assessment(Rating.UNDECIDED, p_undecided=1.0)])
def test_a_rule_that_could_not_be_read_never_lets_an_image_comply(place: int, broken: Result) -> None:
    results: list[Result] = [reading(0.01), reading(0.02), reading(0.03)]
    results[place] = broken
    assert decide(policy(), merged(policy(), *results)).action is Action.BLOCK


def test_a_gravest_violation_stands_beside_a_rule_that_could_not_be_read_which_is_named() -> None:
    decision = decide(policy(), merged(policy(), reading(0.9), reading(0.1), DOWN))
    assert decision.outcome is Outcome.VIOLATES
    assert decision.unchecked == ("smoke",)


def test_a_mild_violation_does_not_stand_in_for_a_graver_rule_that_could_not_be_read() -> None:
    assert merged(policy(), DOWN, reading(0.99), reading(0.1)) == DOWN


def test_one_rule_with_little_on_its_labels_makes_the_image_undecided() -> None:
    result = merged(policy(), reading(0.1), reading(0.1, mass=0.05), reading(0.1))
    assert decide(policy(), result).outcome is Outcome.UNDECIDED


def test_without_scores_any_unsafe_rating_violates_with_that_rules_action() -> None:
    safe, unsafe = Assessment(Rating.SAFE), Assessment(Rating.UNSAFE)
    result = merged(policy(), safe, safe, unsafe)
    assert isinstance(result, Assessment)
    assert (result.rating, result.category, result.p_unsafe) == (Rating.UNSAFE, "smoke", None)


def test_a_single_prompt_about_the_whole_policy_is_passed_on_as_it_is() -> None:
    prompt = SafeguardDialect().render(policy())[0]
    assert merge(policy(), [(prompt, DOWN)]) is DOWN


@pytest.mark.parametrize("score", [0.0, 0.49])
def test_unchecked_rules_make_an_image_that_breaks_nothing_undecided_and_block(score: float) -> None:
    result = replace(reading(score), rule_scores=dict.fromkeys(RULES, score), scoring="per_rule")
    decision = decide(policy(), replace(result, unchecked=("arms",)))
    assert (decision.outcome, decision.action) == (Outcome.UNDECIDED, Action.BLOCK)
    assert decision.reason is not None
    assert "arms" in decision.reason
    assert decide(policy(), result).outcome is Outcome.COMPLIES
