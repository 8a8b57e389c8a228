"""A report as JUnit XML, which CI systems show: one suite, one case per image or pair and policy."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from policyguard.policy.cases.result import CaseReport, CaseResult, Status

__all__ = ["junit"]


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
