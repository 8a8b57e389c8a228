"""The kinds of values that policies hold: texts, lists of texts, shares, names."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from policyguard.outcomes import Outcome
from policyguard.strict.text import collapsed as one_line
from policyguard.strict.text import describe_character, find_forbidden, paragraphs

__all__ = [
    "SEMVER",
    "SLUG",
    "Band",
    "Line",
    "Lines",
    "Share",
    "Signals",
    "Text",
    "Threshold",
    "Title",
    "Unjudged",
    "listed",
    "schema_error",
]

SLUG = r"[a-z0-9][a-z0-9_-]{0,63}"
SEMVER = r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$"


def schema_error(kind: str, message: str) -> PydanticCustomError:
    """An error about a value, for validators to raise; ``message`` is shown as it stands."""
    return PydanticCustomError(kind, "{message}", {"message": message})


def _characters(text: str) -> str:
    index = find_forbidden(text)
    if index is not None:
        raise schema_error("refused_character", f"the character {describe_character(text[index])} is refused")
    return text


def _not_blank(text: str) -> str:
    if not text:
        raise schema_error("blank", "is empty")
    return text


def listed(value: object) -> tuple[object, ...]:
    """A list or a tuple as a tuple. Sets have no order, and a lone text would be taken apart by letters."""
    if not isinstance(value, (list, tuple)):
        raise schema_error("not_a_list", "expected a list")
    return tuple(value)


def _band(band: tuple[float, float]) -> tuple[float, float]:
    if band[0] > band[1]:
        raise schema_error("band", f"the low end comes first: [{band[1]:g}, {band[0]:g}]")
    return band


def _pair(value: object) -> object:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise schema_error("not_a_pair", "expected two numbers, such as [0.4, 0.6]")
    return tuple(value)


def _signal(name: str) -> str:
    sensor, slash, signal = name.partition("/")
    if not (re.fullmatch(SLUG, sensor) and slash and signal):
        raise schema_error(
            "not_a_signal", "is no signal: write SENSOR/SIGNAL, such as open-nsfw/nsfw (docs/sensors.md)"
        )
    return name


def _covers(outcome: Outcome) -> Outcome:
    if outcome.judged:
        raise schema_error(
            "judged_outcome",
            f"'{outcome}' cannot be set here: a violation's action comes from the rules and `defaults:`, "
            "and what complies is allowed",
        )
    return outcome


Line = Annotated[
    str,
    Field(strict=True, max_length=1000),
    AfterValidator(one_line),
    AfterValidator(_characters),
    AfterValidator(_not_blank),
]
Title = Annotated[Line, Field(max_length=200)]
Text = Annotated[
    str, Field(strict=True, max_length=8000), AfterValidator(paragraphs), AfterValidator(_characters)
]
Lines = Annotated[tuple[Line, ...], BeforeValidator(listed), Field(max_length=200)]
_Signal = Annotated[Line, AfterValidator(_signal)]
Signals = Annotated[tuple[_Signal, ...], BeforeValidator(listed), Field(max_length=200)]
Threshold = Annotated[float, Field(strict=True, gt=0.0, le=1.0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0.0, le=1.0, allow_inf_nan=False)]
Band = Annotated[tuple[Share, Share], BeforeValidator(_pair), AfterValidator(_band)]
Unjudged = Annotated[Outcome, AfterValidator(_covers)]
