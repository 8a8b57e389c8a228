"""Several bases as one: together they forbid at least what each of them forbids.

Later over earlier where nothing is forbidden (title, licence); the stricter wins where something is
(defaults, outcomes, and two bodies of one rule that can be compared); what cannot be compared is a conflict
that the file above has to settle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from policyguard.outcomes import Action, Outcome
from policyguard.policy.loosening import loosening
from policyguard.policy.policy import Policy
from policyguard.policy.schema import Defaults, Origin, Rule, Weakening

__all__ = ["Flat", "Merged", "merge", "rebuilt"]


@dataclass(frozen=True, slots=True)
class Flat:
    """A composed policy with what is known about it. ``pieces``: its description, base by base."""

    policy: Policy
    pieces: tuple[str, ...]
    origins: Mapping[str, Origin]
    weakenings: tuple[Weakening, ...] = ()


@dataclass(slots=True)
class Merged:
    """Several bases as one. ``conflicts``: rule id -> ids of two bases that define it differently."""

    policy: Policy
    pieces: tuple[str, ...]
    origins: dict[str, Origin]
    weakenings: tuple[Weakening, ...]
    conflicts: dict[str, tuple[str, str]] = field(default_factory=dict)
    worlds: tuple[str | None, ...] = ()


def rebuilt(policy: Policy, **changes: Any) -> Policy:
    """A copy with other fields, not validated: for policies that are not finished."""
    values = {name: getattr(policy, name) for name in Policy.model_fields}
    return Policy.model_construct(**values | changes)


def merge(bases: Sequence[Flat]) -> Merged:
    """``bases``, at least one, in order."""
    policies = [base.policy for base in bases]
    last = policies[-1]
    outcomes = {
        outcome: max((p.outcomes.get(outcome, Action.BLOCK) for p in policies), key=lambda a: a.severity)
        for outcome in Outcome
        if any(outcome in p.outcomes for p in policies)
    }
    head = rebuilt(
        last,
        rules=(),
        defaults=_defaults([p.defaults for p in policies]),
        outcomes=outcomes,
        owner=None,
        licence=next((p.licence for p in reversed(policies) if p.licence), None),
        sources=tuple(dict.fromkeys(source for p in policies for source in p.sources)),
    )
    merged = Merged(
        head,
        tuple(dict.fromkeys(piece for base in bases for piece in base.pieces)),
        _head_origins(bases, head),
        tuple(dict.fromkeys(weakening for base in bases for weakening in base.weakenings)),
        worlds=tuple(dict.fromkeys(p.world for p in policies)),
    )
    rules: dict[str, tuple[Rule, Flat]] = {}
    for base in bases:
        for rule in base.policy.rules:
            known = rules.setdefault(rule.id, (rule, base))
            if known[0] != rule:
                if (winner := _stricter(head, known, (rule, base))) is None:
                    merged.conflicts.setdefault(rule.id, (known[1].policy.id, base.policy.id))
                else:
                    rules[rule.id] = winner
    for rule_id, (_, base) in rules.items():
        prefix = f"rules.{rule_id}"
        merged.origins.update(
            (path, o) for path, o in base.origins.items() if path == prefix or path.startswith(prefix + ".")
        )
    merged.policy = rebuilt(head, rules=tuple(rule for rule, _ in rules.values()))
    return merged


def _stricter(head: Policy, one: tuple[Rule, Flat], other: tuple[Rule, Flat]) -> tuple[Rule, Flat] | None:
    """The one that the other could be turned into without loosening anything; ``None`` if neither is."""
    first, second = (rebuilt(head, rules=(rule,)) for rule, _ in (one, other))
    if not loosening(first, second):
        return other
    return one if not loosening(second, first) else None


def _defaults(defaults: Sequence[Defaults]) -> Defaults:
    bands = [d.undecided_band for d in defaults if d.undecided_band is not None]
    return Defaults(
        threshold=min(d.threshold for d in defaults),
        action=max((d.action for d in defaults), key=lambda action: action.severity),
        undecided_band=(min(b[0] for b in bands), max(b[1] for b in bands)) if bands else None,
        min_label_mass=max(d.min_label_mass for d in defaults),
        frames="all" if any(d.frames == "all" for d in defaults) else "sample",
        calibration=defaults[0].calibration
        if all(d.calibration == defaults[0].calibration for d in defaults)
        else None,
        without_scores="refuse" if any(d.without_scores == "refuse" for d in defaults) else "ratings",
    )


def _head_origins(bases: Sequence[Flat], head: Policy) -> dict[str, Origin]:
    """For each field of the head, the origin in the last base that has the value that won."""
    origins: dict[str, Origin] = {}
    for base in bases:
        for path, origin in base.origins.items():
            section, _, name = path.partition(".")
            if section == "rules":
                continue
            if section == "defaults" and getattr(base.policy.defaults, name) != getattr(head.defaults, name):
                continue
            if section == "outcomes":
                outcome = Outcome(name)
                if base.policy.outcomes.get(outcome) is not head.outcomes.get(outcome):
                    continue
            origins[path] = origin
    return origins
