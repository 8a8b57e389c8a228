"""What authors of policies write when they mean a field of ours, and what to tell them about each mistake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from policyguard.outcomes import Outcome
from policyguard.strict.explain import Hints, not_one_of, seen

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["POLICY", "number_meant"]

_SYNONYMS = {
    "on": "outcomes",
    "name": "title",
    "text": "description",
    "categories": "rules",
    "policies": "rules",
    "forbidden": "unsafe",
    "disallowed": "unsafe",
    "should_not": "unsafe",
    "must_not": "unsafe",
    "must_not_show": "unsafe",
    "allowed": "safe",
    "exceptions": "safe",
    "can": "safe",
    "may": "safe",
    "may_show": "safe",
    "author": "owner",
    "references": "sources",
    "extend": "extends",
    "include": "extends",
    "includes": "extends",
    "import": "extends",
    "override": "overrides",
    "remove": "drop",
    "reason": "weakens",
    "params": "parameters",
    "variables": "parameters",
}
_MEANT = {
    "block": ("deny", "denied", "reject", "refuse", "forbid", "ban", "stop", "remove", "delete"),
    "flag": (
        "warn",
        "warning",
        "review",
        "report",
        "log",
        "mark",
        "alert",
        "watch",
        "hold",
        "queue",
        "escalate",
    ),
    "allow": ("pass", "permit", "accept", "ignore", "ok", "safe"),
    "exempt": ("off", "disabled", "inactive", "ignored", "allowed"),
    "active": ("on", "enabled", "live"),
}
"""What authors call an action or a status of ours."""
_EXAMPLES = {
    "id": "`id: house-rules`",
    "version": "`version: 1.0.0`",
    "title": "`title: a short name for people`",
    "rules": "`rules:` with at least one rule under `- id:`",
}


def _message(item: ErrorDetails) -> str | None:
    kind, path, value = item["type"], item["loc"], item["input"]
    field = path[-1] if path else None
    if kind == "missing" and field == "id" and len(path) == 3:
        return _missing_id(path, value)
    if kind == "enum" and field == "[key]":
        return not_one_of(value, [outcome.value for outcome in Outcome if not outcome.judged])
    if kind == "enum" and isinstance(value, str):
        words = re.findall(r"'([^']+)'", str(item["ctx"]["expected"]))
        meant = [word for word in words if value.lower() in _MEANT.get(word, ())]
        return not_one_of(value, words, meant[0] if meant else None)
    if (number := number_meant(kind, value)) is not None:
        return f"expected a number from 0 to 1, found {seen(value)}: write {number}"
    if kind == "model_type" and field in ("unsafe", "safe") and path[0] == "overrides":
        return (
            f"expected a mapping, found {seen(value)}: put the items under `add:` or `remove:`, or repeat "
            "the whole rule under `replace:`"
        )
    if kind == "model_type" and len(path) == 2 and path[0] == "drop" and isinstance(value, str):
        return f"expected a mapping, found {seen(value)}: put `id:` before it and `weakens:` below it"
    if kind == "string_pattern_mismatch":
        return _bad_pattern(field, str(value))
    if field == "version" and kind == "string_type":
        return f"expected three numbers such as 1.0.0, found {seen(value)}"
    if field in ("id", "title") and kind == "string_type" and value is None:
        return "expected text, found nothing: write one"
    if field == "rules" and kind == "not_a_list" and isinstance(value, Mapping):
        return "expected a list, found a mapping: start each rule with `- id:`"
    if field == "rules" and kind == "too_short":
        return "needs at least one rule"
    if field == "rules" and kind == "too_long":
        most = item["ctx"]["max_length"]
        return f"{len(value)} rules are more than one policy can hold ({most}): split it into two policies"
    return None


def number_meant(kind: str, value: object) -> str | None:
    """The number from 0 to 1 that an author meant by ``"0.4"``, ``0,4``, ``40%`` or ``40``."""
    if kind == "less_than_equal" and isinstance(value, (int, float)) and 2 <= value <= 100:
        return f"{value / 100:g}"
    match = re.fullmatch(r"(\d{1,3}(?:[.,]\d{1,9})?) ?(%?)", value) if isinstance(value, str) else None
    if kind not in ("float_type", "float_parsing") or match is None:
        return None
    number = float(match[1].replace(",", "."))
    number /= 100 if match[2] or number >= 2 else 1
    return f"{number:g}" if 0 < number <= 1 else None


def _missing_id(path: tuple[int | str, ...], rule: object) -> str:
    if path[0] == "drop":
        return "is missing: add `id:` with the id of the rule that is dropped"
    number = int(path[1]) + 1
    title = rule.get("title", "") if isinstance(rule, Mapping) else ""
    slug = "-".join(re.findall(r"[a-z0-9]+", str(title)[:200].lower())[:4])[:64]
    return f"rule {number} has no id: add `id: {slug or f'rule-{number}'}`"


def _bad_pattern(field: object, value: str) -> str:
    text = seen(value).removeprefix("the text ")
    if field == "version":
        return f"{text} is not a version: write three numbers, such as 1.0.0"
    slug = "-".join(re.findall(r"[a-z0-9_]+", value[:200].lower()))[:64].strip("-_")
    return f"{text} is not a name for programs: use a-z, 0-9, - and _{f', such as {slug}' if slug else ''}"


POLICY = Hints(synonyms=_SYNONYMS, examples=_EXAMPLES, homes={"rules": "in a rule"}, message=_message)
"""For models built by hand; files have more keys at the top."""
