"""Several reports in one run: what goes wrong with one of them stays its own, and is said once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TextIO

from policyguard.ci.run import CheckedImage, RunInfo, RunSummary

if TYPE_CHECKING:
    from policyguard.ci.reports import Report, ReportSpec

__all__ = ["Reports"]


class Reports:
    """Hands everything on to each report. One that fails is dropped, with a line in ``problems``."""

    def __init__(self, reports: Mapping[str, Report] | None = None) -> None:
        self.problems: list[str] = []
        self._open: dict[str, Report] = dict(reports or {})

    @classmethod
    def open(cls, specs: Sequence[ReportSpec], *, stdout: TextIO) -> Self:
        """Open what ``specs`` ask for, before anything is checked. What cannot be opened is a problem."""
        reports = cls()
        if specs:
            from policyguard.ci.reports import open_report
        for spec in specs:
            name = spec.format if spec.path is None else f"{spec.format}={spec.path}"
            with reports._guarded(name):
                reports._open[name] = open_report(spec, stdout=stdout)
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
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            self._open.pop(name, None)
            why = getattr(error, "strerror", None) or error
            self.problems.append(f"the report {name} cannot be written: {why}")
