"""The run in Markdown: for a comment on a pull request, and for the job summary of GitHub.

What fails comes first, and what does not fit is counted. Covered: names and answers stand in code spans,
where nothing is markup, mentions anybody or becomes a link; titles of policies have their markup escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from policyguard.strict.files import write_report
from policyguard.runs.reports.text import count_words, ending, reason_line, visible_line
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary

__all__ = ["Digest", "MarkdownReport"]

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
        revision = f" {model.revision[:19]}" if model.revision else ""
        yield (
            [f"Judged by {code(model.id + revision)} under {policies}, PolicyGuard {visible_line(run.version)}.\n"],
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
