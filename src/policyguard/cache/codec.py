"""Assessments as JSON, and back by one strict rule.

Covered: whatever is not exactly what is written here raises ValueError: missing and additional fields, other
types, unknown ratings, NaN, infinities and numbers outside of [0, 1]. Whether scores suit a policy is not
asked here, see ``keys.holds_enough``.
"""

from __future__ import annotations

import json
from typing import Any

from policyguard.assessment import Assessment, Rating, Reading
from policyguard.strict.jsontext import parse_json

__all__ = ["LARGEST", "decode", "encode", "from_fields", "to_fields"]

LARGEST = 1 << 16
"""Characters; a fast assessment takes some hundred."""
_SLACK = 1e-3
_SCORINGS = ("joint", "per_rule")
_FIELDS = frozenset(Assessment.__slots__) - {"cached", "stage"}
"""Always there; ``stage`` only where it says something."""


def encode(assessment: Assessment) -> str:
    """One line of ASCII. Raises ValueError for what ``decode`` would not take."""
    try:
        text = json.dumps(to_fields(assessment), allow_nan=False, sort_keys=True, separators=(",", ":"))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not an assessment that can be stored: {error}") from None
    decode(text)
    return text


def decode(text: str) -> Assessment:
    """The assessment, marked as cached. Raises ValueError."""
    if len(text) > LARGEST:
        raise ValueError("an assessment that long is not one")
    return from_fields(parse_json(text))


def to_fields(assessment: Assessment) -> dict[str, Any]:
    """All that is stored of ``assessment``, JSON-ready."""
    fields = _FIELDS | {"stage"} if assessment.stage else _FIELDS
    return {name: value for name, value in assessment.to_dict().items() if name in fields}


def from_fields(fields: Any) -> Assessment:
    """The assessment that ``to_fields`` gave ``fields`` of, marked as cached. Raises ValueError."""
    if not isinstance(fields, dict) or fields.keys() - {"stage"} != _FIELDS:
        raise ValueError("not the fields of an assessment")
    scores, notes = fields["rule_scores"], fields["notes"]
    if scores is not None and not isinstance(scores, dict):
        raise ValueError("rule_scores is not a mapping")
    unchecked = fields["unchecked"]
    if not isinstance(notes, list) or not isinstance(unchecked, list):
        raise ValueError("notes or unchecked is not a list")
    if fields["scoring"] not in _SCORINGS:
        raise ValueError("not a scoring")
    return Assessment(
        rating=Rating(fields["rating"]),
        p_unsafe=_share(fields["p_unsafe"]),
        label_mass=_share(fields["label_mass"]),
        p_undecided=_number(fields["p_undecided"]),
        rule_scores=None if scores is None else {rule: _number(score) for rule, score in scores.items()},
        category_mass=_share(fields["category_mass"]),
        scoring=fields["scoring"],
        reading=Reading(fields["reading"]),
        category=_text(fields["category"]),
        rationale=_text(fields["rationale"]),
        notes=tuple(_note(note) for note in notes),
        blind_below=_number(fields["blind_below"]),
        unchecked=tuple(_note(rule) for rule in unchecked),
        stage=_note(fields.get("stage", "")),
        cached=True,
    )


def _number(value: Any) -> float:
    # `not 0 <= x`, so that a NaN does not slip through; 1e999 reads as infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0 + _SLACK:
        raise ValueError("its scores are not probabilities")
    return float(value)


def _share(value: Any) -> float | None:
    return None if value is None else _number(value)


def _note(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("its category, rationale and notes must be texts")
    return value


def _text(value: Any) -> str | None:
    return None if value is None else _note(value)
