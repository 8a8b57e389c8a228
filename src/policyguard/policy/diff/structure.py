"""Two policies, compared field by field. Pure: no model, no files.

What a text means is not known here: an item that is added to ``unsafe`` is taken to forbid more, and one that
is written differently is ``reworded``, with the effect ``unclear``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from policyguard.policy.diff.change import Change, Effect, Head, Kind, PolicyDiff
from policyguard.policy.diff.items import compare_items
from policyguard.policy.loosening import loosening
from policyguard.policy.schema import Policy, Status
from policyguard.verdict import Outcome

if TYPE_CHECKING:
    from policyguard.policy.resolved import ResolvedPolicy
    from policyguard.policy.schema import Rule

__all__ = ["compare_policies"]

_STRICTNESS = {Status.EXEMPT: 0, Status.ACTIVE: 1, Status.SENSITIVE: 2}


def compare_policies(before: Policy | ResolvedPolicy, after: Policy | ResolvedPolicy) -> PolicyDiff:
    """Every difference from ``before`` to ``after``. Rules are matched by id."""
    old, new = _resolved(before), _resolved(after)
    changes = [*_whole(old, new), *_rules(old, new)]
    if isinstance(before, Policy) and isinstance(after, Policy):
        changes += _unsaid(before, after, changes)
    known = {(weakening.change, weakening.reason) for weakening in old.weakenings}
    given = [(weakening.change, weakening.reason) for weakening in new.weakenings]
    return PolicyDiff(
        Head.of(old),
        Head.of(new),
        tuple(changes),
        tuple(f"{change}: {reason}" for change, reason in given if (change, reason) not in known),
    )


def _unsaid(before: Policy, after: Policy, changes: list[Change]) -> Iterator[Change]:
    """What composition would ask a reason for and no single field shows, such as settings that interact."""
    said = {change.rule for change in changes if change.effect in (Effect.WEAKER, Effect.UNCLEAR)}
    for loose in loosening(before, after):
        if loose.rule not in said:
            yield Change(Kind.WEAKENED, Effect.WEAKER, loose.rule, f"{loose.field or 'rule'}: {loose.said}")


def _resolved(policy: Policy | ResolvedPolicy) -> ResolvedPolicy:
    return policy.resolve() if isinstance(policy, Policy) else policy


def _whole(old: ResolvedPolicy, new: ResolvedPolicy) -> Iterator[Change]:
    for name in ("id", "version"):
        yield from _plain(None, name, getattr(old, name), getattr(new, name), Effect.NONE)
    yield from _plain(None, "world", old.world or "everything", new.world or "everything", Effect.UNCLEAR)
    yield from _texts(None, old, new)
    yield from _number(None, "defaults.threshold", old.threshold, new.threshold)
    yield from _graded(
        None, "defaults.action", old.action, new.action, new.action.severity - old.action.severity
    )
    yield from _plain(None, "defaults.undecided_band", _band(old), _band(new), Effect.UNCLEAR)
    floors = f"{old.min_label_mass:g}", f"{new.min_label_mass:g}"
    yield from _plain(None, "defaults.min_label_mass", *floors, Effect.UNCLEAR)
    yield from _graded(None, "defaults.frames", old.frames, new.frames, 1 if new.frames == "all" else -1)
    for outcome in Outcome:
        if not outcome.judged:
            a, b = old.outcomes[outcome], new.outcomes[outcome]
            yield from _graded(None, f"outcomes.{outcome}", a, b, b.severity - a.severity)


def _rules(old: ResolvedPolicy, new: ResolvedPolicy) -> Iterator[Change]:
    known, kept = {rule.id: rule for rule in old.rules}, {rule.id for rule in new.rules}
    for rule in new.rules:
        if rule.id in known:
            yield from _rule(old, new, known[rule.id], rule)
        else:
            # What a model puts on an exempt rule is taken out of the score.
            effect = Effect.WEAKER if rule.status is Status.EXEMPT else Effect.STRONGER
            yield Change(Kind.ADDED, effect, rule.id, "rule", None, rule.title)
    for rule in old.rules:
        if rule.id not in kept:
            effect = Effect.UNCLEAR if rule.status is Status.EXEMPT else Effect.WEAKER
            yield Change(Kind.REMOVED, effect, rule.id, "rule", rule.title, None)
    yield from _order(old, new)


def _rule(old: ResolvedPolicy, new: ResolvedPolicy, a: Rule, b: Rule) -> Iterator[Change]:
    yield from _graded(a.id, "status", a.status, b.status, _STRICTNESS[b.status] - _STRICTNESS[a.status])
    yield from _texts(a.id, a, b)
    yield from compare_items(a, b)
    if (a.threshold, b.threshold) != (None, None):
        yield from _number(a.id, "threshold", a.threshold or old.threshold, b.threshold or new.threshold)
    if (a.action, b.action) != (None, None):
        was, now = a.action or old.action, b.action or new.action
        yield from _graded(a.id, "action", was, now, now.severity - was.severity)


def _order(old: ResolvedPolicy, new: ResolvedPolicy) -> Iterator[Change]:
    """Rules in another order read differently; a letter that shifts because of other rules does not count."""
    was, now = [rule.id for rule in old.rules], [rule.id for rule in new.rules]
    shared_was, shared_now = [i for i in was if i in now], [i for i in now if i in was]
    if shared_was != shared_now:
        shown = (", ".join(shared_was), ", ".join(shared_now))
        yield Change(Kind.MOVED, Effect.UNCLEAR, None, "order of rules", *shown)


def _texts(rule: str | None, old: ResolvedPolicy | Rule, new: ResolvedPolicy | Rule) -> Iterator[Change]:
    for name in ("title", "description"):
        a, b = getattr(old, name), getattr(new, name)
        if a != b:
            yield Change(Kind.REWORDED, Effect.UNCLEAR, rule, name, a or None, b or None)


def _plain(rule: str | None, field: str, a: str, b: str, effect: Effect) -> Iterator[Change]:
    if a != b:
        yield Change(Kind.CHANGED, effect, rule, field, a, b)


def _number(rule: str | None, field: str, a: float, b: float) -> Iterator[Change]:
    """Thresholds: a higher one lets more pass."""
    yield from _graded(rule, field, f"{a:g}", f"{b:g}", a - b)


def _graded(rule: str | None, field: str, a: str, b: str, stricter: float) -> Iterator[Change]:
    if stricter and a != b:
        kind, effect = (
            (Kind.STRENGTHENED, Effect.STRONGER) if stricter > 0 else (Kind.WEAKENED, Effect.WEAKER)
        )
        yield Change(kind, effect, rule, field, str(a), str(b))


def _band(policy: ResolvedPolicy) -> str:
    band: Sequence[float] | None = policy.undecided_band
    return "none" if band is None else f"{band[0]:g} to {band[1]:g}"
