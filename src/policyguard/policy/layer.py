"""What a policy file that builds on others may hold beside a policy's own fields."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from policyguard.outcomes import Action
from policyguard.policy.fields import (
    SEMVER,
    SLUG,
    Band,
    Line,
    Lines,
    Share,
    Signals,
    Text,
    Threshold,
    Title,
    Unjudged,
)
from policyguard.policy.schema import Calibration, Model, Rule, Status

__all__ = [
    "LAYER_FIELDS",
    "SECTIONS",
    "DefaultsChange",
    "Drop",
    "Head",
    "Items",
    "LayerRule",
    "Move",
    "Override",
]

SECTIONS = ("extends", "parameters", "rules", "replace", "overrides", "drop")
"""The fields that are not in ``Head``: each entry of theirs is checked by itself."""


class LayerRule(Rule):
    """A rule of a layer: new under ``rules``, or a new body for a known id under ``replace``."""

    weakens: Line | None = None

    def rule(self) -> Rule:
        """The rule by itself."""
        return Rule(**{name: getattr(self, name) for name in self.model_fields_set - {"weakens"}})


class Items(Model):
    """Items that join or leave a list."""

    add: Lines = ()
    remove: Lines = ()


class SignalItems(Model):
    """Signals that join or leave a rule's."""

    add: Signals = ()
    remove: Signals = ()


class Move(Model):
    """Items that go from one list of a rule to the other."""

    to_safe: Lines = ()
    to_unsafe: Lines = ()


class Override(Model):
    """Changes to single fields of an inherited rule; what it leaves out (``model_fields_set``) stays.

    A null threshold or action is the policy's default.
    """

    title: Title = ""
    description: Text = ""
    status: Status = Status.ACTIVE
    threshold: Threshold | None = None
    action: Action | None = None
    unsafe: Items = Items()
    safe: Items = Items()
    signals: SignalItems = SignalItems()
    move: Move = Move()
    weakens: Line | None = None


class Drop(Model):
    """An inherited rule that is left out."""

    id: str = Field(strict=True, pattern=f"^{SLUG}$")
    weakens: Line | None = None


class DefaultsChange(Model):
    """The defaults that a layer sets; what it leaves out (``model_fields_set``) is inherited."""

    threshold: Threshold = 0.5
    action: Action = Action.BLOCK
    undecided_band: Band | None = None
    min_label_mass: Share = 0.5
    frames: Literal["all", "sample"] = "all"
    without_scores: Literal["refuse", "ratings"] = "refuse"
    calibration: Calibration | None = None


class Head(Model):
    """Everything in a layer but rules, and what is done to rules."""

    id: str = Field(strict=True, pattern=f"^{SLUG}(/{SLUG}){{0,3}}$")
    version: str = Field(strict=True, pattern=SEMVER, max_length=64)
    title: Title | None = None
    description: Text = ""
    world: str | None = Field(default=None, strict=True, pattern=f"^{SLUG}$")
    defaults: DefaultsChange = DefaultsChange()
    outcomes: dict[Unjudged, Action] = Field(default_factory=dict)
    owner: Line | None = None
    licence: Line | None = None
    sources: Lines = ()
    weakens: Line | None = None


LAYER_FIELDS = (*SECTIONS, "weakens")
