"""Several reports in one run: what goes wrong with one of them stays its own, and is said once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TextIO

from policyguard.runs.run import CheckedImage, RunInfo, RunSummary
from policyguard.errors import PolicyGuardError, UsageError

if TYPE_CHECKING:
    from policyguard.runs.reports import Report, ReportSpec

__all__ = ["Reports"]


class Reports:
    """Hands everything on to each report. One that fails is dropped, with a line in ``problems``."""

    def __init__(self, reports: Mapping[str, Report] | None = None) -> None:
        self.problems: list[str] = []
        self._open: dict[str, Report] = dict(reports or {})

    @classmethod
    def open(cls, specs: Sequence[ReportSpec], *, log: TextIO) -> Self:
        """Open what ``specs`` ask for, before anything is checked. What cannot be opened is a problem.

        ``log`` is for reports without a file. Raises UsageError for two reports in one place.
        """
        reports = cls()
        _refuse_doubles(specs)
        if specs:
            from policyguard.runs.reports import open_report
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
            why = getattr(error, "strerror", None) or error
            if not isinstance(error, OSError | PolicyGuardError):
                why = f"this is a bug in policyguard: {type(error).__name__}: {error}"
            self.problems.append(f"the report {name} cannot be written: {why}")


def _refuse_doubles(specs: Sequence[ReportSpec]) -> None:
    known: dict[str, str] = {}
    for spec in specs:
        if spec.path is None and spec.format in known:
            raise UsageError(f"the report {spec.format!r} is asked for twice")
        place = spec.format if spec.path is None else os.path.realpath(spec.path)
        if place in known:
            raise UsageError(
                f"the reports {known[place]!r} and {spec.format!r} go to one file, '{spec.path}'"
            )
        known[place] = spec.format
