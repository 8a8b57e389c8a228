"""Thresholds and settings outside sense, examples that are missing, and who answers for the policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from policyguard.policy.lint.remark import Level, Remark
from policyguard.policy.schema import Status
from policyguard.verdict import Action, Outcome

if TYPE_CHECKING:
    from policyguard.policy.schema import Policy

__all__ = ["examples", "people", "settings"]

SENSE: Final = (0.05, 0.95)
"""Thresholds outside these catch nearly everything, or nearly nothing."""
LONG_LIST: Final = 12
LONG_ITEM: Final = 200


def settings(policy: Policy) -> Iterator[Remark]:
    """Numbers and actions that hardly do what their author wants."""
    default = policy.defaults.threshold
    yield from _threshold(default, ("defaults", "threshold"))
    for index, rule in enumerate(policy.rules):
        if rule.threshold is not None:
            path = ("rules", index, "threshold")
            yield from _threshold(rule.threshold, path)
            if rule.threshold > default and rule.status is not Status.EXEMPT:
                message = (
                    f"{rule.threshold:g} is above the policy's own threshold {default:g}, from which the "
                    "image violates all the same, with the default action: raise `defaults: threshold:`, and "
                    "lower it again in the other rules"
                )
                yield Remark(Level.WARNING, "threshold", message, path)
        if rule.action is Action.ALLOW and rule.status is not Status.EXEMPT:
            message = "violations are found and allowed: `status: exempt` tells the model so"
            yield Remark(Level.INFO, "action", message, ("rules", index, "action"))
    yield from _band(policy)
    floor = policy.defaults.min_label_mass
    if floor < 0.05 or floor > 0.99:
        said = "nearly any answer counts as a label" if floor < 0.5 else "nearly every image is undecided"
        message = f"with a floor of {floor:g}, {said}"
        yield Remark(Level.WARNING, "label-floor", message, ("defaults", "min_label_mass"))
    for outcome, action in policy.outcomes.items():
        if action is Action.ALLOW:
            level = Level.INFO if outcome is Outcome.UNDECIDED else Level.WARNING
            message = "images pass that nobody has judged: `flag` lets them pass and shows them to somebody"
            yield Remark(level, "fails-open", message, ("outcomes", outcome.value))


def _threshold(value: float, path: tuple[str | int, ...]) -> Iterator[Remark]:
    low, high = SENSE
    if not low <= value <= high:
        said = "nearly every picture violates" if value < low else "hardly any picture ever violates"
        message = f"with a threshold of {value:g}, {said}: scores are probabilities, seldom so near an end"
        yield Remark(Level.WARNING, "threshold", message, path)


def _band(policy: Policy) -> Iterator[Remark]:
    band, threshold = policy.defaults.undecided_band, policy.defaults.threshold
    if band is None:
        return
    (low, high), path = band, ("defaults", "undecided_band")
    if high - low > 0.5:
        message = f"half of all scores and more are undecided ({low:g} to {high:g})"
        yield Remark(Level.WARNING, "undecided-band", message, path)
    if low > threshold + 0.05 or high < threshold - 0.05:
        message = f"{low:g} to {high:g} leaves out the threshold {threshold:g}, where doubt is greatest"
        yield Remark(Level.WARNING, "undecided-band", message, path)


def examples(policy: Policy) -> Iterator[Remark]:
    """Rules with an empty side, and rules too long to be followed."""
    for index, rule in enumerate(policy.rules):
        path = ("rules", index)
        if rule.status is not Status.EXEMPT and not rule.unsafe:
            message = f"rule '{rule.id}' gives no example under `unsafe:`"
            yield Remark(Level.WARNING, "no-unsafe-example", message, path)
        if rule.status is Status.ACTIVE and not rule.safe:
            message = f"rule '{rule.id}' gives no example under `safe:` of what looks alike and may pass"
            yield Remark(Level.INFO, "no-safe-example", message, path)
        for name in ("unsafe", "safe"):
            items: tuple[str, ...] = getattr(rule, name)
            if len(items) > LONG_LIST:
                message = f"{len(items)} items: a model follows three to six, so make two rules of it"
                yield Remark(Level.INFO, "long", message, (*path, name))
            for place, item in enumerate(items):
                if len(item) > LONG_ITEM:
                    message = f"{len(item)} characters: one line to an item is followed better"
                    yield Remark(Level.INFO, "long", message, (*path, name, place))


def people(policy: Policy) -> Iterator[Remark]:
    """What those who are given the policy will ask for."""
    for field, purpose in (("owner", "who answers for it"), ("licence", "what others may do with it")):
        if getattr(policy, field) is None:
            yield Remark(Level.WARNING, f"no-{field}", f"there is no `{field}:`, {purpose}")
