"""Whether an assessment holds what a decision needs. If it does not, the model is asked: nothing is guessed.

Backends leave unread what cannot matter under the policy they are asked about. VLLMBackend reads no rule
scores below ``decisive_score`` and puts zeros, or nothing, in their place; a server that lists few tokens
hides low scores (``blind_below``); a broken explanation is passed over where the scores violate. Under
another threshold each of these may matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.assessment import Rating
from policyguard.verdict import fault

if TYPE_CHECKING:
    from policyguard.assessment import Assessment, Reading
    from policyguard.policy import ResolvedPolicy

__all__ = ["holds_enough"]


def holds_enough(assessment: Assessment, policy: ResolvedPolicy, reading: Reading) -> bool:
    """Whether a decision under ``policy`` on this assessment is the one that a new reading would lead to.

    Asked before an assessment is stored, and again, with the thresholds of the day, before it is served. The
    two readings never stand in for each other: explain may put another category, and may fail where fast
    does not.
    """
    if assessment.reading is not reading or fault(policy, assessment) is not None:
        return False
    score = assessment.p_unsafe
    if assessment.rating is Rating.UNDECIDED:
        # Without a score it may be thresholds that made it so; with one, the model said it.
        return score is not None
    if assessment.blind_below > 0.0 and policy.decisive_score <= assessment.blind_below:
        return False
    if score is None:
        return True  # the server gives no scores: the rating is all there is, and decides alone
    if reading == "explain" and assessment.rationale is None and score >= policy.threshold:
        return False  # perhaps words that could not be read; under a higher threshold that is a failure
    if _rules_are_read(assessment):
        return True
    if assessment.rule_scores is None and any(rule.threshold is not None for rule in policy.rules):
        return False
    return score < policy.decisive_score


def _rules_are_read(assessment: Assessment) -> bool:
    """Shares of competing rules make 1 where they were read. Zeros stand for what was not."""
    if assessment.rule_scores is None:
        return False
    return assessment.scoring == "per_rule" or sum(assessment.rule_scores.values()) >= 0.5
