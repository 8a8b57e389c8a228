"""JUnit XML, for the test reports of build servers: of a run over images, and of policy tests.

A test case per image, a suite per set of policies. A violation is a failure; what could not be judged, was
not checked, or is wrong with the set-up is an error; what the baseline accepts is skipped. A flagged image is
a case that passes, and is named in the suite's output. Of policy tests, a known failure is skipped, and one
that holds after all is a failure.

Covered: valid under the schemas of Ant and of Jenkins (policy tests also say in which line each case stands);
XML cannot hold most control characters, and they are written as visible escapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from policyguard.authoring.cases.result import Status
from policyguard.runs.reports.text import accepted_by, reason_line, violations, visible_line
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary
from policyguard.strict.files import Spool, write_report

if TYPE_CHECKING:
    from policyguard.authoring.cases import CaseReport

__all__ = ["JUnitReport", "write_cases"]

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
_COUNTS = {"failure": "failures", "error": "errors", "skipped": "skipped"}
"""The elements in a test case, and the attributes that count them."""
_CASE_ELEMENTS = {
    Status.FAILED: "failure",
    Status.XPASSED: "failure",
    Status.ERROR: "error",
    Status.XFAILED: "skipped",
}


class _Suite:
    """Test cases that are counted."""

    def __init__(self, name: str) -> None:
        self.name = visible_line(name)
        self.cases, self.output = Spool(), Spool()
        self.counts = {"tests": 0} | dict.fromkeys(_COUNTS.values(), 0)
        self.seconds = 0.0

    @property
    def totals(self) -> dict[str, str]:
        return {name: str(count) for name, count in self.counts.items()} | {"time": f"{self.seconds:.3f}"}

    def add(
        self,
        name: str,
        *,
        seconds: float = 0.0,
        element: str = "",
        message: str = "",
        details: str = "",
        type: str = "",  # noqa: A002 (the attribute's name)
        **attributes: str,
    ) -> None:
        """A case, with an ``element`` of ``_COUNTS`` in it unless it passed."""
        self.counts["tests"] += 1
        self.seconds += seconds
        attributes = {"classname": self.name, "name": name} | attributes | {"time": f"{seconds:.3f}"}
        case = f"<testcase{_attributes(attributes)}"
        if not element:
            self.cases.append(f"{case}/>")
            return
        self.counts[_COUNTS[element]] += 1
        start = element + _attributes(({"type": type} if type else {}) | {"message": message})
        inner = f"<{start}>{escape(details)}</{element}>" if details else f"<{start}/>"
        self.cases.append(f"{case}>{inner}</testcase>")

    def close(self) -> None:
        self.cases.close()
        self.output.close()


def write_cases(path: Path, report: CaseReport) -> None:
    """Write the report on a file of policy tests: one suite, a case per image or pair and policy."""
    suite = _Suite(report.file)
    for result in report.results:
        message = "; ".join(result.messages)
        if result.status is Status.XFAILED:
            message = f"xfail: {result.xfail} ({message})"
        suite.add(
            result.name,
            seconds=result.seconds,
            element=_CASE_ELEMENTS.get(result.status, ""),
            message=message,
            details=visible_line(result.note or ""),
            classname=result.policy,
            file=report.file,
            **({} if result.line is None else {"line": str(result.line)}),
        )
    named = {"name": suite.name} | suite.totals
    head = f"<testsuites{_attributes(suite.totals)}>\n<testsuite{_attributes(named)}>\n"
    try:
        write_report(path, [_DECLARATION, head, *suite.cases, "</testsuite>\n</testsuites>\n"])
    finally:
        suite.close()


class JUnitReport:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._suites: dict[tuple[str, ...], _Suite] = {}
        self._run: RunInfo

    def begin(self, run: RunInfo) -> None:
        self._run = run

    def add(self, image: CheckedImage) -> None:
        suite = self._suite(*image.policies)
        seconds, reason = image.verdict.evidence.timings.total, reason_line(image)
        element, type_, message, details = "", "", reason, ""
        if image.status is ImageStatus.FAILED:
            broken = [f"{finding.policy}/{finding.rule}" for finding in violations(image)]
            element, type_, details = "failure", ", ".join(broken) or "violation", _details(image)
        elif image.status is ImageStatus.UNJUDGED:
            element, type_, details = "error", str(image.verdict.outcome), _details(image)
        elif image.status is ImageStatus.ACCEPTED:
            element, message = "skipped", accepted_by(image.baseline)
        suite.add(image.path, seconds=seconds, element=element, type=type_, message=message, details=details)
        if image.status is ImageStatus.FLAGGED or image.verdict.degraded:
            suite.output.append(escape(f"{image.status}: {visible_line(image.path)}: {reason}"))

    def finish(self, summary: RunSummary) -> None:
        errors = [("not checked", item.path, item.reason) for item in summary.unchecked]
        errors += [("set-up", f"problem {n}", problem) for n, problem in enumerate(summary.problems, 1)]
        for kind, name, text in errors:
            message = visible_line(text)
            self._suite(kind).add(name, element="error", type=kind, message=message, details=message)
        try:
            write_report(self._path, self._document(summary))
        finally:
            for suite in self._suites.values():
                suite.close()

    def _suite(self, *key: str) -> _Suite:
        if key not in self._suites:
            self._suites[key] = _Suite(", ".join(key))
        return self._suites[key]

    def _document(self, summary: RunSummary) -> Iterator[str]:
        yield f"{_DECLARATION}<testsuites>\n"
        for number, suite in enumerate(self._suites.values()):
            head = {
                "name": suite.name,
                "package": "policyguard",
                "id": str(number),
                "timestamp": self._run.started.strftime("%Y-%m-%dT%H:%M:%S"),
                "hostname": "localhost",
            }
            yield f"<testsuite{_attributes(head | suite.totals)}>\n<properties>\n"
            properties = [("policyguard", self._run.version), ("model", summary.model.id)]
            properties += [
                (policy.id, f"{policy.version} {policy.fingerprint}")
                for policy in summary.policies
                if policy.id in suite.name.split(", ")
            ]
            for name, value in properties:
                yield f"<property{_attributes({'name': name, 'value': value})}/>\n"
            yield "</properties>\n"
            yield from suite.cases
            yield "<system-out>"
            yield from suite.output
            yield "</system-out>\n<system-err/>\n</testsuite>\n"
        yield "</testsuites>\n"


def _details(image: CheckedImage) -> str:
    """What there is to say, in lines."""
    verdict = image.verdict
    lines = [
        f"{image.path}: {verdict.action} ({verdict.outcome})",
        reason_line(image),
        verdict.rationale or "",
    ]
    lines += [f"note: {note}" for note in verdict.evidence.notes]
    lines.append(f"sha256: {verdict.evidence.image_sha256}" if verdict.evidence.image_sha256 else "")
    return "\n".join(visible_line(line) for line in lines if line)


def _attributes(values: dict[str, str]) -> str:
    return "".join(f" {name}={quoteattr(visible_line(value))}" for name, value in values.items())
