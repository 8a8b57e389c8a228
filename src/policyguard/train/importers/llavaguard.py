"""LlavaGuard's rows: a rating, a category O1 to O9, a rationale, under policies that vary from row to row.

The same image appears under the default policy and under others, where categories are declared
non-violating or sensitive or are left out. Which, is read out of the row's ``policy`` text, and written as
the packaged policy with those changes, so that a label and the policy it holds under stay together.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

from policyguard.dialects.llavaguard import RATINGS
from policyguard.policy import ResolvedPolicy
from policyguard.policy.schema import Status
from policyguard.strict.explain import seen
from policyguard.strict.jsontext import JsonError, parse_json
from policyguard.strict.tables import BadRowError, Record, first_of, image_cell, label_of, text_of
from policyguard.train.data import Label
from policyguard.train.importers.images import ImageStore
from policyguard.train.importers.record import Draft

__all__ = ["LlavaGuard"]

_CATEGORY = re.compile(r"\s*o\s?([1-9])\b", re.IGNORECASE)
_NONE = re.compile(r"\s*(na\b|n/a|10\b|none applying|none$)", re.IGNORECASE)
Change = Literal["exempt", "sensitive", "left out"]


class LlavaGuard:
    """Reads rows under ``policy``, called ``name``, and under what the rows make of it."""

    def __init__(self, name: str, policy: ResolvedPolicy, store: ImageStore) -> None:
        self._name = name
        self._policy = policy
        self._store = store
        self._rules = {
            match[1]: rule.id for rule in policy.rules if (match := _CATEGORY.match(rule.title or rule.id))
        }
        self._resolved: dict[str, ResolvedPolicy] = {}

    def read(self, record: Record) -> Draft:
        """One row. Raises BadRowError."""
        answer = _assessment(record)
        field, rating, stated = self._rating(record, answer)
        label = label_of(field, rating, RATINGS)
        name, policy = self._policy_of(text_of(record, "policy"))
        category = self._category(text_of(record, "category", "image-category") or answer.get("category"))
        known = {rule.id: rule.status for rule in policy.rules}
        if category is not None and known.get(category) in (None, Status.EXEMPT):
            if label == "unsafe":
                raise BadRowError(
                    "category", f"rated unsafe for '{category}', which this row's policy does not forbid"
                )
            category = category if category in known else None
        severity = rating if " ".join(str(rating).lower().split()) not in ("safe", "unsafe") else None
        rationale = text_of(record, "rationale", "explanation") or answer.get("rationale")
        return Draft(
            image_cell(record, self._store.folder),
            name,
            policy,
            label,
            category=category,
            rationale=rationale,
            rationale_rating=stated if rationale else None,
            severity=severity,
        )

    def _rating(self, record: Record, answer: dict[str, Any]) -> tuple[str, Any, Label | None]:
        """The column to go by, what it says, and what a model's own answer says, where the row holds one.

        The severity is the finest, and must agree with the rating.
        """
        own_rating = label_of("assessment", answer["rating"], RATINGS) if answer else None
        stated = text_of(record, "rating", "decision", "safety_label")
        severity = text_of(record, "severity")
        if severity is not None:
            label = label_of("severity", severity, RATINGS)
            if stated is not None and label_of("rating", stated, RATINGS) != label:
                raise BadRowError("severity", f"{severity!r} contradicts the rating {stated!r}")
            return "severity", severity, own_rating
        if stated is None and answer:
            return "assessment", answer["rating"], own_rating
        return *first_of(record, "rating", "decision", "safety_label"), own_rating

    def _category(self, text: Any) -> str | None:
        if text is None or (isinstance(text, str) and _NONE.match(text)):
            return None
        match = _CATEGORY.match(text) if isinstance(text, str) else None
        if match is None or match[1] not in self._rules:
            raise BadRowError("category", f"expected O1 to O9 or NA, found {seen(text)}")
        return self._rules[match[1]]

    def _policy_of(self, text: str | None) -> tuple[str, ResolvedPolicy]:
        """The packaged policy, with what ``text`` declares."""
        if text is None:
            return self._name, self._policy
        changes: dict[str, Change] = {}
        for number, rule in sorted(self._rules.items()):
            declared = re.search(
                rf"\bO{number}\b[^\n]{{0,60}}?\bdeclared as (non-violating|sensitive)", text, re.IGNORECASE
            )
            if declared is not None:
                changes[rule] = "sensitive" if declared[1].lower() == "sensitive" else "exempt"
            elif re.search(rf"^\W*O{number}\s*:", text, re.IGNORECASE | re.MULTILINE) is None:
                changes[rule] = "left out"
        if not changes:
            return self._name, self._policy
        if all(change == "left out" for change in changes.values()) and len(changes) == len(self._rules):
            raise BadRowError("policy", "speaks of none of the categories O1 to O9")
        name = f"{self._name} with " + ", ".join(f"{rule} {change}" for rule, change in changes.items())
        if name not in self._resolved:
            rules = tuple(
                rule.model_copy(update={"status": _STATUS[changes[rule.id]]}) if rule.id in changes else rule
                for rule in self._policy.rules
                if changes.get(rule.id) != "left out"
            )
            self._resolved[name] = replace(self._policy, rules=rules)
        return f"#{name}", self._resolved[name]


_STATUS = {"exempt": Status.EXEMPT, "sensitive": Status.SENSITIVE}


def _assessment(record: Record) -> dict[str, Any]:
    """The JSON answer of a training row, where it holds one."""
    text = text_of(record, "assessment", "answer")
    if text is None:
        return {}
    try:
        answer = parse_json(text)
    except JsonError:
        answer = None
    if not isinstance(answer, dict) or "rating" not in answer:
        raise BadRowError("assessment", "is not a JSON object with a rating")
    return answer
