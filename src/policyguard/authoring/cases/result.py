"""How the policy tests went.

A report as JUnit XML, which CI systems show: one suite, one case per image or pair and policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from policyguard.verdict import Verdict

__all__ = [
    "CaseReport",
    "CaseResult",
    "Status",
    "junit",
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


def junit(report: CaseReport) -> str:
    """The XML text. Expected failures count as skipped; those that pass after all, as failures."""
    counts = report.counts
    totals = {
        "tests": len(report.results),
        "failures": counts[Status.FAILED] + counts[Status.XPASSED],
        "errors": counts[Status.ERROR],
        "skipped": counts[Status.XFAILED],
        "time": f"{report.seconds:.3f}",
    }
    return "\n".join(
        [
            '<?xml version="1.0" encoding="utf-8"?>',
            f"<testsuites {_attributes(totals)}>",
            f"<testsuite {_attributes({'name': report.file} | totals)}>",
            *(line for result in report.results for line in _case(result, report)),
            "</testsuite>",
            "</testsuites>",
            "",
        ]
    )


def _case(result: CaseResult, report: CaseReport) -> Iterator[str]:
    head: dict[str, object] = {"classname": result.policy, "name": result.name, "file": report.file}
    if result.line is not None:
        head["line"] = result.line
    yield f"<testcase {_attributes(head | {'time': f'{result.seconds:.3f}'})}>"
    text = "; ".join(result.failures)
    if result.status is Status.FAILED:
        yield f"<failure {_attributes({'message': text})}>{escape(_clean(result.note or ''))}</failure>"
    elif result.status is Status.XPASSED:
        message = f"this holds now: delete `xfail:` ({result.xfail})"
        yield f"<failure {_attributes({'message': message})}/>"
    elif result.status is Status.ERROR:
        reasons = "; ".join(filter(None, (verdict.reason for verdict in result.verdicts)))
        yield f"<error {_attributes({'message': reasons or text})}/>"
    elif result.status is Status.XFAILED:
        yield f"<skipped {_attributes({'message': f'xfail: {result.xfail} ({text})'})}/>"
    yield "</testcase>"


def _attributes(values: dict[str, object]) -> str:
    return " ".join(f"{name}={quoteattr(_clean(str(value)))}" for name, value in values.items())


def _clean(text: str) -> str:
    """Without what XML cannot hold, as an escape: control characters and halves of characters."""
    return "".join(
        char if char == "\n" or char.isprintable() else char.encode("unicode_escape").decode()
        for char in text
    )
