"""What a report is, the formats by name, and several reports in one run.

A new format is a line in ``_FILES`` and a module with a class. A report that fails is dropped, with one line
about it, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, TextIO, cast

from policyguard.errors import PolicyGuardError, UsageError
from policyguard.strict.explain import nearest
from policyguard.strict.files import prepare

if TYPE_CHECKING:
    from policyguard.runs.run import CheckedImage, RunInfo, RunSummary

__all__ = ["FORMATS", "Report", "ReportSpec", "Reports", "open_report", "parse_report"]

_FILES = {
    "junit": "junit:JUnitReport",
    "sarif": "sarif:SarifReport",
    "gitlab": "gitlab:GitLabReport",
    "html": "html:HtmlReport",
    "markdown": "github:MarkdownReport",
    "json": "data:JsonReport",
}
_ENDINGS = {
    ".html": "html",
    ".htm": "html",
    ".xml": "junit",
    ".sarif": "sarif",
    ".md": "markdown",
    ".json": "json",
}
"""What people most likely mean who name a file alone."""
_OPTIONS = {"html": ("thumbnails",)}
FORMATS = (*_FILES, "github")


@dataclass(frozen=True, slots=True)
class ReportSpec:
    """One report to write. ``path`` is None for a format that writes to the log."""

    format: str
    path: Path | None = None
    options: frozenset[str] = frozenset()


class Report(Protocol):
    """``begin``, then ``add`` for each image in order, then ``finish``, however the run ended.

    Each may raise OSError or ValueError, which ends this report and no other. Memory does not grow with the
    number of images. The file at the path is replaced as a whole at the end, or stays as it was.
    """

    def begin(self, run: RunInfo) -> None: ...

    def add(self, image: CheckedImage) -> None: ...

    def finish(self, summary: RunSummary) -> None: ...


def parse_report(text: str) -> ReportSpec:
    """Read ``FORMAT=FILE``, ``FORMAT:OPTION=FILE`` or ``github``. Raises UsageError."""
    left, equals, path = text.partition("=")
    name, *options = left.split(":")
    if name not in FORMATS:
        close = nearest(name, list(FORMATS))
        by_ending = None if equals else _ENDINGS.get(Path(name).suffix.lower())
        guess = f"did you mean {close!r}?" if close else f"known are {', '.join(FORMATS)}"
        if by_ending is not None:
            guess = f"did you mean {by_ending}={name}?"
        raise UsageError(f"there is no report {name!r}: {guess}")
    known = _OPTIONS.get(name, ())
    for option in options:
        if option not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"the report {name!r} has no option {option!r}: {has}")
    if name == "github":
        if equals:
            raise UsageError(
                "the report 'github' goes to the log and to the job summary", hint="give --report github"
            )
        return ReportSpec(name)
    if not path:
        raise UsageError(f"the report {name!r} needs a file", hint=f"give --report {left}=FILE")
    if "\0" in path:
        raise UsageError(f"the report {name!r} cannot go to a file with a NUL in its name")
    return ReportSpec(name, Path(path), frozenset(options))


def open_report(spec: ReportSpec, *, log: TextIO) -> Report:
    """The report for ``spec``; without a file, it goes to ``log``. Raises OSError."""
    if spec.path is None:
        from policyguard.runs.reports.github import GitHubReport

        return GitHubReport(log)
    prepare(spec.path)
    module, _, name = _FILES[spec.format].partition(":")
    cls = getattr(import_module(f"policyguard.runs.reports.{module}"), name)
    return cast("Report", cls(spec.path, **dict.fromkeys(spec.options, True)))


class Reports:
    """Passes everything on to each report. One that fails is dropped, with a line in ``problems``."""

    def __init__(self, reports: Mapping[str, Report] | None = None) -> None:
        self.problems: list[str] = []
        self._open: dict[str, Report] = dict(reports or {})

    @classmethod
    def open(cls, specs: Sequence[ReportSpec], *, log: TextIO) -> Self:
        """Open the reports for ``specs``, before anything is checked. One that cannot be opened is a problem.

        ``log`` is for reports without a file. Raises UsageError for two reports in one place.
        """
        reports = cls()
        _refuse_duplicates(specs)
        for spec in specs:
            name = spec.format if spec.path is None else f"{spec.format}={spec.path}"
            with reports._guarded(name):
                reports._open[name] = open_report(spec, log=log)
        return reports

    def __bool__(self) -> bool:
        return bool(self._open)

    def begin(self, run: RunInfo) -> None:
        for name, report in list(self._open.items()):
            with self._guarded(name):
                report.begin(run)

    def add(self, image: CheckedImage) -> None:
        for name, report in list(self._open.items()):
            with self._guarded(name):
                report.add(image)

    def finish(self, summary: RunSummary) -> None:
        for name, report in list(self._open.items()):
            with self._guarded(name):
                report.finish(summary)
        self._open.clear()

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            reason = getattr(error, "strerror", None) or error
            if not isinstance(error, OSError | PolicyGuardError):
                reason = f"this is a bug in policyguard: {type(error).__name__}: {error}"
            self.problems.append(f"the report {name} cannot be written: {reason}")


def _refuse_duplicates(specs: Sequence[ReportSpec]) -> None:
    known: dict[str, str] = {}
    for spec in specs:
        if spec.path is None and spec.format in known:
            raise UsageError(f"the report {spec.format!r} is given twice")
        place = spec.format if spec.path is None else os.path.realpath(spec.path)
        if place in known:
            raise UsageError(
                f"the reports {known[place]!r} and {spec.format!r} go to one file, '{spec.path}'"
            )
        known[place] = spec.format
