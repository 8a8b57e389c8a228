"""What a policy holds. ``load_policy`` reads one from YAML; ``parse_policy`` takes plain values."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

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
from policyguard.policy.provenance import Origin, Provenance, Weakening
from policyguard.verdict import Action, Outcome

if TYPE_CHECKING:
    from policyguard.policy.resolved import ResolvedPolicy

__all__ = ["MAX_RULES", "Defaults", "Model", "Policy", "Rule", "Status"]

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
                from policyguard.policy.validate import explain

                raise PolicyError(explain(error, file=f"<{type(self).__name__}>")) from None

        # So that pydantic validates nested models itself and reports all their errors together.
        __init__.__pydantic_base_init__ = True


class Rule(Model):
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


class Defaults(Model):
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


class Policy(Model):
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
    _provenance: Provenance = PrivateAttr(default_factory=Provenance)

    @model_validator(mode="after")
    def _one_rule_per_id(self) -> Self:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise fault("duplicate_rule", f"two rules have the id '{rule.id}'")
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
            weakenings=self.weakenings,
            parameters=self.parameters,
        )
