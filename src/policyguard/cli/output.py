"""How verdicts and small tables are printed. A writer takes verdicts one by one, and is closed at the end.

``json`` and ``jsonl`` are plain ASCII: every other character is a JSON escape, so that the output survives
any terminal, locale and file name, undecodable ones included. ``##`` is escaped too, because builds read
commands from it. A table has lines and a head in a terminal, and plain aligned columns in a pipe.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, TextIO

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policyguard.cli.options import Format
from policyguard.errors import UsageError
from policyguard.outcomes import Action
from policyguard.strict.files import prepare, write_report
from policyguard.strict.text import is_terminal, one_line, printable
from policyguard.verdict import Finding, Verdict

__all__ = [
    "ACTION_STYLES",
    "MAX_LISTED",
    "Writer",
    "open_writer",
    "print_table",
    "print_unjudged",
    "reason_line",
    "require_page",
    "shortened",
    "verdict_words",
    "write_page",
]

ACTION_STYLES = {Action.ALLOW: "green", Action.FLAG: "yellow", Action.BLOCK: "bold red"}
MAX_LISTED = 20
"""How many images that could not be judged are named below a summary; the data names them all."""
_MAX_NAME = 60
_MAX_ROWS = 1000
"""A table is printed at the end, so that its columns fit: longer runs print lines as they go."""


def require_page(page: Path | None, *, thumbnails: bool) -> None:
    """Raises UsageError for thumbnails without a page, and OSError for one that could not be written.

    For commands that judge for minutes before they write it.
    """
    if page is not None:
        prepare(page)
    elif thumbnails:
        raise UsageError("--thumbnails goes with --html", hint="name the page with --html FILE")


def write_page(page: Path, text: str) -> None:
    """Put ``text`` into the file, whole, and say so. Raises OSError."""
    write_report(page, [text])
    print(f"wrote {page}", file=sys.stderr)


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    """Print ``rows``, one cell per head. Cells may hold anything: they are escaped here."""
    cells = [[one_line(cell) for cell in row] for row in rows]
    if is_terminal(stream):
        console = Console(file=stream, highlight=False)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        for head, width in zip(heads, _widths(heads, cells, console.width), strict=True):
            table.add_column(head, width=width, overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip(), file=stream)


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]], available: int) -> list[int | None]:
    """None where the table fits. Otherwise names and words stay whole, and the last column shrinks."""
    columns = list(zip(heads, *cells, strict=True))
    longest = [max(map(cell_len, column)) for column in columns]
    if sum(longest) + 2 * len(longest) <= available:
        return [None] * len(longest)
    words = [max(cell_len(word) for cell in column for word in cell.split()) for column in columns]
    return [min(longest[0], available * 2 // 3), *words[1:-1], None]


class Writer(Protocol):
    """Prints verdicts. The output is valid after ``close``, wherever the run stopped."""

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        """``accepted``: the baseline accepts what blocks the image."""
        ...

    def close(self) -> None: ...


def open_writer(style: Format, stream: TextIO, names: Iterable[str], *, count: int) -> Writer:
    """The writer for ``style`` on ``stream``. ``names``: of all ``count`` images, for a column's width."""
    if style is Format.JSON:
        return _JsonList(stream)
    if style is Format.JSONL:
        return _JsonLines(stream)
    return _Table(stream) if is_terminal(stream) and count <= _MAX_ROWS else _Lines(stream, names)


def shortened(path: str, width: int) -> str:
    """``path`` in at most ``width`` cells: folders in its middle go first, then the middle of the name."""
    if cell_len(path) <= width:
        return path
    folders, _, name = path.rpartition("/")
    for start in (f"{folders.partition('/')[0]}/…/", "…/") if folders else ():
        if cell_len(start + name) <= width:
            return start + name
    end = (width - 1) // 2
    return f"{set_cell_size(name, width - 1 - end).rstrip()}…{set_cell_size(name[::-1], end)[::-1]}"


def verdict_words(verdict: Verdict) -> str:
    """Action, outcome and score in a few words."""
    score = "" if verdict.score is None else f" {verdict.score:.3f}"
    return f"{verdict.action} ({verdict.outcome}{score})"


def reason_line(verdict: Verdict, *, accepted: bool = False) -> str:
    """In one line: what the image breaks, or why it could not be judged; then the rationale, if any."""
    several = len(verdict.evidence.policies) > 1
    parts = ["accepted by the baseline" if accepted else "", verdict.reason or ""]
    parts.append("; ".join(_describe(finding, several) for finding in verdict.findings if finding.violates))
    parts.append(verdict.rationale or "")
    unclear = "not judged in full" if verdict.outcome.judged else "not judged"
    parts.append(f"({unclear}, and not blocked)" if verdict.degraded else "")
    parts.append("(some frames only)" if verdict.partial else "")
    return one_line(" - ".join(part for part in parts if part))


def print_unjudged(unjudged: Sequence[tuple[str, str]], total: int, stream: TextIO) -> None:
    """Names and reasons of images that could not be judged, at most ``MAX_LISTED`` of ``total``."""
    print("could not be judged:", file=stream)
    for name, reason in unjudged[:MAX_LISTED]:
        print(f"  {printable(name)}: {one_line(reason)}", file=stream)
    if (more := total - min(len(unjudged), MAX_LISTED)) > 0:
        print(f"  ... and {more:,} more", file=stream)


def _describe(finding: Finding, several: bool) -> str:
    where = f" in {finding.policy}" if several else ""
    score = "" if finding.score is None else f" {finding.score:.2f}"
    return f"{finding.title}{where}{score}" + ("" if finding.attributed else " (closest rule)")


def _score(verdict: Verdict) -> str:
    return "-" if verdict.score is None else f"{verdict.score:.3f}"


def _dump(verdict: Verdict, *, accepted: bool) -> str:
    data = verdict.to_dict() | ({"accepted": True} if accepted else {})
    return json.dumps(data, ensure_ascii=True, allow_nan=False).replace("##", r"#\u0023")


class _JsonList:
    """One list, an element per line, written as verdicts arrive."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lead = "[\n"

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        # In one piece, so that an interrupt falls between elements.
        self._stream.write(self._lead + _dump(verdict, accepted=accepted))
        self._lead = ",\n"

    def close(self) -> None:
        self._stream.write("[]\n" if self._lead == "[\n" else "\n]\n")


class _JsonLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        self._stream.write(_dump(verdict, accepted=accepted) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing to do: every line is complete."""


class _Lines:
    """One aligned line per image, for pipes and logs."""

    def __init__(self, stream: TextIO, names: Iterable[str]) -> None:
        self._stream = stream
        self._width = min(_MAX_NAME, max((cell_len(printable(name)) for name in names), default=0))

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        name = printable(verdict.source)
        pad = " " * (self._width - cell_len(name))
        reason = reason_line(verdict, accepted=accepted)
        line = f"{name}{pad}  {verdict.action:<5}  {verdict.outcome:<11}  {_score(verdict):>5}  {reason}"
        self._stream.write(line.rstrip() + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing to do: every line is complete."""


class _Table:
    """One table, printed at the end: its columns are as wide as their content."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        self._name_width = max(24, self._console.width * 2 // 5)
        self._table.add_column("image", no_wrap=True)
        self._table.add_column("action", no_wrap=True)
        self._table.add_column("outcome", no_wrap=True)
        self._table.add_column("score", no_wrap=True, justify="right")
        self._table.add_column("why", overflow="fold")

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        self._table.add_row(
            Text(shortened(printable(verdict.source), self._name_width)),
            Text(verdict.action.upper(), style=ACTION_STYLES[verdict.action]),
            Text(verdict.outcome),
            Text(_score(verdict)),
            Text(reason_line(verdict, accepted=accepted)),
        )

    def close(self) -> None:
        if self._table.row_count:
            self._console.print(self._table)
