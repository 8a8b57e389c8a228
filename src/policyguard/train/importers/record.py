"""One row of a source, what a format reads out of it, and how a row is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyguard.policy import ResolvedPolicy
from policyguard.strict.explain import nearest, not_one_of
from policyguard.train.data import Label

__all__ = ["BadRowError", "Draft", "Record", "first_of", "label_of", "rule_named", "text_of"]


class BadRowError(Exception):
    """This row is left out. Never leaves the package."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source, as it came. ``line``: in a text file the line, in parquet the row, from 1."""

    file: Path
    line: int
    fields: Mapping[str, Any]


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


def first_of(record: Record, *names: str) -> tuple[str, Any]:
    """The first of these columns that is filled, with its name. Raises BadRowError."""
    for name in names:
        value = record.fields.get(name)
        if value is not None and value != "":
            return name, value
    missing = " or ".join(repr(name) for name in names)
    raise BadRowError(names[0], f"this field is missing or empty; expected {missing}")


def text_of(record: Record, *names: str) -> str | None:
    """The text of the first filled column among ``names``, or ``None``. Raises BadRowError."""
    for name in names:
        value = record.fields.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise BadRowError(name, f"expected a text, found {type(value).__name__}")
        return value.strip() or None
    return None


def label_of(field: str, value: Any, labels: Mapping[str, Label]) -> Label:
    """The label that ``value`` stands for, whatever its case. Raises BadRowError if it is unknown."""
    label = labels.get(" ".join(value.lower().split())) if isinstance(value, str) else None
    if label is None:
        raise BadRowError(field, not_one_of(value, [*labels]))
    return label


def rule_named(policy: ResolvedPolicy, name: str, *, field: str) -> str:
    """The id of the rule with this id or title. Raises BadRowError, with the one that was likely meant."""
    folded = " ".join(name.lower().split())
    for rule in policy.rules:
        if folded in (rule.id, rule.title.lower(), rule.id.replace("-", " ")):
            return rule.id
    meant = nearest(folded.replace(" ", "-"), [rule.id for rule in policy.rules])
    known = f"did you mean {meant!r}?" if meant else f"it has {', '.join(rule.id for rule in policy.rules)}"
    raise BadRowError(field, f"policy '{policy.id}' has no rule {name[:60]!r}: {known}")
