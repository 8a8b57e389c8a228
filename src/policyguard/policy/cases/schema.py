"""What a file of policy tests holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from policyguard.policy.fields import SLUG, Band, Line, Lines, Share, fault, listed
from policyguard.verdict import Action, Outcome

__all__ = ["CaseFile", "Expectation", "ImageCase", "PairCase", "PolicyUnderTest"]

MAX_CASES = 5000
Parameter = str | int | float | bool


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _source(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


def _outcome(value: object) -> object:
    return {"outcome": value} if isinstance(value, str) else value


class PolicyUnderTest(_Model):
    """A policy: ``source`` is a file, from the cases' folder, or a packaged name. A lone text is a source."""

    source: Line
    parameters: Mapping[str, Parameter | None] = Field(default_factory=dict)


class Expectation(_Model):
    """What one policy should say of one image. What is left out is not looked at.

    ``findings``: the ids of exactly the rules that it breaks, in any order. ``score``: P(unsafe), give or
    take ``tolerance`` (default: the file's). ``between``: the least and the highest score, both included.
    ``xfail``: why it is known not to hold; it fails once it does. A lone text is an outcome.
    """

    outcome: Outcome | None = None
    action: Action | None = None
    findings: Lines | None = None
    score: Share | None = None
    tolerance: Share | None = None
    between: Band | None = None
    xfail: Line | None = None

    @model_validator(mode="after")
    def _expects_something(self) -> Self:
        if all(getattr(self, name) is None for name in ("outcome", "action", "findings", "score", "between")):
            raise fault(
                "expects_nothing", "expects nothing: give outcome, action, findings, score or between"
            )
        if self.tolerance is not None and self.score is None:
            raise fault("tolerance", "tolerance goes with `score:`, and there is none")
        return self


class ImageCase(_Model):
    """One image, and what each policy should say of it, by the policy's short name."""

    image: Line
    note: Line | None = None
    expect: Annotated[dict[str, Annotated[Expectation, BeforeValidator(_outcome)]], Field(min_length=1)]


class PairCase(_Model):
    """An edit pair: two images that differ in one place, of which one violates and the other complies.

    ``policies``: short names (default: all). ``rule``: what the unsafe one breaks. ``margin``: by how much
    its score must be higher.
    """

    unsafe: Line
    safe: Line
    note: Line | None = None
    policies: Lines | None = None
    rule: Line | None = None
    margin: Share = 0.0
    xfail: Line | None = None


class CaseFile(_Model):
    """Policies under short names, images with expectations, and edit pairs."""

    policies: Annotated[
        dict[
            Annotated[str, Field(strict=True, pattern=f"^{SLUG}$")],
            Annotated[PolicyUnderTest, BeforeValidator(_source)],
        ],
        Field(min_length=1),
    ]
    tolerance: Share = 0.05
    images: Annotated[tuple[ImageCase, ...], BeforeValidator(listed), Field(max_length=MAX_CASES)] = ()
    pairs: Annotated[tuple[PairCase, ...], BeforeValidator(listed), Field(max_length=MAX_CASES)] = ()

    @model_validator(mode="after")
    def _holds_cases(self) -> Self:
        if not self.images and not self.pairs:
            raise fault("no_cases", "there is nothing to test: list images under `images:` or `pairs:`")
        return self
