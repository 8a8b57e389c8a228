"""What a report is: it is told of a run as it goes, and writes what its readers need when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from policyguard.runs.run import CheckedImage, RunInfo, RunSummary

__all__ = ["Report", "ReportSpec"]


@dataclass(frozen=True, slots=True)
class ReportSpec:
    """One report that was asked for. ``path`` is None for a format that writes to the log."""

    format: str
    path: Path | None = None
    options: frozenset[str] = frozenset()


class Report(Protocol):
    """``begin``, then ``add`` for each image in order, then ``finish``, however the run ended.

    Each may raise OSError or ValueError, which ends this report and no other. Memory does not grow with the
    number of images, and the file at the path is replaced whole, at the end, or stays as it was.
    """

    def begin(self, run: RunInfo) -> None: ...

    def add(self, image: CheckedImage) -> None: ...

    def finish(self, summary: RunSummary) -> None: ...
