"""The decision rule, as a truth table."""

from __future__ import annotations

from typing import Any

import pytest

from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.deciding import Decision, combine, decide
from policyguard.outcomes import Action, Outcome
from policyguard.policy import ResolvedPolicy, parse_policy

ALLOW, FLAG, BLOCK = Action.ALLOW, Action.FLAG, Action.BLOCK


def policy(**changes: Any) -> ResolvedPolicy:
    """Rules: arms (plain), ads (flags only), gore (own threshold 0.2), art (exempt)."""
    rules = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
        {"id": "ads", "title": "Ads", "unsafe": ["adverts"], "action": "flag"},
        {"id": "gore", "title": "Gore", "unsafe": ["blood"], "threshold": 0.2},
        {"id": "art", "title": "Art", "unsafe": ["paintings"], "status": "exempt"},
    ]
    return parse_policy({"id": "p", "version": "1.0.0", "title": "P", "rules": rules} | changes).resolve()


def scores(
    p_unsafe: float | None, /, *, scoring: Any = "joint", mass: float = 1.0, **rules: float
) -> Assessment:
    rating = Rating.UNSAFE if (p_unsafe or 0.0) >= 0.5 else Rating.SAFE
    shares = dict.fromkeys(("arms", "ads", "gore", "art"), 0.0) | rules
    return Assessment(rating, p_unsafe, mass, rule_scores=shares, scoring=scoring)


TABLE = [
    # name, assessment, outcome, action, findings (rule, violates, attributed)
    ("low score", scores(0.1, arms=1.0), Outcome.COMPLIES, ALLOW, [("arms", False, False)]),
    ("high score on one rule", scores(0.9, arms=1.0), Outcome.VIOLATES, BLOCK, [("arms", True, True)]),
    ("exactly at the threshold", scores(0.5, arms=1.0), Outcome.VIOLATES, BLOCK, [("arms", True, True)]),
    ("just under the threshold", scores(0.4999, arms=1.0), Outcome.COMPLIES, ALLOW, [("arms", False, False)]),
    ("a rule that only flags", scores(0.9, ads=1.0), Outcome.VIOLATES, FLAG, [("ads", True, True)]),
    (
        "two rules: the most severe action",
        scores(1.0, ads=0.7, gore=0.3),
        Outcome.VIOLATES,
        BLOCK,
        [("ads", True, True), ("gore", True, True)],
    ),
    (
        "a rule over its own low threshold",
        scores(0.4, gore=0.6),
        Outcome.VIOLATES,
        BLOCK,
        [("gore", True, True)],
    ),
    (
        "a rule under its own low threshold",
        scores(0.4, gore=0.4),
        Outcome.COMPLIES,
        ALLOW,
        [("gore", False, False)],
    ),
    (
        "no rule over its threshold: the best is named, the default action applies",
        scores(0.9, ads=0.5, arms=0.4, gore=0.1),
        Outcome.VIOLATES,
        BLOCK,
        [("ads", True, False)],
    ),
    (
        "an exempt rule's share is taken out",
        scores(0.9, art=0.9, arms=0.1),
        Outcome.COMPLIES,
        ALLOW,
        [("arms", False, False)],
    ),
    (
        "what is left may still violate",
        scores(1.0, art=0.3, arms=0.7),
        Outcome.VIOLATES,
        BLOCK,
        [("arms", True, True)],
    ),
    (
        "per rule: the image's score is the maximum",
        scores(0.6, scoring="per_rule", arms=0.6, ads=0.55),
        Outcome.VIOLATES,
        BLOCK,
        [("arms", True, True), ("ads", True, True)],
    ),
    (
        "per rule: exempt rules do not count",
        scores(0.9, scoring="per_rule", art=0.9, arms=0.1),
        Outcome.COMPLIES,
        ALLOW,
        [("arms", False, False)],
    ),
    ("little mass on the labels", scores(0.1, mass=0.49, arms=1.0), Outcome.UNDECIDED, BLOCK, []),
    (
        "the model rates it undecided",
        Assessment(Rating.UNDECIDED, 0.1, 1.0, 0.7),
        Outcome.UNDECIDED,
        BLOCK,
        [],
    ),
    (
        "half the mass is on undecided",
        Assessment(Rating.SAFE, 0.0, 1.0, 0.5),
        Outcome.UNDECIDED,
        BLOCK,
        [],
    ),
    ("not a number", scores(float("nan"), arms=1.0), Outcome.ERROR, BLOCK, []),
    ("a rule score that is not a number", scores(0.1, arms=float("nan")), Outcome.ERROR, BLOCK, []),
    ("more than one", scores(1.5, arms=1.0), Outcome.ERROR, BLOCK, []),
    ("less than nothing", scores(-0.1, arms=1.0), Outcome.ERROR, BLOCK, []),
    ("rule thresholds, no rule scores", Assessment(Rating.SAFE, 0.1, 1.0), Outcome.ERROR, BLOCK, []),
    (
        "no scores at all: rated unsafe",
        Assessment(Rating.UNSAFE, category="arms"),
        Outcome.VIOLATES,
        BLOCK,
        [("arms", True, True)],
    ),
    ("no scores at all, rule thresholds: rated safe", Assessment(Rating.SAFE), Outcome.ERROR, BLOCK, []),
    (
        "unsafe by an exempt category alone",
        Assessment(Rating.UNSAFE, category="art"),
        Outcome.VIOLATES,
        BLOCK,
        [],
    ),
    ("unscannable", Failure(FailureKind.UNSCANNABLE, "x"), Outcome.UNSCANNABLE, BLOCK, []),
    ("refused", Failure(FailureKind.REFUSED, "x"), Outcome.REFUSED, BLOCK, []),
    ("failed", Failure(FailureKind.ERROR, "x"), Outcome.ERROR, BLOCK, []),
]


@pytest.mark.parametrize(
    ("name", "result", "outcome", "action", "findings"), TABLE, ids=[row[0] for row in TABLE]
)
def test_truth_table(
    name: str,
    result: Assessment | Failure,
    outcome: Outcome,
    action: Action,
    findings: list[tuple[str, bool, bool]],
) -> None:
    decision = decide(policy(), result)
    assert (outcome, action) == (decision.outcome, decision.action)
    assert findings == [(f.rule, f.violates, f.attributed) for f in decision.findings]
    assert not decision.degraded


@pytest.mark.parametrize("outcome", ["undecided", "unscannable", "refused", "error"])
@pytest.mark.parametrize("action", ["allow", "flag"])
def test_letting_the_unjudged_through_is_marked_degraded(outcome: str, action: str) -> None:
    lenient = policy(outcomes={outcome: action})
    result = (
        Assessment(Rating.UNDECIDED, 0.1, 1.0)
        if outcome == "undecided"
        else Failure(FailureKind(outcome), "x")
    )
    decision = decide(lenient, result)
    assert (Outcome(outcome), Action(action), True) == (decision.outcome, decision.action, decision.degraded)


@pytest.mark.parametrize(
    ("defaults", "outcome"),
    [
        ({}, Outcome.COMPLIES),
        ({"threshold": 0.9}, Outcome.COMPLIES),
        ({"threshold": 0.3}, Outcome.ERROR),
        ({"undecided_band": [0.4, 0.6]}, Outcome.ERROR),
    ],
)
def test_a_rating_of_safe_without_scores_passes_only_where_scores_below_a_half_do_not_matter(
    defaults: dict[str, Any], outcome: Outcome
) -> None:
    rules = [{"id": "arms", "title": "Arms", "unsafe": ["weapons"]}]
    under = policy(rules=rules, defaults=defaults)
    assert decide(under, Assessment(Rating.SAFE)).outcome is outcome
    assert decide(under, Assessment(Rating.UNSAFE)).outcome is Outcome.VIOLATES


def test_a_band_around_the_threshold_is_undecided_with_both_ends() -> None:
    banded = policy(defaults={"undecided_band": [0.4, 0.6]})
    for score in (0.4, 0.5, 0.6):
        assert decide(banded, scores(score, arms=1.0)).outcome is Outcome.UNDECIDED
    assert decide(banded, scores(0.61, arms=1.0)).outcome is Outcome.VIOLATES
    assert decide(banded, scores(0.39, arms=1.0)).outcome is Outcome.COMPLIES


def test_the_policy_sets_threshold_and_action() -> None:
    strict = policy(defaults={"threshold": 0.1, "action": "flag"})
    decision = decide(strict, scores(0.15, arms=1.0))
    assert (Outcome.VIOLATES, FLAG) == (decision.outcome, decision.action)


def test_lowering_any_score_never_makes_the_action_more_severe() -> None:
    order = [decide(policy(), scores(p / 20, arms=0.8, gore=0.2)).action.severity for p in range(21)]
    assert sorted(order) == order


def test_combining_takes_the_worst_action_then_the_worst_outcome_and_keeps_all_violations() -> None:
    fine = decide(policy(), scores(0.1, arms=1.0))
    flagged = decide(policy(), scores(0.9, ads=1.0))
    blocked = decide(policy(), scores(0.8, arms=1.0))
    failed = decide(policy(), Failure(FailureKind.ERROR, "lost"))
    assert combine([fine, fine]).outcome is Outcome.COMPLIES
    assert combine([fine, flagged]).action is FLAG
    assert combine([flagged, failed]).outcome is Outcome.ERROR
    worst = combine([fine, flagged, blocked, failed])
    assert (Outcome.VIOLATES, BLOCK, 0.9) == (worst.outcome, worst.action, worst.score)
    assert {"ads", "arms"} == {finding.rule for finding in worst.findings}


def test_one_unjudged_frame_among_judged_ones_keeps_the_mark_degraded() -> None:
    lenient = policy(outcomes={"error": "allow"})
    decisions = [decide(lenient, scores(0.9, ads=1.0)), decide(lenient, Failure(FailureKind.ERROR, "lost"))]
    assert combine(decisions).degraded


@pytest.mark.parametrize("other", [scores(0.9, arms=1.0), Failure(FailureKind.ERROR, "lost")])
def test_an_image_that_one_policy_blocks_is_not_let_through_because_another_could_not_judge_it(
    other: Any,
) -> None:
    lenient = policy(outcomes={"error": "flag"})
    decisions = [decide(policy(), other), decide(lenient, Failure(FailureKind.ERROR, "lost"))]
    assert (BLOCK, False) == (combine(decisions).action, combine(decisions).degraded)
    assert combine(decisions[1:]).degraded


def test_nothing_judged_is_never_fine() -> None:
    with pytest.raises(ValueError, match="empty"):
        combine([])


def test_a_decision_starts_undegraded() -> None:
    assert not Decision(Outcome.COMPLIES, ALLOW).degraded


@pytest.mark.parametrize("word", ["unsafe", "undecided"])
def test_a_rating_read_back_from_json_counts(word: str) -> None:
    assert decide(policy(), Assessment(word)).action is BLOCK  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["bogus", None, "", "SAFE"])
def test_there_is_no_assessment_without_a_rating(word: Any) -> None:
    with pytest.raises(ValueError, match="not a valid Rating"):
        Assessment(word)


def test_exempt_shares_of_next_to_nothing_explain_nothing_away() -> None:
    shares = {"arms": 0.05, "ads": 0.0, "gore": 0.0, "art": 0.95}
    known = Assessment(Rating.UNSAFE, 0.97, 1.0, rule_scores=shares, category_mass=0.9)
    guessed = Assessment(Rating.UNSAFE, 0.97, 1.0, rule_scores=shares, category_mass=0.001)
    assert decide(policy(), known).outcome is Outcome.COMPLIES
    assert decide(policy(), guessed).outcome is Outcome.VIOLATES
