"""What an examination of a server found: remarks, each with what to do, and the server's speed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Examination", "Level", "Remark", "Speed"]


class Level(StrEnum):
    """How bad: fine, worth knowing, or in the way of sound verdicts."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was looked at: what it is, and what to do about it."""

    check: str
    level: Level
    says: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Speed:
    """Median milliseconds of one fast reading of a new picture, and of the policy's first one."""

    first_ms: float
    cached_ms: float
    readings: int


@dataclass(slots=True)
class Examination:
    """All remarks, in the order in which things were looked at. It ends early where nothing more can work."""

    host: str
    model: str | None = None
    remarks: list[Remark] = field(default_factory=list)
    speed: Speed | None = None

    @property
    def healthy(self) -> bool:
        return all(remark.level is not Level.PROBLEM for remark in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        speed = None if self.speed is None else asdict(self.speed)
        remarks = [asdict(remark) for remark in self.remarks]
        return {
            "host": self.host,
            "model": self.model,
            "healthy": self.healthy,
            "remarks": remarks,
            "speed": speed,
        }

    def add(self, check: str, level: Level, says: str, fix: str = "") -> None:
        self.remarks.append(Remark(check, level, says, fix))
