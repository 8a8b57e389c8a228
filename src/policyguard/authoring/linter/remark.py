"""What lint says: a level, a code, a sentence, and the place it is about."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Level", "Remark", "Step"]

Step = str | int
"""Part of a path into a policy: a field, a rule's place, an item's place."""


class Level(StrEnum):
    """``ERROR``: the policy cannot be used, or contradicts itself. ``WARNING``: it hardly says what is meant.

    ``INFO``: worth a thought; many good policies have some.
    """

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def severity(self) -> int:
        """2 for error, 1 for warning, 0 for info."""
        return 2 - list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing worth saying. ``path`` leads to the value it is about; ``line`` and ``column`` are from 1."""

    level: Level
    code: str
    message: str
    path: tuple[Step, ...] = ()
    file: str | None = None
    line: int | None = None
    column: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        field = f"{self.field}: " if self.field else ""
        return f"{f'{place}: ' if place else ''}{self.level}: {field}{self.message} [{self.code}]"

    def to_dict(self) -> dict[str, Any]:
        names = ("level", "code", "message", "file", "line", "column", "field")
        return {name: getattr(self, name) for name in names}
