"""JUnit XML, for the test reports of build servers.

A test case per image, a suite per set of policies. A violation is a failure; what could not be judged, was
not checked, or is wrong with the set-up is an error; what the baseline accepts is skipped. A flagged image is
a case that passes, and is named in the suite's output.

Covered: valid under the schemas of Ant and of Jenkins; XML has no way to hold most control characters, and
they are written as visible escapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from policyguard.strict.files import Spool, write_report
from policyguard.runs.reports.text import accepted_by, shown, violations, why
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary

__all__ = ["JUnitReport"]


class _Suite:
    """Test cases that are counted."""

    def __init__(self, name: str) -> None:
        self.name = shown(name)
        self.cases, self.said = Spool(), Spool()
        self.counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        self.seconds = 0.0

    def add(self, name: str, *, seconds: float = 0.0, kind: str = "", inner: str = "") -> None:
        self.counts["tests"] += 1
        self.seconds += seconds
        with suppress(KeyError):
            self.counts[{"failure": "failures", "error": "errors", "skipped": "skipped"}[kind]] += 1
        case = f"<testcase{_attributes(classname=self.name, name=name, time=f'{seconds:.3f}')}"
        self.cases.append(f"{case}>{inner}</testcase>" if inner else f"{case}/>")

    def close(self) -> None:
        self.cases.close()
        self.said.close()


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
        seconds, said = image.verdict.evidence.timings.total, why(image)
        if image.status is ImageStatus.FAILED:
            broken = [f"{finding.policy}/{finding.rule}" for finding in violations(image)]
            inner = _element("failure", ", ".join(broken) or "violation", said, _details(image))
            suite.add(image.path, seconds=seconds, kind="failure", inner=inner)
        elif image.status is ImageStatus.UNJUDGED:
            inner = _element("error", str(image.verdict.outcome), said, _details(image))
            suite.add(image.path, seconds=seconds, kind="error", inner=inner)
        elif image.status is ImageStatus.ACCEPTED:
            inner = f"<skipped{_attributes(message=accepted_by(image.baseline))}/>"
            suite.add(image.path, seconds=seconds, kind="skipped", inner=inner)
        else:
            suite.add(image.path, seconds=seconds)
        if image.status is ImageStatus.FLAGGED or image.verdict.degraded:
            suite.said.append(escape(f"{image.status}: {shown(image.path)}: {said}"))

    def finish(self, summary: RunSummary) -> None:
        for unchecked in summary.unchecked:
            said = shown(unchecked.reason)
            inner = _element("error", "not checked", said, said)
            self._suite("not checked").add(unchecked.path, kind="error", inner=inner)
        for number, problem in enumerate(summary.problems, 1):
            inner = _element("error", "set-up", shown(problem), shown(problem))
            self._suite("set-up").add(f"problem {number}", kind="error", inner=inner)
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
        yield '<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>\n'
        for number, suite in enumerate(self._suites.values()):
            counts = {name: str(count) for name, count in suite.counts.items()}
            yield "<testsuite" + _attributes(
                name=suite.name,
                package="policyguard",
                id=str(number),
                timestamp=self._run.started.strftime("%Y-%m-%dT%H:%M:%S"),
                hostname="localhost",
                **counts,
                time=f"{suite.seconds:.3f}",
            )
            yield ">\n<properties>\n"
            yield f"<property{_attributes(name='policyguard', value=self._run.version)}/>\n"
            yield f"<property{_attributes(name='model', value=summary.model.id)}/>\n"
            for policy in summary.policies:
                if policy.id in suite.name.split(", "):
                    said = f"{policy.version} {policy.fingerprint}"
                    yield f"<property{_attributes(name=policy.id, value=said)}/>\n"
            yield "</properties>\n"
            yield from suite.cases
            yield "<system-out>"
            yield from suite.said
            yield "</system-out>\n<system-err/>\n</testsuite>\n"
        yield "</testsuites>\n"


def _details(image: CheckedImage) -> str:
    """What there is to say, in lines."""
    verdict = image.verdict
    lines = [f"{image.path}: {verdict.action} ({verdict.outcome})", why(image), verdict.rationale or ""]
    lines += [f"note: {note}" for note in verdict.evidence.notes]
    lines.append(f"sha256: {verdict.evidence.image_sha256}" if verdict.evidence.image_sha256 else "")
    return "\n".join(shown(line) for line in lines if line)


def _element(name: str, kind: str, message: str, details: str) -> str:
    return f"<{name}{_attributes(type=kind, message=message)}>{escape(details)}</{name}>"


def _attributes(**values: str) -> str:
    return "".join(f" {name}={quoteattr(shown(value))}" for name, value in values.items())
