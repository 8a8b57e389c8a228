"""Where each part of a composed policy comes from, and why it is weaker than what it builds on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Origin", "Provenance", "Weakening"]


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
