"""How the policy tests went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from policyguard.verdict import Verdict

__all__ = [
    "CaseReport",
    "CaseResult",
    "Status",
]


class Status(StrEnum):
    """``ERROR``: the model or its server failed. ``XPASSED``: it was known to fail, and holds."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    XFAILED = "xfailed"
    XPASSED = "xpassed"

    @property
    def good(self) -> bool:
        """Whether it leaves a run green."""
        return self in (Status.PASSED, Status.XFAILED)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One image, or one pair, under one policy.

    ``policy`` is its short name in the file; ``failures`` say what was expected and what was found; ``line``
    is where the case stands; ``verdicts`` are one, or those of the unsafe and the safe image.
    """

    name: str
    policy: str
    status: Status
    failures: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    xfail: str | None = None
    note: str | None = None
    line: int | None = None

    @property
    def seconds(self) -> float:
        return sum(verdict.evidence.timings.total for verdict in self.verdicts)

    @property
    def messages(self) -> tuple[str, ...]:
        """What is not as expected, a line each."""
        if self.status is Status.XPASSED:
            return (f"this holds now: delete `xfail:` ({self.xfail})",)
        reasons = tuple(verdict.reason for verdict in self.verdicts if verdict.reason)
        return (reasons or self.failures) if self.status is Status.ERROR else self.failures

    def to_dict(self) -> dict[str, Any]:
        names = ("name", "policy", "status", "xfail", "note", "line")
        return {name: getattr(self, name) for name in names} | {
            "failures": list(self.failures),
            "found": [
                {
                    "outcome": verdict.outcome,
                    "action": verdict.action,
                    "score": verdict.score,
                    "findings": [finding.rule for finding in verdict.findings if finding.violates],
                    "reason": verdict.reason,
                }
                for verdict in self.verdicts
            ],
        }


@dataclass(frozen=True, slots=True)
class CaseReport:
    """All results, in the order of the file: images first, then pairs."""

    file: str
    model: str
    policies: dict[str, str]
    results: tuple[CaseResult, ...]
    asked: int
    seconds: float

    @property
    def counts(self) -> Counter[Status]:
        return Counter(result.status for result in self.results)

    @property
    def passed(self) -> bool:
        """Whether everything is as expected, or fails as it is known to."""
        return bool(self.results) and all(result.status.good for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "model": self.model,
            "policies": self.policies,
            "passed": self.passed,
            "counts": {status.value: self.counts[status] for status in Status},
            "asked": self.asked,
            "results": [result.to_dict() for result in self.results],
        }
