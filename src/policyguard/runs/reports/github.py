"""What a reader on GitHub sees: the run in Markdown, and workflow commands in the log.

The Markdown is for a comment on a pull request and for the job summary: what fails comes first, and what does
not fit is counted. GitHub shows ten errors and ten warnings of a step: the most severe become commands, and a
notice has the numbers.

Covered: names and answers stand in code spans, where nothing is markup, mentions anybody or becomes a link;
titles of policies have their markup escaped. A command ends with its line, and its parts at ``,`` and ``:``:
all of these are escaped, and control characters are written as visible escapes, so neither a file name nor a
model's answer can be a command.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from policyguard.runs.reports.text import (
    Repository,
    count_words,
    ending,
    reason_line,
    violations,
    visible_line,
)
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary
from policyguard.strict.files import write_report

__all__ = ["Digest", "GitHubReport", "MarkdownReport"]

_COMMENT = 60_000
"""Bytes; a comment on GitHub holds 65,536 characters."""
_LONGEST = 300

_HEADINGS = {
    ImageStatus.FAILED: "Failed",
    ImageStatus.UNJUDGED: "Could not be judged",
    ImageStatus.FLAGGED: "Flagged",
    ImageStatus.ACCEPTED: "Accepted by the baseline",
}


class Digest:
    """A run in Markdown of at most ``limit`` bytes: rows are kept as long as they may fit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: dict[ImageStatus, list[str]] = {status: [] for status in _HEADINGS}
        self._counts = dict.fromkeys(_HEADINGS, 0)
        self._sizes = dict.fromkeys(_HEADINGS, 0)

    def add(self, image: CheckedImage) -> None:
        status = image.status
        if status is ImageStatus.PASSED and image.verdict.degraded:
            status = ImageStatus.FLAGGED
        if status not in self._rows:
            return
        self._counts[status] += 1
        if self._sizes[status] > self._limit:
            return
        verdict = image.verdict
        score = "" if verdict.score is None else f"{verdict.score:.2f}"
        reason = " - ".join(part for part in (reason_line(image), verdict.rationale) if part)
        row = f"| {code(image.path)} | {score} | {code(reason, _LONGEST)} |\n"
        self._rows[status].append(row)
        self._sizes[status] += len(row.encode())

    def render(self, run: RunInfo, summary: RunSummary, limit: int | None = None) -> str:
        """The text, of at most ``limit`` bytes (default: what the digest was made for)."""
        left = self._limit if limit is None else min(limit, self._limit)
        parts: list[str] = []
        for block, end in self._blocks(run, summary):
            rows = list(block)
            reserve = len(end.encode()) + 120
            head = rows.pop(0)
            if len(head.encode()) + reserve > left:
                break
            used = len(head.encode()) + len(end.encode())
            parts.append(head)
            for number, row in enumerate(rows):
                if used + len(row.encode()) + 120 > left:
                    more = f"\nAnd {len(rows) - number:,} rows more, which do not fit here.\n"
                    parts.append(more)
                    used += len(more.encode())
                    break
                parts.append(row)
                used += len(row.encode())
            parts.append(end)
            left -= used
        return "".join(parts)

    def _blocks(self, run: RunInfo, summary: RunSummary) -> Iterator[tuple[list[str], str]]:
        yield [f"## PolicyGuard: {ending(summary)}\n\n{count_words(summary)}\n"], "\n"
        if summary.problems:
            yield ["### Set-up\n\n", *(f"- {code(problem)}\n" for problem in summary.problems)], "\n"
        if summary.unchecked:
            head = f"### Not checked ({len(summary.unchecked):,})\n\n| image | why |\n|---|---|\n"
            kept = summary.unchecked[: self._limit // 20]
            rows = [f"| {code(item.path)} | {code(item.reason)} |\n" for item in kept]
            yield [head, *rows], _more(len(summary.unchecked) - len(rows))
        for status, rows in self._rows.items():
            count = self._counts[status]
            if rows:
                head = f"### {_HEADINGS[status]} ({count:,})\n\n| image | score | why |\n|---|---|---|\n"
                yield [head, *rows], _more(count - len(rows))
        stale = [f"- {code(entry.path)}, {escaped(entry.policy)}\n" for entry in summary.stale]
        if stale:
            yield ["### Baseline entries that accept nothing any more\n\n", *stale], "\n"
        policies = "; ".join(
            f"{escaped(info.policy.title)} ({code(f'{info.policy.id} {info.policy.version}')})"
            for info in run.policies
        )
        model = summary.model
        judge = code(f"{model.id} {model.revision[:19]}" if model.revision else model.id)
        yield (
            [f"Judged by {judge} under {policies}, PolicyGuard {visible_line(run.version)}.\n"],
            "",
        )


class MarkdownReport:
    """See the module's description."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = Digest(_COMMENT)
        self._run: RunInfo

    def begin(self, run: RunInfo) -> None:
        self._run = run

    def add(self, image: CheckedImage) -> None:
        self._digest.add(image)

    def finish(self, summary: RunSummary) -> None:
        write_report(self._path, [self._digest.render(self._run, summary)])


def code(text: str, limit: int = 2000) -> str:
    """``text`` as a code span, which can stand in a table, where no escape for a bar works in every case."""
    text = visible_line(text, limit).replace("|", "\u00a6") or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def escaped(text: str) -> str:
    """``text`` as prose without markup; an invisible character keeps it from mentioning anybody."""
    text = re.sub(r"[@#:]|www|GH-", "\\g<0>\u2060", visible_line(text))
    return re.sub(r"[\\`*_{}\[\]()<>#+!|~&$:.-]", r"\\\g<0>", text)


def _more(count: int) -> str:
    return f"\nAnd {count:,} more.\n\n" if count > 0 else "\n"


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
