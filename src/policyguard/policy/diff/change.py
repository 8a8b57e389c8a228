"""What can change between two policies, and which way it works."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

__all__ = ["Change", "Effect", "Head", "Kind", "PolicyDiff"]


class Kind(StrEnum):
    """What happened. ``CHANGED`` is for all that is neither wording nor clearly milder or stricter."""

    ADDED = "added"
    REMOVED = "removed"
    WEAKENED = "weakened"
    STRENGTHENED = "strengthened"
    REWORDED = "reworded"
    MOVED = "moved"
    CHANGED = "changed"


class Effect(StrEnum):
    """Which way a change works. ``UNCLEAR``: only pictures can tell. ``NONE``: on no picture."""

    WEAKER = "weaker"
    STRONGER = "stronger"
    UNCLEAR = "unclear"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. ``rule`` is its id, ``None`` for the policy as a whole.

    ``before`` and ``after`` are as they stand in the policies, and ``None`` where there was nothing.
    """

    kind: Kind
    effect: Effect
    rule: str | None
    field: str
    before: str | None = None
    after: str | None = None

    @property
    def said(self) -> str:
        """The change in a few words, without the rule it is about."""
        if self.before is None or self.after is None:
            sign, text = ("+", self.after) if self.before is None else ("-", self.before)
            return f"{self.field}: {sign} {text}" if text else self.field
        return f"{self.field}: {self.before} -> {self.after}"

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Head:
    """Which policy was compared."""

    id: str
    version: str
    title: str
    fingerprint: str
    decision_fingerprint: str

    @classmethod
    def of(cls, policy: Any) -> Self:
        """The head of a ResolvedPolicy."""
        return cls(*(getattr(policy, name) for name in cls.__slots__))

    def __str__(self) -> str:
        return f"{self.id} {self.version}"

    def to_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """Every difference between two policies, in the order of the new one's rules.

    ``weakenings`` are the reasons for being weaker than what it extends that only the new policy gives.
    """

    before: Head
    after: Head
    changes: tuple[Change, ...]
    weakenings: tuple[str, ...] = ()

    @property
    def same_prompt(self) -> bool:
        """Whether a model reads the same, so that no score can differ."""
        return self.before.fingerprint == self.after.fingerprint

    @property
    def same_decisions(self) -> bool:
        """Whether the same scores lead to the same actions."""
        return self.before.decision_fingerprint == self.after.decision_fingerprint

    @property
    def weaker(self) -> bool:
        """Whether any change can let more pictures pass, as far as the text tells."""
        return any(change.effect is Effect.WEAKER for change in self.changes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "same_prompt": self.same_prompt,
            "same_decisions": self.same_decisions,
            "changes": [change.to_dict() for change in self.changes],
            "weakenings": list(self.weakenings),
        }
