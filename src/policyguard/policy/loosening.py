"""Which changes between two policies can loosen, or reword, what the first one forbids.

Texts are atoms here: a text that is gone or different forbids nothing of what it forbade, and one that is
added forbids more. What words mean is for a reviewer; that a change is named is for this module.

Covered: all that ``verdict.decide`` turns into an action, in the symbolic reading that
``tests/policy/test_compose_algebra.py`` spells out and checks. Not covered: that a model reads a longer
prompt differently.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policyguard.outcomes import Action, Outcome
from policyguard.policy.policy import Policy
from policyguard.policy.schema import Rule, Status
from policyguard.strict.text import quoted

__all__ = ["Change", "loosening"]


@dataclass(frozen=True, slots=True)
class Change:
    """One such change: the rule it is about (``None``: the policy's head), the field, and what happens."""

    rule: str | None
    field: str
    description: str

    @property
    def place(self) -> str:
        """The path of the field, as in ``Policy.origins``."""
        return self.field if self.rule is None else f"rules.{self.rule}.{self.field}".rstrip(".")

    def __str__(self) -> str:
        return f"{self.place}: {self.description}"


def loosening(old: Policy, new: Policy) -> list[Change]:
    """Every change from ``old`` to ``new`` that can loosen or reword what ``old`` forbids."""
    return [*_head(old, new), *_rules(old, new)]


def _head(old: Policy, new: Policy) -> Iterator[Change]:
    was, now = old.defaults, new.defaults
    if now.threshold > was.threshold:
        yield Change(None, "defaults.threshold", f"raised from {was.threshold:g} to {now.threshold:g}")
    if now.action.severity < was.action.severity:
        yield Change(None, "defaults.action", f"softened from {was.action} to {now.action}")
    for outcome in (outcome for outcome in Outcome if not outcome.judged):
        before, after = _outcome(old, outcome), _outcome(new, outcome)
        if after.severity < before.severity:
            yield Change(None, f"outcomes.{outcome}", f"softened from {before} to {after}")
    # What makes more images undecided is stricter only where these are blocked.
    undecided_blocks = _outcome(new, Outcome.UNDECIDED) is Action.BLOCK
    if was.undecided_band != now.undecided_band:
        inside = was.undecided_band is None or (
            now.undecided_band is not None
            and now.undecided_band[0] <= was.undecided_band[0]
            and now.undecided_band[1] >= was.undecided_band[1]
        )
        if not inside or not undecided_blocks:
            why = "" if inside else ": scores that were undecided are decided"
            description = f"changed from {_band(was.undecided_band)} to {_band(now.undecided_band)}{why}"
            yield Change(None, "defaults.undecided_band", description)
    floor = (was.min_label_mass, now.min_label_mass)
    if floor[1] < floor[0] or (floor[1] > floor[0] and not undecided_blocks):
        yield Change(None, "defaults.min_label_mass", f"changed from {floor[0]:g} to {floor[1]:g}")
    if was.frames != now.frames and (
        now.frames == "sample" or _outcome(new, Outcome.UNSCANNABLE) is not Action.BLOCK
    ):
        yield Change(None, "defaults.frames", f"changed from {was.frames} to {now.frames}")
    if was.without_scores == "refuse" != now.without_scores:
        description = "lets ratings stand in for scores, which decide below 0.5"
        yield Change(None, "defaults.without_scores", description)
    if was.calibration != now.calibration:
        described = "none" if now.calibration is None else str(now.calibration)
        yield Change(None, "defaults.calibration", f"reads scores in another way: {described}")


def _rules(old: Policy, new: Policy) -> Iterator[Change]:
    before = {rule.id: rule for rule in old.rules}
    after = {rule.id: rule for rule in new.rules}
    for rule_id, rule in before.items():
        if rule_id not in after:
            if rule.status is not Status.EXEMPT:
                yield Change(rule_id, "", "dropped")
        else:
            yield from _rule(old, new, rule, after[rule_id])
    for rule_id, rule in after.items():
        if rule_id in before:
            continue
        if rule.status is Status.EXEMPT:
            description = "declares its items non-violating, which can excuse what another rule forbids"
            yield Change(rule_id, "status", description)
        elif mild := _outshines(old, new, rule, None):
            yield Change(rule_id, "action", mild)


def _rule(old: Policy, new: Policy, was: Rule, now: Rule) -> Iterator[Change]:
    if was == now:
        return
    order = (Status.EXEMPT, Status.ACTIVE, Status.SENSITIVE)
    if order.index(now.status) < order.index(was.status):
        yield Change(was.id, "status", f"changed from {was.status} to {now.status}")
    before, after = _threshold(old, was), _threshold(new, now)
    if was.threshold != now.threshold and after > before:
        yield Change(was.id, "threshold", f"raised from {before:g} to {after:g}")
    mild, strict = _action(new, now), _action(old, was)
    if was.action is not now.action and mild.severity < strict.severity:
        yield Change(was.id, "action", f"softened from {strict} to {mild}")
    for field in ("title", "description"):
        words = getattr(was, field)
        if words and words != getattr(now, field):
            yield Change(was.id, field, "reworded" if getattr(now, field) else "removed")
    for item in was.unsafe:
        if item not in now.unsafe:
            yield Change(was.id, "unsafe", f"no longer lists {quoted(item)}")
    for item in now.safe:
        if item not in was.safe:
            yield Change(was.id, "safe", f"excuses {quoted(item)}")
    for signal in was.signals:
        if signal not in now.signals:
            yield Change(was.id, "signals", f"no longer looks at {quoted(signal)}")
    if was.status is Status.SENSITIVE:
        for item in was.safe:
            if item not in (*now.safe, *now.unsafe):
                yield Change(
                    was.id, "safe", f"no longer lists {quoted(item)}, which a sensitive rule forbids"
                )
    if now.status is Status.EXEMPT and (added := [i for i in now.unsafe if i not in was.unsafe]):
        # Who adds to a rule that was exempt before may well want to forbid.
        why = " (the rule is exempt: `status: active` would forbid it)" if was.status is now.status else ""
        yield Change(was.id, "unsafe", f"declares {quoted(added[0])} non-violating{why}")
    if now.status is Status.EXEMPT and now.description and not was.description:
        yield Change(was.id, "description", "widens what is declared non-violating")
    if mild_now := _outshines(old, new, now, was):
        yield Change(was.id, "action", mild_now)


def _outshines(old: Policy, new: Policy, rule: Rule, was: Rule | None) -> str | None:
    """Whether a mild rule that reaches further takes over what the default action dealt with.

    An image over the policy's threshold, but with no rule over its own, gets the default action; once one
    rule is over its own threshold, that rule's action counts instead, which may be milder.
    """
    if rule.status is Status.EXEMPT or _action(new, rule).severity >= old.defaults.action.severity:
        return None
    high = {r.id for r in old.rules if r.status is not Status.EXEMPT and _above(old, r)}
    lowered = was is not None and was.id in high and _threshold(new, rule) < _threshold(old, was)
    others = high - {rule.id}
    if not lowered and not (others and (was is None or _reach(rule) - _reach(was))):
        return None
    than = f"{_action(new, rule)} is milder than the default action {old.defaults.action}"
    which = rule.id if lowered else min(others)
    return f"{than}, which now deals with images that rule '{which}' does not reach with its own threshold"


def _above(policy: Policy, rule: Rule) -> bool:
    return _threshold(policy, rule) > policy.defaults.threshold


def _reach(rule: Rule) -> set[str]:
    """The texts that the rule forbids."""
    texts = {rule.title, rule.description, *rule.unsafe} - {""}
    if rule.status is Status.EXEMPT:
        return set()
    return texts | set(rule.safe) if rule.status is Status.SENSITIVE else texts - set(rule.safe)


def _threshold(policy: Policy, rule: Rule) -> float:
    return policy.defaults.threshold if rule.threshold is None else rule.threshold


def _action(policy: Policy, rule: Rule) -> Action:
    return rule.action or policy.defaults.action


def _outcome(policy: Policy, outcome: Outcome) -> Action:
    return policy.outcomes.get(outcome, Action.BLOCK)


def _band(band: tuple[float, float] | None) -> str:
    return "none" if band is None else f"[{band[0]:g}, {band[1]:g}]"
