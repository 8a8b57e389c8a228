"""The exit code of a run says what its worst news is."""

from __future__ import annotations

import pytest

from policyguard.assessment import ModelIdentity, Reading
from policyguard.outcomes import Action, Outcome
from policyguard.runs.exits import ExitCode, FailOn, Tally
from policyguard.verdict import Evidence, Verdict

ALLOWED = (Outcome.COMPLIES, Action.ALLOW)


FLAGGED = (Outcome.VIOLATES, Action.FLAG)


BLOCKED = (Outcome.VIOLATES, Action.BLOCK)


PASSED = (Outcome.ERROR, Action.ALLOW)


DOUBTED = (Outcome.UNDECIDED, Action.FLAG)


UNSEEN = (Outcome.UNSCANNABLE, Action.BLOCK)


# What a run found, and its code under --fail-on block, flag, never.
TABLE = [
    ([], 0, 0, 0),
    ([ALLOWED], 0, 0, 0),
    ([FLAGGED], 0, 1, 0),
    ([BLOCKED], 1, 1, 0),
    ([PASSED], 0, 0, 0),
    ([DOUBTED], 0, 1, 0),
    ([UNSEEN], 3, 3, 0),
    ([(Outcome.UNDECIDED, Action.BLOCK)], 3, 3, 0),
    ([(Outcome.REFUSED, Action.BLOCK)], 3, 3, 0),
    ([(Outcome.ERROR, Action.BLOCK)], 3, 3, 0),
    ([ALLOWED, UNSEEN], 3, 3, 0),
    ([UNSEEN, FLAGGED], 3, 1, 0),
    ([UNSEEN, DOUBTED], 3, 1, 0),
    ([UNSEEN, BLOCKED], 1, 1, 0),
    ([BLOCKED, UNSEEN, UNSEEN], 1, 1, 0),
    ([ALLOWED, FLAGGED, BLOCKED, PASSED, DOUBTED, UNSEEN], 1, 1, 0),
]


def verdict(outcome: Outcome, action: Action) -> Verdict:
    evidence = Evidence(policies=(), model=ModelIdentity("fake"), reading=Reading.FAST)
    return Verdict("x", outcome, action, None, (), None, None, evidence)


@pytest.mark.parametrize(("found", "block", "flag", "never"), TABLE)
def test_a_violation_outranks_an_unjudged_image_and_both_outrank_success(
    found: list[tuple[Outcome, Action]], block: int, flag: int, never: int
) -> None:
    tally = Tally()
    for outcome, action in found:
        tally.add(verdict(outcome, action))
    codes = [tally.exit_code(fail_on) for fail_on in (FailOn.BLOCK, FailOn.FLAG, FailOn.NEVER)]
    assert [block, flag, never] == codes


def test_the_codes_are_those_that_scripts_rely_on() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "BLOCKED": 1,
        "USAGE": 2,
        "UNJUDGED": 3,
        "INTERRUPTED": 130,
        "BROKEN_PIPE": 141,
    }
