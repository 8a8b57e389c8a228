"""Two policies, compared field by field. Pure: no model, no files.

What a text means is not known here: an item that is added to ``unsafe`` is taken to forbid more, and one that
is written differently is ``reworded``, with the effect ``unclear``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from policyguard.authoring.linter.texts import content
from policyguard.outcomes import Outcome
from policyguard.policy.loosening import loosening
from policyguard.policy.policy import Policy
from policyguard.policy.schema import Status

if TYPE_CHECKING:
    from policyguard.policy.resolved import ResolvedPolicy
    from policyguard.policy.schema import Rule

__all__ = [
    "Change",
    "Effect",
    "Head",
    "Kind",
    "PolicyDiff",
    "compare_items",
    "compare_policies",
]


class Kind(StrEnum):
    """What happened. ``CHANGED`` is for all that is neither wording nor clearly milder or stricter."""

    ADDED = "added"
    REMOVED = "removed"
    WEAKENED = "weakened"
    STRENGTHENED = "strengthened"
    REWORDED = "reworded"
    MOVED = "moved"
    CHANGED = "changed"


class Effect(StrEnum):
    """Which way a change works. ``UNCLEAR``: only images can tell. ``NONE``: on no image."""

    WEAKER = "weaker"
    STRONGER = "stronger"
    UNCLEAR = "unclear"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. ``rule`` is its id, ``None`` for the policy as a whole.

    ``before`` and ``after`` are as they stand in the policies, and ``None`` where there was nothing.
    """

    kind: Kind
    effect: Effect
    rule: str | None
    field: str
    before: str | None = None
    after: str | None = None

    @property
    def description(self) -> str:
        """The change in a few words, without the rule it is about."""
        if self.before is None or self.after is None:
            sign, text = ("+", self.after) if self.before is None else ("-", self.before)
            return f"{self.field}: {sign} {text}" if text else self.field
        return f"{self.field}: {self.before} -> {self.after}"

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Head:
    """Which policy was compared."""

    id: str
    version: str
    title: str
    fingerprint: str
    decision_fingerprint: str

    @classmethod
    def of(cls, policy: Any) -> Self:
        """The head of a ResolvedPolicy."""
        return cls(*(getattr(policy, name) for name in cls.__slots__))

    def __str__(self) -> str:
        return f"{self.id} {self.version}"

    def to_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """Every difference between two policies, in the order of the new one's rules.

    ``weakenings`` are the reasons for being weaker than what it extends that only the new policy gives.
    """

    before: Head
    after: Head
    changes: tuple[Change, ...]
    weakenings: tuple[str, ...] = ()

    @property
    def same_prompt(self) -> bool:
        """Whether a model reads the same, so that no score can differ."""
        return self.before.fingerprint == self.after.fingerprint

    @property
    def same_decisions(self) -> bool:
        """Whether the same scores lead to the same actions."""
        return self.before.decision_fingerprint == self.after.decision_fingerprint

    @property
    def weaker(self) -> bool:
        """Whether any change can let more images pass, as far as the text tells."""
        return any(change.effect is Effect.WEAKER for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "same_prompt": self.same_prompt,
            "same_decisions": self.same_decisions,
            "changes": [change.to_dict() for change in self.changes],
            "weakenings": list(self.weakenings),
        }


_SHARED_WORDS = 0.5

_SHARED_LETTERS = 0.85
"""From either share on, an item counts as an old one in other words, or spelt otherwise."""


def compare_items(old: Rule, new: Rule) -> Iterator[Change]:
    """What changed in ``unsafe`` and ``safe``. The order of items counts only where nothing else changed."""
    gone = {name: [item for item in getattr(old, name) if item not in getattr(new, name)] for name in _LISTS}
    come = {name: [item for item in getattr(new, name) if item not in getattr(old, name)] for name in _LISTS}
    for source, target in (("unsafe", "safe"), ("safe", "unsafe")):
        for item in [item for item in gone[source] if item in come[target]]:
            gone[source].remove(item)
            come[target].remove(item)
            effect = _effect(old, new, source, target)
            yield Change(Kind.MOVED, effect, new.id, f"{source} to {target}", None, item)
    for name in _LISTS:
        for before, after in _reworded(gone[name], come[name]):
            yield Change(Kind.REWORDED, Effect.UNCLEAR, new.id, name, before, after)
        for item in gone[name]:
            yield _change(old, new, name, item, added=False)
        for item in come[name]:
            yield _change(old, new, name, item, added=True)
        before_items, after_items = getattr(old, name), getattr(new, name)
        if before_items != after_items and sorted(before_items) == sorted(after_items):
            yield Change(Kind.MOVED, Effect.UNCLEAR, new.id, f"order of {name}")


_LISTS = ("unsafe", "safe")


def _change(old: Rule, new: Rule, name: str, item: str, *, added: bool) -> Change:
    effect = _effect(old, new, None if added else name, name if added else None)
    kinds = {Effect.STRONGER: Kind.STRENGTHENED, Effect.WEAKER: Kind.WEAKENED}
    kind = kinds.get(effect, Kind.CHANGED)
    return Change(kind, effect, new.id, name, None if added else item, item if added else None)


def _effect(old: Rule, new: Rule, source: str | None, target: str | None) -> Effect:
    """What it does that an item left the list ``source`` for ``target``; ``None`` is no list at all."""
    if new.status is Status.EXEMPT:
        return Effect.UNCLEAR  # it forbids nothing, and a model reads its lists all the same
    before, after = _says(old, source), _says(new, target)
    if before == after or (old.status is Status.EXEMPT and after < 0):
        return Effect.UNCLEAR
    return Effect.STRONGER if after > before else Effect.WEAKER


def _says(rule: Rule, name: str | None) -> int:
    """1 for an item that the rule forbids, -1 for one that it excuses, 0 for neither."""
    if name is None or rule.status is Status.EXEMPT:
        return 0
    # A sensitive rule forbids both of its lists.
    return 1 if name == "unsafe" or rule.status is Status.SENSITIVE else -1


def _reworded(gone: list[str], come: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of an old item and the new one most like it; both are taken out of the lists."""
    alike = ((_likeness(before, after), before, after) for before in gone for after in come)
    for likeness, before, after in sorted(alike, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if likeness > 0 and before in gone and after in come:
            gone.remove(before)
            come.remove(after)
            yield before, after


def _likeness(before: str, after: str) -> float:
    """0 for two different items, else how much they have in common."""
    one, other = content(before), content(after)
    words = len(one & other) / (len(one | other) or 1)
    letters = difflib.SequenceMatcher(None, before.lower(), after.lower(), autojunk=False).ratio()
    return words + letters if words >= _SHARED_WORDS or letters >= _SHARED_LETTERS else 0.0


_STRICTNESS = {Status.EXEMPT: 0, Status.ACTIVE: 1, Status.SENSITIVE: 2}


def compare_policies(before: Policy | ResolvedPolicy, after: Policy | ResolvedPolicy) -> PolicyDiff:
    """Every difference from ``before`` to ``after``. Rules are matched by id."""
    old, new = _resolved(before), _resolved(after)
    changes = [*_whole(old, new), *_rules(old, new)]
    if isinstance(before, Policy) and isinstance(after, Policy):
        changes += _unsaid(before, after, changes)
    known = {(weakening.change, weakening.reason) for weakening in old.weakenings}
    reasons = [(weakening.change, weakening.reason) for weakening in new.weakenings]
    return PolicyDiff(
        Head.of(old),
        Head.of(new),
        tuple(changes),
        tuple(f"{change}: {reason}" for change, reason in reasons if (change, reason) not in known),
    )


def _unsaid(before: Policy, after: Policy, changes: list[Change]) -> Iterator[Change]:
    """What composition would ask a reason for and no single field shows, such as settings that interact."""
    explained = {change.rule for change in changes if change.effect in (Effect.WEAKER, Effect.UNCLEAR)}
    for loose in loosening(before, after):
        if loose.rule not in explained:
            yield Change(
                Kind.WEAKENED, Effect.WEAKER, loose.rule, f"{loose.field or 'rule'}: {loose.description}"
            )


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
    alone = old.without_scores, new.without_scores
    yield from _graded(None, "defaults.without_scores", *alone, 1 if alone[1] == "refuse" else -1)
    read = (str(old.calibration or "none"), str(new.calibration or "none"))
    yield from _plain(None, "defaults.calibration", *read, Effect.UNCLEAR)
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
    yield from _plain(a.id, "signals", _signals(a), _signals(b), Effect.UNCLEAR)
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
        orders = (", ".join(shared_was), ", ".join(shared_now))
        yield Change(Kind.MOVED, Effect.UNCLEAR, None, "order of rules", *orders)


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


def _signals(rule: Rule) -> str:
    return ", ".join(rule.signals) or "none"


def _band(policy: ResolvedPolicy) -> str:
    band: Sequence[float] | None = policy.undecided_band
    return "none" if band is None else f"{band[0]:g} to {band[1]:g}"
