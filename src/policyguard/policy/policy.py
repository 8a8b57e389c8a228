"""A policy as its author writes it, flat and validated."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from policyguard.errors import PolicyError, Problem
from policyguard.outcomes import Action, Outcome
from policyguard.policy.fields import (
    SEMVER,
    SLUG,
    Line,
    Lines,
    Text,
    Title,
    Unjudged,
    listed,
    schema_error,
)
from policyguard.policy.schema import MAX_RULES, Defaults, Model, Origin, Provenance, Rule, Weakening

if TYPE_CHECKING:
    from policyguard.policy.resolved import ResolvedPolicy


class Policy(Model):
    """A versioned document: rules, defaults, and what to do when an image cannot be judged.

    ``world`` names the only kind of image the policy is about (``"pictosafe"``); ``None`` is everything.
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
    _provenance: Provenance = PrivateAttr(default_factory=Provenance)

    @model_validator(mode="after")
    def _one_rule_per_id(self) -> Self:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise schema_error("duplicate_rule", f"two rules have the id '{rule.id}'")
            seen.add(rule.id)
        return self

    @property
    def origins(self) -> Mapping[str, Origin]:
        """Where each part was said last: ``"title"``, ``"defaults.action"``, ``"rules.arms.unsafe[0]"``."""
        return MappingProxyType(dict(self._provenance.origins))

    @property
    def weakenings(self) -> tuple[Weakening, ...]:
        """Every change on the way that can loosen or reword what a base forbids, with its reason."""
        return self._provenance.weakenings

    @property
    def parameters(self) -> Mapping[str, str]:
        """The values that were filled into the texts."""
        return MappingProxyType(dict(self._provenance.parameters))

    @property
    def provenance(self) -> Provenance:
        """All of these, and the parts of the description."""
        return self._provenance

    def with_provenance(self, provenance: Provenance) -> Policy:
        """A copy that knows how it came to be. Composition makes it; it changes nothing that is judged."""
        copy = self.model_copy()
        copy._provenance = provenance  # noqa: SLF001 (a copy of our own)
        return copy

    def __eq__(self, other: object) -> bool:
        """Whether both say the same; where it was said does not count."""
        return isinstance(other, Policy) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # it holds a dict

    def resolve(self) -> ResolvedPolicy:
        """The flat, immutable form that guards work with."""
        from policyguard.policy.resolved import ResolvedPolicy

        calibration = self.defaults.calibration
        outcomes = {outcome: Action.BLOCK for outcome in Outcome if not outcome.judged} | self.outcomes
        resolved = ResolvedPolicy(
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
            without_scores=self.defaults.without_scores,
            calibration=calibration,
            outcomes={Outcome.COMPLIES: Action.ALLOW} | outcomes,
            weakenings=self.weakenings,
            parameters=self.parameters,
        )
        if calibration is not None and calibration.policy != resolved.fingerprint:
            message = (
                f"was measured on another text of this policy (fingerprint {calibration.policy[:16]}, "
                f"and this is {resolved.fingerprint[:16]})"
            )
            raise PolicyError(
                [Problem(message, self.id, field="defaults.calibration")],
                hint="measure it again with `policyguard calibrate`, or set `calibration: null`",
            )
        return resolved
