"""What a format reads out of one row of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policyguard.policy import ResolvedPolicy
from policyguard.strict.explain import nearest
from policyguard.strict.tables import BadRowError
from policyguard.train.data import Label

__all__ = ["Draft", "rule_named"]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a format reads out of one record.

    ``image``: a path, or a mapping with ``bytes``. ``policy`` is what the row will call it, ``resolved`` the
    policy itself; a name that starts with ``#`` is one that the importer made. ``complete``: as in
    ``LabelRow``.
    """

    image: Any
    policy: str
    resolved: ResolvedPolicy
    label: Label
    category: str | None = None
    violations: tuple[str, ...] | None = None
    complete: bool | None = None
    rationale: str | None = None
    rationale_rating: Label | None = None
    severity: str | None = None
    pair_id: str | None = None
    source: str | None = None


def rule_named(policy: ResolvedPolicy, name: str, *, field: str) -> str:
    """The id of the rule with this id or title. Raises BadRowError, with the one that was likely meant."""
    folded = " ".join(name.lower().split())
    for rule in policy.rules:
        if folded in (rule.id, rule.title.lower(), rule.id.replace("-", " ")):
            return rule.id
    meant = nearest(folded.replace(" ", "-"), [rule.id for rule in policy.rules])
    known = f"did you mean {meant!r}?" if meant else f"it has {', '.join(rule.id for rule in policy.rules)}"
    raise BadRowError(field, f"policy '{policy.id}' has no rule {name[:60]!r}: {known}")
