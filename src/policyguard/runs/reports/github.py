"""Workflow commands of GitHub Actions in the log, and the job summary.

GitHub shows ten errors and ten warnings of a step: the most severe are chosen, and a notice has the numbers.

Covered: a command ends with its line, and its parts at ``,`` and ``:``; all of these are escaped, and control
characters are written as visible escapes, so neither a file name nor a model's answer can be a command.
"""

from __future__ import annotations

import heapq
import os
from pathlib import Path
from typing import TextIO

from policyguard.runs.reports.markdown import Digest
from policyguard.runs.reports.text import Repository, count_words, reason_line, violations, visible_line
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary

__all__ = ["GitHubReport"]

_PER_KIND = 10
_SUMMARY = 1024 * 1024
_SPARE = 4096
_LONGEST = 600


class GitHubReport:
    """Writes to the log, and to the file that ``GITHUB_STEP_SUMMARY`` names, if it is set."""

    def __init__(self, log: TextIO) -> None:
        self._log = log
        self._annotated = {"error": _MostSevere(), "warning": _MostSevere()}
        self._run: RunInfo
        name = os.environ.get("GITHUB_STEP_SUMMARY")
        self._summary = Path(name) if name else None
        self._digest = Digest(_SUMMARY - _SPARE) if name else None

    def begin(self, run: RunInfo) -> None:
        self._run = run
        self._repository = Repository(run.root)

    def add(self, image: CheckedImage) -> None:
        if self._digest is not None:
            self._digest.add(image)
        if image.status is ImageStatus.FAILED:
            self._annotated["error"].add(1.0 + (image.verdict.score or 0.0), image)
        elif image.status is ImageStatus.UNJUDGED:
            self._annotated["error"].add(0.0, image)
        elif image.status is ImageStatus.FLAGGED or image.verdict.degraded:
            self._annotated["warning"].add(image.verdict.score or 0.0, image)

    def finish(self, summary: RunSummary) -> None:
        lines: list[str] = []
        if summary.problems:
            more = "" if len(summary.problems) == 1 else f" (and {len(summary.problems) - 1:,} more)"
            lines.append(
                _command("error", f"{visible_line(summary.problems[0])}{more}", title="PolicyGuard: set-up")
            )
        if summary.unchecked:
            first = summary.unchecked[0]
            number = len(summary.unchecked)
            unreached = f"{number:,} image{' was' if number == 1 else 's were'}"
            message = f"{unreached} not checked, first {first.path}: {first.reason}"
            lines.append(_command("error", message, title="PolicyGuard: not checked"))
        left = sum(images.count for images in self._annotated.values())
        for kind, images in self._annotated.items():
            best = images.best(_PER_KIND - (len(lines) if kind == "error" else 0))
            lines += [_annotation(kind, image, self._repository) for image in best]
            left -= len(best)
        more = f"; {left:,} of them not annotated" if left else ""
        lines.append(_command("notice", f"{count_words(summary)}{more}", title="PolicyGuard"))
        # A line before, in case the last one is unfinished.
        self._log.write("\n" + "".join(f"{line}\n" for line in lines))
        self._log.flush()
        if self._summary is not None and self._digest is not None:
            size = self._summary.stat().st_size if self._summary.exists() else 0
            text = self._digest.render(self._run, summary, _SUMMARY - _SPARE - size)
            with self._summary.open("a", encoding="utf-8", newline="\n") as file:
                file.write(text)


class _MostSevere:
    """The most severe images, the earlier one of two alike, and how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self._heap: list[tuple[float, int, CheckedImage]] = []

    def add(self, severity: float, image: CheckedImage) -> None:
        self.count += 1
        item = (severity, -self.count, image)
        if len(self._heap) < _PER_KIND:
            heapq.heappush(self._heap, item)
        else:
            heapq.heappushpop(self._heap, item)

    def best(self, room: int) -> list[CheckedImage]:
        return [image for _, _, image in sorted(self._heap, reverse=True)[:room]]


def _annotation(kind: str, image: CheckedImage, repository: Repository) -> str:
    titles = ", ".join(finding.title for finding in violations(image))
    title = titles or str(image.verdict.outcome)
    message = f"{image.path}: {reason_line(image)} {image.verdict.rationale or ''}"
    return _command(kind, message, title=f"PolicyGuard: {title}", file=repository.path(image.path))


def _command(kind: str, message: str, **properties: str) -> str:
    values = ",".join(f"{name}={_property(value)}" for name, value in sorted(properties.items()))
    return f"::{kind} {values}::{_data(visible_line(message, _LONGEST))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(visible_line(text)).replace(":", "%3A").replace(",", "%2C")
