"""Scores are cached, decisions are made afresh; one that needs more than was read is a miss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cache.support import assessment, picture, policy
from policyguard import Action, Guard, Outcome
from policyguard.assessment import Assessment, Rating, Reading
from policyguard.backends.remote.labels import LabelScores, rate, with_rules, without_rules
from policyguard.cache import MemoryCache
from policyguard.cache.keys import holds_enough
from policyguard.dialects import Prompt
from policyguard.testing import FakeBackend

ARMS = {"id": "arms", "title": "Arms", "unsafe": ["weapons"]}
GORE = {"id": "gore", "title": "Gore", "unsafe": ["blood"]}


def test_a_new_threshold_or_action_decides_anew_without_asking_the_model() -> None:
    backend, cache = FakeBackend(0.4), MemoryCache()
    milder = {"threshold": 0.3, "action": Action.FLAG}
    changes: list[dict[str, Any]] = [{}, {"threshold": 0.3}, milder, {"undecided_band": (0.3, 0.5)}]
    guards = [Guard(policy(**change), backend=backend, cache=cache) for change in changes]
    found = [guard.check(picture()) for guard in guards]
    outcomes = [verdict.outcome for verdict in found]
    assert [Outcome.COMPLIES, Outcome.VIOLATES, Outcome.VIOLATES, Outcome.UNDECIDED] == outcomes
    assert found[2].action is Action.FLAG
    assert 1 == backend.calls
    assert [False, True, True, True] == [verdict.evidence.cached for verdict in found]


UNREAD = assessment(0.2, rule_scores={"arms": 0.0, "gore": 0.0})


@pytest.mark.parametrize(
    ("found", "changes", "enough"),
    [
        (assessment(0.2), {"threshold": 0.1}, True),
        (UNREAD, {}, True),
        (UNREAD, {"threshold": 0.21}, True),
        (UNREAD, {"threshold": 0.2}, False),
        (UNREAD, {"rules": [ARMS | {"threshold": 0.1}, GORE]}, False),
        (UNREAD, {"undecided_band": (0.1, 0.3)}, False),
        (assessment(0.2, rule_scores=None), {}, True),
        (assessment(0.2, rule_scores=None), {"threshold": 0.1}, False),
        (assessment(0.2, rule_scores=None), {"rules": [ARMS | {"threshold": 0.4}, GORE]}, False),
        (assessment(0.8, rule_scores=None), {}, False),
        (assessment(0.0, blind_below=0.03), {}, True),
        (assessment(0.0, blind_below=0.03), {"threshold": 0.03}, False),
        (assessment(None, rule_scores=None, label_mass=None), {}, False),
        (assessment(None, rating=Rating.UNSAFE, rule_scores=None, label_mass=None), {}, False),
        (assessment(None, rating=Rating.UNDECIDED), {}, False),
        (assessment(0.4, rating=Rating.UNDECIDED, rule_scores=None), {}, True),
        (assessment(float("nan")), {}, False),
        (assessment(1.5), {}, False),
        (assessment(0.9, rating=Rating.SAFE), {}, False),
        (assessment(0.2, rule_scores={"arms": 1.0}), {}, False),
    ],
)
def test_what_was_read_is_weighed_against_what_the_policy_of_the_day_decides_on(
    found: Assessment, changes: dict[str, Any], enough: bool
) -> None:
    assert holds_enough(found, policy(**changes), Reading.FAST) is enough


def test_the_two_readings_never_stand_in_for_each_other() -> None:
    fast, explain = assessment(), assessment(reading=Reading.EXPLAIN, rationale="Nothing.")
    assert not holds_enough(fast, policy(), Reading.EXPLAIN)
    assert not holds_enough(explain, policy(), Reading.FAST)
    backend = FakeBackend(0.1)
    guard = Guard(policy(), backend=backend, cache="memory")
    assert [False, False, True, True] == [
        guard.check(picture(), explain=explain).cached for explain in (False, True, False, True)
    ]


def test_a_violation_whose_words_could_not_be_read_is_not_served_to_a_milder_policy() -> None:
    broken = assessment(0.6, reading=Reading.EXPLAIN)
    assert not holds_enough(broken, policy(), Reading.EXPLAIN)
    backend = FakeBackend(broken)
    guard = Guard(policy(), backend=backend, cache="memory")
    assert [Outcome.VIOLATES] * 2 == [guard.check(picture(), explain=True).outcome for _ in range(2)]
    assert 2 == backend.calls


def test_scores_that_the_cache_holds_and_the_policy_needs_more_than_are_asked_for_again() -> None:
    backend, cache = FakeBackend(UNREAD), MemoryCache()
    Guard(policy(), backend=backend, cache=cache).check(picture())
    backend.answer = replace(UNREAD, rule_scores={"arms": 0.9, "gore": 0.1})
    strict = Guard(policy(threshold=0.1), backend=backend, cache=cache)
    verdict = strict.check(picture())
    assert (Outcome.VIOLATES, "arms", False) == (verdict.outcome, verdict.findings[0].rule, verdict.cached)
    assert strict.check(picture()).cached
    assert 2 == backend.calls


def prompt() -> Prompt:
    ratings = {"safe": Rating.SAFE, "unsafe": Rating.UNSAFE}
    return Prompt((), "", ratings, "", {"A": "arms", "B": "gore"})


def test_a_score_that_a_server_hides_among_unlisted_labels_is_not_served_to_a_stricter_policy() -> None:
    found = rate(prompt(), policy(), LabelScores({"safe": 0.9}, ceiling=0.05))
    assert found.p_unsafe == 0.0
    assert holds_enough(replace(found, rule_scores=None), policy(), Reading.FAST)
    assert not holds_enough(replace(found, rule_scores=None), policy(threshold=0.05), Reading.FAST)


def test_a_rule_that_a_server_does_not_list_is_not_served_to_a_threshold_that_it_could_reach() -> None:
    rated = assessment(0.4, rule_scores=None)
    found = with_rules(rated, prompt(), policy(threshold=0.39), LabelScores({"A": 0.6}, ceiling=0.3))
    assert found.rule_scores is not None
    assert holds_enough(found, policy(), Reading.FAST)
    lower = policy(rules=[ARMS, GORE | {"threshold": 0.1}])
    assert not holds_enough(found, lower, Reading.FAST)


def test_scores_that_a_server_backend_left_unread_are_not_served_where_they_matter() -> None:
    found = without_rules(rate(prompt(), policy(), LabelScores({"safe": 0.6, "unsafe": 0.4})), policy(), "no")
    assert found.p_unsafe == pytest.approx(0.4)
    assert holds_enough(found, policy(), Reading.FAST)
    assert not holds_enough(found, policy(threshold=0.3), Reading.FAST)
