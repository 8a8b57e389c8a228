"""The decision rule: the only place where scores become actions.

``decide`` judges one frame under one policy and is pure; ``combine`` takes the worst of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, Failure, Rating
from policyguard.outcomes import Action, Outcome
from policyguard.verdict import Finding

if TYPE_CHECKING:
    from policyguard.lists import Hit
    from policyguard.policy import ResolvedPolicy


_SLACK = 1e-3
"""How far probabilities that went through bfloat16 may miss their bounds."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What ``decide`` found for one frame under one policy.

    ``degraded``: it could not be judged, and the policy's ``outcomes`` do not block it all the same.
    ``unexplained``, ``unchecked`` and ``stages``: see ``Evidence``.
    ``cached``: its scores came from the verdict cache. ``retryable``: asking again
    later may help.
    """

    outcome: Outcome
    action: Action
    score: float | None = None
    findings: tuple[Finding, ...] = ()
    rationale: str | None = None
    reason: str | None = None
    label_mass: float | None = None
    scoring: str | None = None
    notes: tuple[str, ...] = ()
    degraded: bool = False
    unexplained: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    cached: bool = False
    retryable: bool = False


def decide(policy: ResolvedPolicy, result: Assessment | Failure) -> Decision:
    """Decide on one frame. The rule, in order:

    1. A ``Failure`` has the outcome of its kind.
    2. Where the policy holds a calibration, it is put on p_unsafe (in per-rule dialects on every P(k)).
       UNDECIDED if the model rates it so; if ``label_mass`` is under ``policy.min_label_mass``; or if
       p_unsafe lies in ``policy.undecided_band`` (both ends included).
    3. Rule scores: joint dialects r_k = p_unsafe * P(k | unsafe), per-rule dialects r_k = P(k) with
       p_unsafe their maximum. The share of ``exempt`` rules is taken out of p_unsafe first.
    4. A rule violates iff r_k >= its own threshold (the policy's, where it sets none). The image violates
       iff p_unsafe >= the policy's threshold or any rule violates. Without scores the rating decides; a
       rating of safe is an ERROR then where scores below 0.5 decide, unless ``without_scores`` lets it
       stand in.
    5. A violation's action is the most severe among the rules it is attributed to: the violating ones,
       else (the best-scoring rule, reported with ``attributed=False``) the policy's default action. Without
       scores it is that of the rule that the model names, else the most severe one in the policy.
    6. An image that breaks nothing, of which some rules were not looked at (``unchecked``), is UNDECIDED.
    7. ``policy.outcomes`` gives the action of every other outcome.

    A score that is not a number in [0, 1] is an ERROR, never a guess.
    """
    stages = (result.stage,) if result.stage else ()
    if isinstance(result, Failure):
        outcome = Outcome(result.kind.value)
        return _unjudged(policy, outcome, result.reason, retryable=result.retryable, stages=stages)
    if (wrong := unfit(policy, result)) is not None:
        return _unjudged(policy, Outcome.ERROR, wrong, cached=result.cached, stages=stages)

    result = _calibrated(policy, result)
    scores = _rule_scores(policy, result)
    p_unsafe, notes = _without_exempt(policy, result, scores)

    undecided = _undecided(policy, result, p_unsafe)
    common: dict[str, Any] = {
        "score": p_unsafe,
        "rationale": result.rationale,
        "label_mass": result.label_mass,
        "scoring": result.scoring,
        "notes": (*result.notes, *notes),
        "unchecked": result.unchecked,
        "stages": stages,
        "cached": result.cached,
    }
    if undecided is not None:
        return _unjudged(policy, Outcome.UNDECIDED, undecided, **common)
    over = result.rating is Rating.UNSAFE if p_unsafe is None else p_unsafe >= policy.threshold
    thresholds = any(rule.threshold is not None for rule in policy.rules)
    if p_unsafe is not None and scores is None and thresholds and not over:
        reason = "the policy sets thresholds on rules, and the model gave no rule scores"
        return _unjudged(policy, Outcome.ERROR, reason, cached=result.cached, stages=stages)
    if p_unsafe is None and not over and policy.needs_scores:
        reason = (
            f"the policy decides from a score of {policy.decisive_score:g}, and the model gives no scores"
        )
        return _unjudged(policy, Outcome.ERROR, reason, cached=result.cached, stages=stages)

    findings = _violating(policy, scores)
    if findings:
        action = max((finding.action for finding in findings), key=lambda action: action.severity)
        return Decision(Outcome.VIOLATES, action, findings=findings, **common)
    best = _best(policy, result, scores, violates=over)
    if over:
        action = _named_action(policy, best) if p_unsafe is None else policy.action
        return Decision(Outcome.VIOLATES, action, findings=best, **common)
    if result.unchecked:
        reason = f"nothing was found, and not all was looked at: {', '.join(result.unchecked)} unchecked"
        return _unjudged(policy, Outcome.UNDECIDED, reason, **common)
    return Decision(Outcome.COMPLIES, policy.outcomes[Outcome.COMPLIES], findings=best, **common)


def decide_listed(
    policies: Sequence[ResolvedPolicy], hits: Sequence[Hit], *, readable: bool
) -> tuple[list[Decision], bool]:
    """What lists of known images say of one, and whether that is all: then no model is asked.

    On a list that denies, it breaks that rule in each policy that has it; all is said if that blocks. On none
    of those, with its very bytes on a list that allows, it complies, if it is ``readable``. The model says
    everything else.
    """
    denied = [
        Decision(
            Outcome.VIOLATES,
            rule.action or policy.action,
            findings=(_finding(policy, rule.id, None, violates=True),),
            notes=(str(hit),),
        )
        for hit in hits
        for policy in policies
        for rule in policy.rules
        if rule.id == hit.rule and rule.status != "exempt"
    ]
    if denied:
        return denied, any(decision.action is Action.BLOCK for decision in denied)
    allowing = [hit for hit in hits if hit.rule is None and hit.exact]
    if not allowing or not readable or any(hit.rule is not None for hit in hits):
        return [], False
    notes = (f"{allowing[0]}, which allows it: no model was asked",)
    return [
        Decision(Outcome.COMPLIES, policy.outcomes[Outcome.COMPLIES], notes=notes) for policy in policies
    ], True


def combine(decisions: Sequence[Decision]) -> Decision:
    """The worst of several decisions: most severe action, then worst outcome, then highest score.

    Findings that violate are kept from all of them, the highest score per rule and policy. ``score`` is the
    maximum over the decisions; ``cached`` holds if it does for all of them; ``degraded`` if the worst does
    not block and one could not be judged. Raises ValueError on an empty
    sequence: nothing judged is never fine.
    """
    worst = max(decisions, key=lambda d: (d.action.severity, list(Outcome).index(d.outcome), d.score or 0.0))
    unexplained = tuple(dict.fromkeys(why for d in decisions if (why := _unexplained(d)) is not None))
    if len(decisions) == 1:
        return replace(worst, unexplained=unexplained)
    by_rule: dict[tuple[str, str], Finding] = {}
    for finding in (finding for decision in decisions for finding in decision.findings if finding.violates):
        known = by_rule.get((finding.policy, finding.rule))
        if known is None or (finding.score or 0.0) > (known.score or 0.0):
            by_rule[finding.policy, finding.rule] = finding
    scores = [decision.score for decision in decisions if decision.score is not None]
    return Decision(
        worst.outcome,
        worst.action,
        score=max(scores, default=None),
        findings=_by_score(by_rule.values()) or worst.findings,
        rationale=worst.rationale,
        reason=worst.reason,
        label_mass=worst.label_mass,
        scoring=worst.scoring,
        notes=tuple(dict.fromkeys(note for decision in decisions for note in decision.notes)),
        # What one policy or frame blocks is not let through, whatever another makes of it.
        degraded=worst.action is not Action.BLOCK and any(decision.degraded for decision in decisions),
        unexplained=unexplained,
        unchecked=tuple(dict.fromkeys(rule for decision in decisions for rule in decision.unchecked)),
        stages=tuple(dict.fromkeys(stage for decision in decisions for stage in decision.stages)),
        cached=all(decision.cached for decision in decisions),
        retryable=worst.retryable,
    )


def _unexplained(decision: Decision) -> str | None:
    """Why this decision blocks, where no finding says it."""
    if decision.action is not Action.BLOCK:
        return None
    if decision.outcome is not Outcome.VIOLATES:
        return decision.reason or str(decision.outcome)
    if any(finding.violates for finding in decision.findings):
        return None
    return "a violation that the model puts down to no rule"


def _unjudged(policy: ResolvedPolicy, outcome: Outcome, reason: str, **common: Any) -> Decision:
    action = policy.outcomes[outcome]
    return Decision(outcome, action, reason=reason, degraded=action is not Action.BLOCK, **common)


def unfit(policy: ResolvedPolicy, result: Assessment) -> str | None:
    """What makes this assessment unfit for a decision, if anything."""
    shares = list((result.rule_scores or {}).values())
    numbers = [result.p_unsafe, result.label_mass, result.category_mass, result.p_undecided, *shares]
    # `not 0 <= x` rather than `x < 0`: a NaN fails every comparison and must not slip through.
    wrong = [x for x in numbers if x is not None and not 0.0 <= x <= 1.0 + _SLACK]
    if wrong:
        return f"the model's scores are not probabilities: {wrong[0]!r}"
    if result.p_unsafe is not None:
        sides = {Rating.UNSAFE: result.p_unsafe, Rating.SAFE: 1.0 - result.p_unsafe}
        if sides.get(result.rating, 1.0) < 0.5 - _SLACK:
            return f"the model rates it {result.rating} and gives {result.p_unsafe:.2f} for unsafe"
    if result.rule_scores is None:
        return None
    if missing := [rule.id for rule in policy.rules if rule.id not in result.rule_scores]:
        return f"the model gave rule scores, and none for rule '{missing[0]}'"
    if result.scoring == "joint" and sum(shares) > 1.0 + _SLACK:
        return f"the model's shares of the rules add up to {sum(shares):.2f}"
    highest = max((result.rule_scores[rule.id] for rule in policy.rules), default=0.0)
    if result.scoring == "per_rule" and abs((result.p_unsafe or 0.0) - highest) > _SLACK:
        return "the model's score for the image is not the highest of its rule scores"
    return None


def _calibrated(policy: ResolvedPolicy, result: Assessment) -> Assessment:
    """``result`` with the policy's calibration on its scores; shares of competing rules stay as they are."""
    if policy.calibration is None or result.p_unsafe is None:
        return result
    rules = result.rule_scores
    if rules is not None and result.scoring == "per_rule":
        rules = {rule: policy.calibrated(score) for rule, score in rules.items()}
    return replace(result, p_unsafe=policy.calibrated(result.p_unsafe), rule_scores=rules)


def _rule_scores(policy: ResolvedPolicy, result: Assessment) -> dict[str, float] | None:
    if result.rule_scores is None or result.p_unsafe is None:
        return None
    factor = result.p_unsafe if result.scoring == "joint" else 1.0
    return {rule.id: factor * result.rule_scores[rule.id] for rule in policy.rules}


def _without_exempt(
    policy: ResolvedPolicy, result: Assessment, scores: dict[str, float] | None
) -> tuple[float | None, tuple[str, ...]]:
    """p_unsafe less what the model put on exempt rules; their scores become 0 in ``scores``."""
    exempt = [rule.id for rule in policy.rules if rule.status == "exempt"]
    if scores is None or not exempt:
        return result.p_unsafe, ()
    taken = {rule: scores[rule] for rule in exempt if scores[rule] > 0.0}
    scores.update(dict.fromkeys(exempt, 0.0))
    if result.category_mass is not None and result.category_mass < policy.min_label_mass:
        # Shares of next to nothing say nothing: they must not explain a high score away.
        return result.p_unsafe, ()
    if result.scoring == "per_rule":
        return max(scores.values(), default=0.0), ()
    assert result.p_unsafe is not None  # scores exist only beside it
    notes = tuple(
        f"{share:.3f} of the score lies on exempt rule '{rule}' and is taken out"
        for rule, share in taken.items()
        if share >= 0.005
    )
    return max(0.0, result.p_unsafe - sum(taken.values())), notes


def _undecided(policy: ResolvedPolicy, result: Assessment, p_unsafe: float | None) -> str | None:
    weighed = f"the model puts {result.p_undecided:.2f} on being undecided"
    if result.rating is Rating.UNDECIDED:
        if result.notes:
            return result.notes[0]
        return weighed if 0.0 < result.p_undecided < 0.5 else "the model answers that it cannot decide"
    if result.p_undecided >= 0.5:
        return weighed
    if result.label_mass is not None and result.label_mass < policy.min_label_mass:
        return f"the model puts only {result.label_mass:.2f} on its labels (floor {policy.min_label_mass:g})"
    band = policy.undecided_band
    if band is not None and p_unsafe is not None and band[0] <= p_unsafe <= band[1]:
        return f"the score {p_unsafe:.2f} lies in the policy's undecided band {band[0]:g} to {band[1]:g}"
    return None


def _violating(policy: ResolvedPolicy, scores: Mapping[str, float] | None) -> tuple[Finding, ...]:
    """The rules over their own threshold; for rules that set none, over the policy's."""
    if scores is None:
        return ()
    findings = []
    for rule in policy.rules:
        threshold = policy.threshold if rule.threshold is None else rule.threshold
        if rule.status != "exempt" and scores[rule.id] >= threshold:
            findings.append(_finding(policy, rule.id, scores[rule.id], violates=True))
    return _by_score(findings)


def _best(
    policy: ResolvedPolicy, result: Assessment, scores: Mapping[str, float] | None, *, violates: bool
) -> tuple[Finding, ...]:
    candidates = [rule.id for rule in policy.rules if rule.status != "exempt"]
    if scores is not None:
        best = max(candidates, key=lambda rule: scores[rule], default=None)
        return (
            ()
            if best is None
            else (_finding(policy, best, scores[best], violates=violates, attributed=False),)
        )
    if result.category is not None and result.category in candidates:
        # Without scores, the rule that the model names is the one that it finds broken.
        named = violates and result.p_unsafe is None
        return (_finding(policy, result.category, result.p_unsafe, violates=violates, attributed=named),)
    return ()


def _named_action(policy: ResolvedPolicy, named: tuple[Finding, ...]) -> Action:
    """The action of the rule that the model names; the most severe that there is where it names none."""
    if named:
        return named[0].action
    actions = [rule.action or policy.action for rule in policy.rules if rule.status != "exempt"]
    return max((policy.action, *actions), key=lambda action: action.severity)


def _finding(
    policy: ResolvedPolicy, rule_id: str, score: float | None, *, violates: bool, attributed: bool = True
) -> Finding:
    rule = policy.rule(rule_id)
    return Finding(rule.id, rule.title, violates, score, rule.action or policy.action, policy.id, attributed)


def _by_score(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -(finding.score or 0.0)))
