"""Under which key an assessment is stored, and whether it holds enough for a decision.

Two requests share a key only if a model would be asked the same: the same pixels, the same words of the
policy, or for a sensor the same signals, the same dialect, weights and settings, the same reading, for the
same customer of a server.
Thresholds and actions are no part of the key, but for guards in a row, where they say who is asked. Backends
leave unread what cannot matter under those they are asked with: a server is asked for no rule scores below
``decisive_score``, and zeros or nothing stand in their place; a server that lists few tokens hides low scores
(``blind_below``); a broken explanation is passed over where the scores violate. Under other thresholds each
of these may matter: then the model is asked again.

Covered: what does not hold enough is neither stored nor served; nothing is guessed. A bare rating, from a
server that gives no scores, is never kept: it would outlive the day on which the server gives them.
Not covered: a model on a server that is exchanged under its name.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import TYPE_CHECKING

from policyguard.assessment import ModelIdentity, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.cascade import CASCADE
from policyguard.deciding import unfit

if TYPE_CHECKING:
    from policyguard.assessment import Assessment, Reading
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "FORMAT",
    "asked",
    "assessment_key",
    "digest",
    "frame_digest",
    "holds_enough",
]


def holds_enough(assessment: Assessment, policy: ResolvedPolicy, reading: Reading) -> bool:
    """Whether a decision under ``policy`` on this assessment is the one that a new reading would lead to.

    Asked before an assessment is stored, and again, with the thresholds of the day, before it is served. The
    two readings never stand in for each other: explain may put another category, and may fail where fast
    does not.
    """
    if assessment.reading is not reading or unfit(policy, assessment) is not None:
        return False
    score = assessment.p_unsafe
    if score is None:
        return False
    if assessment.rating is Rating.UNDECIDED:
        return True  # without a score it may be thresholds that made it so; with one, the model said it
    if (blind := assessment.blind_below) > 0.0 and policy.decisive_score <= blind:
        return False
    if blind > 0.0 and policy.calibration is not None and score > 0.0:
        # A rule may hide in a share of the score, and it is the calibrated score that is shared out.
        hidden = policy.calibrated(score) * min(1.0, blind / score)
        if policy.calibrated(policy.decisive_score) <= hidden:
            return False
    if reading == "explain" and assessment.rationale is None and score >= policy.raw(policy.threshold):
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


FORMAT = "policyguard verdict cache 1"


def digest(*parts: str) -> str:
    """SHA-256, in hex, over the parts with their number and lengths in front: no two lists look alike."""
    hashed = hashlib.sha256(len(parts).to_bytes(8, "big"))
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return hashed.hexdigest()


def assessment_key(model: ModelIdentity, request: AssessmentRequest, *, scope: str = "") -> str | None:
    """The key for ``request`` to ``model``; ``None`` where it is not known which pixels these are.

    ``scope`` is what else tells askers apart and is shown nowhere, such as a digest of their API key.

    The policy's fingerprint is derived anew from its rules whenever they change, so that the stricter rules
    of a second round have a key of their own.
    """
    if not request.frame_key:
        return None
    from policyguard._version import __version__

    words = asked(model, request.policy)
    parts = [FORMAT, __version__, request.frame_key, words, request.reading.value, scope]
    for field in fields(ModelIdentity):
        value = getattr(model, field.name)
        parts += [field.name, "none" if value is None else f"={value}"]
    return digest(*parts)


def asked(model: ModelIdentity, policy: ResolvedPolicy) -> str:
    """What ``model`` is asked by ``policy``: the words that it reads, for a sensor its rules' signals too.

    Of several guards in a row, thresholds and actions say which of them is asked.
    """
    if model.backend == CASCADE:
        return digest(policy.fingerprint, policy.decision_fingerprint)
    signals = [f"{rule.id} {signal}" for rule in policy.rules for signal in rule.signals]
    return policy.fingerprint if model.dialect or not signals else digest(policy.fingerprint, *signals)


def frame_digest(request: AssessmentRequest) -> str:
    """Names the pixels of a frame, whatever decoded them: for what is kept longer than a decoder is."""
    frame = request.frame
    return hashlib.sha256(f"{frame.mode} {frame.size}\n".encode() + frame.tobytes()).hexdigest()
