"""The parts of a policy: rules, defaults, and where each part of a composed policy comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from policyguard.errors import PolicyError
from policyguard.outcomes import Action
from policyguard.policy.fields import (
    SLUG,
    Band,
    Line,
    Lines,
    Share,
    Signals,
    Text,
    Threshold,
    Title,
    schema_error,
)
from policyguard.policy.hints import POLICY
from policyguard.strict.explain import capped, explain

__all__ = [
    "MAX_RULES",
    "Calibration",
    "Defaults",
    "Model",
    "Origin",
    "Provenance",
    "Rule",
    "Status",
    "Weakening",
]


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that said it last, and the line from 1; ``None`` for what was given as plain values."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Weakening:
    """One change that can loosen or reword what a base forbids, with the reason its author gives.

    ``policy`` is the id of the policy that makes the change, ``change`` names it.
    """

    policy: str
    change: str
    reason: str
    file: str
    line: int | None = None

    def to_dict(self) -> dict[str, str]:
        """For evidence: no path, which would name somebody's folders."""
        return {"policy": self.policy, "change": self.change, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a policy came to be; nothing in it is judged.

    ``pieces``: the description, base by base. ``parameters``: the values filled into the texts.
    """

    pieces: tuple[str, ...] = ()
    origins: Mapping[str, Origin] = field(default_factory=dict)
    weakenings: tuple[Weakening, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)


MAX_RULES = 26
"""Rules are keyed A to Z in the prompt, so that a category is one token and its probability can be read."""


class Status(StrEnum):
    """``EXEMPT``: declared non-violating. ``SENSITIVE``: anything that touches the rule violates it."""

    ACTIVE = "active"
    EXEMPT = "exempt"
    SENSITIVE = "sensitive"


class Model(BaseModel):
    """Frozen, without unknown fields; built by hand, it raises PolicyError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers see the fields as arguments

        def __init__(self, /, **values):
            try:
                super().__init__(**values)
            except ValidationError as error:
                problems = explain(error, type(self), f"<{type(self).__name__}>", hints=POLICY)
                raise PolicyError(capped(problems)) from None

        # So that pydantic validates nested models itself and reports all their errors together.
        __init__.__pydantic_base_init__ = True


class Rule(Model):
    """One category of a policy: what an image must not show, and what it may show all the same.

    ``safe`` excuses only this rule and only what it describes. ``threshold`` in (0, 1] and ``action``
    override the policy's defaults for this rule. ``signals``: where a guard that reads no policy looks for
    what the rule forbids, as ``SENSOR/SIGNAL``; no model sees them.
    """

    id: str = Field(strict=True, pattern=f"^{SLUG}$")
    title: Title
    description: Text = ""
    unsafe: Lines = ()
    safe: Lines = ()
    signals: Signals = ()
    status: Status = Status.ACTIVE
    threshold: Threshold | None = None
    action: Action | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status is not Status.EXEMPT and not self.unsafe and not self.description:
            raise schema_error(
                "says_nothing",
                f"the rule '{self.id}' forbids nothing: list under `unsafe:` what must not be shown, "
                "or say it in `description:`",
            )
        return self


_Digest = Annotated[str, Field(strict=True, pattern="^[0-9a-f]{64}$")]


class Calibration(Model):
    """How far to trust one model's scores under one policy: score = logistic(slope * log-odds + intercept).

    Platt scaling (Platt 1999), or temperature scaling with ``intercept`` 0 (Guo et al. 2017). ``model`` is
    the digest of what was measured and ``policy`` the policy's fingerprint: it holds for no other. ``name``,
    ``data`` (SHA-256 of the labels) and ``images`` are for people.
    """

    model: _Digest
    policy: _Digest
    slope: Annotated[float, Field(strict=True, gt=0.0, le=1000.0, allow_inf_nan=False)]
    intercept: Annotated[float, Field(strict=True, ge=-1000.0, le=1000.0, allow_inf_nan=False)] = 0.0
    name: Line
    data: _Digest
    images: Annotated[int, Field(strict=True, ge=1)]

    def apply(self, score: float) -> float:
        """The calibrated score, which rises with ``score``; 0 and 1 stay what they are."""
        if not 0.0 < score < 1.0:
            return score
        return _logistic(self.slope * math.log(score / (1.0 - score)) + self.intercept)

    def undo(self, score: float) -> float:
        """The model's own score that ``apply`` makes ``score`` of."""
        if not 0.0 < score < 1.0:
            return score
        return _logistic((math.log(score / (1.0 - score)) - self.intercept) / self.slope)

    def __str__(self) -> str:
        return f"slope {self.slope:g}, intercept {self.intercept:g}, for {self.name} ({self.images} images)"


def _logistic(odds: float) -> float:
    if odds >= 0.0:
        return 1.0 / (1.0 + math.exp(-odds))
    share = math.exp(odds)
    return share / (1.0 + share)


class Defaults(Model):
    """What holds where a rule says nothing else.

    ``threshold``: P(unsafe) in (0, 1] from which an image violates. ``undecided_band``: scores from low to
    high, both included, are UNDECIDED. ``min_label_mass``: the share of the model's next-token probability
    that its answer labels must get; below it the answer is UNDECIDED. ``frames``: judge every frame of an
    animation, or a sample of them where there are too many. ``without_scores``: where scores below 0.5 decide
    and a server gives ratings alone, refuse it, or let ratings stand in for scores. ``calibration``: what
    is done to a model's scores before thresholds and bands are looked at (``policyguard calibrate``).
    """

    threshold: Threshold = 0.5
    action: Action = Action.BLOCK
    undecided_band: Band | None = None
    min_label_mass: Share = 0.5
    frames: Literal["all", "sample"] = "all"
    without_scores: Literal["refuse", "ratings"] = "refuse"
    calibration: Calibration | None = None
