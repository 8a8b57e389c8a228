"""What a policy holds. ``load_policy`` reads one from YAML; ``Policy.from_dict`` takes plain values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from policyguard.errors import PolicyError
from policyguard.policy.fields import (
    SEMVER,
    SLUG,
    Band,
    Line,
    Lines,
    Share,
    Text,
    Threshold,
    Title,
    Unjudged,
    fault,
    listed,
)
from policyguard.verdict import Action, Outcome

if TYPE_CHECKING:
    from policyguard.policy.resolved import ResolvedPolicy

__all__ = ["MAX_RULES", "Defaults", "Policy", "Rule", "Status"]

MAX_RULES = 26
"""Rules are keyed A to Z in the prompt, so that a category is one token and its probability can be read."""


class Status(StrEnum):
    """``EXEMPT``: declared non-violating. ``SENSITIVE``: anything that touches the rule violates it."""

    ACTIVE = "active"
    EXEMPT = "exempt"
    SENSITIVE = "sensitive"


if TYPE_CHECKING:
    _Base = BaseModel
else:

    class _Checked(type(BaseModel)):
        """Turns pydantic's error into PolicyError when a model is built by hand."""

        def __call__(cls, *args, **values):
            try:
                return super().__call__(*args, **values)
            except ValidationError as error:
                from policyguard.policy.validate import explain

                raise PolicyError(explain(error, file=f"<{cls.__name__}>")) from None

    class _Base(BaseModel, metaclass=_Checked):
        pass


class _Model(_Base):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Model):
    """One category of a policy: what a picture must not show, and what it may show all the same.

    ``safe`` excuses only this rule and only what it describes. ``threshold`` in (0, 1] and ``action``
    override the policy's defaults for this rule.
    """

    id: str = Field(strict=True, pattern=f"^{SLUG}$")
    title: Title
    description: Text = ""
    unsafe: Lines = ()
    safe: Lines = ()
    status: Status = Status.ACTIVE
    threshold: Threshold | None = None
    action: Action | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.status is not Status.EXEMPT and not self.unsafe and not self.description:
            raise fault(
                "says_nothing",
                f"the rule '{self.id}' forbids nothing: list under `unsafe:` what must not be shown, "
                "or say it in `description:`",
            )
        return self


class Defaults(_Model):
    """What holds where a rule says nothing else.

    ``threshold``: P(unsafe) in (0, 1] from which an image violates. ``undecided_band``: scores from low to
    high, both included, are UNDECIDED. ``min_label_mass``: the share of the model's next-token probability
    that its answer labels must get; below it the answer is UNDECIDED. ``frames``: judge every frame of an
    animation, or a sample of them where there are too many.
    """

    threshold: Threshold = 0.5
    action: Action = Action.BLOCK
    undecided_band: Band | None = None
    min_label_mass: Share = 0.5
    frames: Literal["all", "sample"] = "all"


class Policy(_Model):
    """A versioned document: rules, defaults, and what to do when an image cannot be judged.

    ``world`` names the only kind of picture the policy is about (``"pictosafe"``); ``None`` is everything.
    ``outcomes`` gives actions for ``undecided``, ``refused``, ``unscannable`` and ``error``; what it leaves
    out blocks. ``owner``, ``licence`` and ``sources`` are for people: no model sees them.
    """

    id: str = Field(strict=True, pattern=f"^{SLUG}(/{SLUG}){{0,3}}$")
    version: str = Field(strict=True, pattern=SEMVER, max_length=64)
    title: Title
    description: Text = ""
    world: str | None = Field(default=None, strict=True, pattern=f"^{SLUG}$")
    rules: Annotated[tuple[Rule, ...], BeforeValidator(listed), Field(min_length=1, max_length=MAX_RULES)]
    defaults: Defaults = Defaults()
    outcomes: dict[Unjudged, Action] = Field(default_factory=dict)
    owner: Line | None = None
    licence: Line | None = None
    sources: Lines = ()

    @model_validator(mode="after")
    def _one_rule_per_id(self) -> Self:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise fault("duplicate_rule", f"two rules have the id '{rule.id}'")
            seen.add(rule.id)
        return self

    @classmethod
    def load(cls, source: str | Path) -> Policy:
        """The policy at a path, or packaged under a name; see ``load_policy``. Raises PolicyError."""
        from policyguard.policy.load import load_policy

        return load_policy(source)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Policy:
        """A policy from plain values, shaped as in the file. Raises PolicyError with every problem found."""
        from policyguard.policy.validate import validate

        return validate(data, file="<dict>")

    def resolve(self) -> ResolvedPolicy:
        """The flat, immutable form that guards work with."""
        from policyguard.policy.resolved import ResolvedPolicy

        outcomes = {outcome: Action.BLOCK for outcome in Outcome if not outcome.judged} | self.outcomes
        return ResolvedPolicy(
            id=self.id,
            version=self.version,
            title=self.title,
            description=self.description,
            world=self.world,
            rules=self.rules,
            threshold=self.defaults.threshold,
            action=self.defaults.action,
            undecided_band=self.defaults.undecided_band,
            min_label_mass=self.defaults.min_label_mass,
            frames=self.defaults.frames,
            outcomes={Outcome.COMPLIES: Action.ALLOW} | outcomes,
        )
