"""What a backend is asked, and what it hands back. There is no decision in here (see ``verdict``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    pass

__all__ = [
    "Assessment",
    "Failure",
    "FailureKind",
    "ModelIdentity",
    "Rating",
    "Reading",
    "Result",
    "Timings",
]


class Rating(StrEnum):
    """What the model says of one image under one policy."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    UNDECIDED = "undecided"


class Reading(StrEnum):
    """How much is read from the model: ``FAST`` scores, ``EXPLAIN`` also category and rationale."""

    FAST = "fast"
    EXPLAIN = "explain"


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered, and how it was run: all that its answers depend on, as cache keys rest on it.

    ``revision`` is a commit hash, or ``sha256:`` and the hash of the weights; ``None`` where only the name is
    known. ``settings`` holds what else changes answers, such as a bound on pixels, in one fixed wording.
    """

    id: str
    revision: str | None = None
    dialect: str = ""
    dialect_version: str = ""
    layout: str = ""
    dtype: str | None = None
    backend: str = ""
    world: str | None = None
    adapter: str | None = None
    quantisation: str | None = None
    backend_version: str = ""
    settings: str = ""

    def to_dict(self) -> dict[str, str | None]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Assessment:
    """Scores and text for one frame under one policy.

    ``p_unsafe`` is P(unsafe) normalised over the labels safe and unsafe, in [0, 1]; ``None`` where the
    server gives no probabilities (the rating then stands alone, nothing is invented). ``label_mass`` is
    what all the dialect's labels got before normalising, ``p_undecided`` the share of that mass on the
    label undecided (0 for dialects without one). ``rule_scores`` maps rule ids to P(rule | unsafe) when
    ``scoring`` is ``"joint"`` (rules compete) and to the rule's own probability when ``"per_rule"``;
    ``None`` when not read; ``category_mass`` is what all categories got before normalising. ``category`` is
    a rule id, or ``None``. ``blind_below``: where the server did not list all labels, the highest score that
    can hide in what it left out; a policy that decides at or below it must ask anew. ``unchecked``: rules
    that were not looked at; an image with any does not comply. ``stage``: of several guards in a row, the one
    that answered. ``cached``: no model was asked this time.
    """

    rating: Rating
    p_unsafe: float | None = None
    label_mass: float | None = None
    p_undecided: float = 0.0
    rule_scores: Mapping[str, float] | None = None
    category_mass: float | None = None
    scoring: Literal["joint", "per_rule"] = "joint"
    reading: Reading = Reading.FAST
    category: str | None = None
    rationale: str | None = None
    notes: tuple[str, ...] = ()
    blind_below: float = 0.0
    unchecked: tuple[str, ...] = ()
    stage: str = ""
    cached: bool = False

    def __post_init__(self) -> None:
        # An assessment may come back from JSON: a rating that is merely equal to one must be one.
        object.__setattr__(self, "rating", Rating(self.rating))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, for caches and logs."""
        scores = None if self.rule_scores is None else dict(self.rule_scores)
        return {name: getattr(self, name) for name in self.__slots__} | {
            "rule_scores": scores,
            "notes": list(self.notes),
            "unchecked": list(self.unchecked),
        }


class FailureKind(StrEnum):
    """Why there is no assessment."""

    UNSCANNABLE = "unscannable"
    REFUSED = "refused"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Failure:
    """No assessment for this frame, and the reason in one sentence. ``stage``: see ``Assessment``."""

    kind: FailureKind
    reason: str
    retryable: bool = False
    stage: str = ""


Result = Assessment | Failure


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent on one image; a batch's model time is shared out evenly."""

    decode: float = 0.0
    model: float = 0.0
    total: float = 0.0

    def to_dict(self) -> dict[str, float]:
        return {name: round(getattr(self, name), 6) for name in self.__slots__}
