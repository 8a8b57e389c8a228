"""How verdicts are printed. Each writer takes them one by one, in order, and is closed at the end.

``json`` and ``jsonl`` are plain ASCII: every other character is a JSON escape, so that the output survives
any terminal, locale and file name, undecodable ones included. ``##`` is one too, as builds take commands.

Small tables: with lines and a head in a terminal, plain aligned columns in a pipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Protocol, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policyguard.cli.options import Format
from policyguard.outcomes import Action
from policyguard.strict.text import is_terminal, one_line, printable
from policyguard.verdict import Finding, Verdict

__all__ = [
    "ACTION_STYLES",
    "Writer",
    "open_writer",
    "print_table",
    "why",
]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO) -> None:
    """Print ``rows``, one cell per head. The cells may hold anything; they are made safe here."""
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


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]], room: int) -> list[int | None]:
    """Nothing where the table has room. Else names stay whole, and so do words; the last column gives way."""
    columns = list(zip(heads, *cells, strict=True))
    longest = [max(map(cell_len, column)) for column in columns]
    if sum(longest) + 2 * len(longest) <= room:
        return [None] * len(longest)
    words = [max(cell_len(word) for cell in column for word in cell.split()) for column in columns]
    return [min(longest[0], room * 2 // 3), *words[1:-1], None]


ACTION_STYLES = {Action.ALLOW: "green", Action.FLAG: "yellow", Action.BLOCK: "bold red"}
_MAX_NAME = 60

_MAX_ROWS = 1000
"""A table is printed at the end, so that its columns fit: longer runs get lines as they come."""


class Writer(Protocol):
    """Prints verdicts. What has been printed stays valid when ``close`` follows, wherever the run stopped."""

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        """``accepted``: a baseline accepts what blocks it."""
        ...

    def close(self) -> None: ...


def open_writer(style: Format, stream: TextIO, names: Iterable[str], *, count: int) -> Writer:
    """The writer for ``style`` on ``stream``. ``names``: of all ``count`` images, for a column's width."""
    if style is Format.JSON:
        return _JsonList(stream)
    if style is Format.JSONL:
        return _JsonLines(stream)
    return _Table(stream) if is_terminal(stream) and count <= _MAX_ROWS else _Lines(stream, names)


def why(verdict: Verdict, *, accepted: bool = False) -> str:
    """In one line: what was found, or why nothing could be; then the rationale, where it was asked for."""
    several = len(verdict.evidence.policies) > 1
    parts = ["accepted by the baseline" if accepted else "", verdict.reason or ""]
    parts.append("; ".join(_describe(finding, several) for finding in verdict.findings if finding.violates))
    parts.append(verdict.rationale or "")
    parts.append("(not judged, and not blocked)" if verdict.degraded else "")
    parts.append("(some frames only)" if verdict.partial else "")
    return one_line(" - ".join(part for part in parts if part))


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
    """One list, an element per line, written as the verdicts come."""

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
        """Every line stands alone."""


class _Lines:
    """One aligned line per image, for pipes and logs."""

    def __init__(self, stream: TextIO, names: Iterable[str]) -> None:
        self._stream = stream
        self._width = min(_MAX_NAME, max((cell_len(printable(name)) for name in names), default=0))

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        name = printable(verdict.source)
        pad = " " * (self._width - cell_len(name))
        said = why(verdict, accepted=accepted)
        line = f"{name}{pad}  {verdict.action:<5}  {verdict.outcome:<11}  {_score(verdict):>5}  {said}"
        self._stream.write(line.rstrip() + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Every line stands alone."""


class _Table:
    """One table, printed at the end: its columns are as wide as what they hold."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        self._table.add_column("image", overflow="fold", ratio=2 if self._console.width < 100 else None)
        self._table.add_column("action", no_wrap=True)
        self._table.add_column("outcome", no_wrap=True)
        self._table.add_column("score", no_wrap=True, justify="right")
        self._table.add_column("why", overflow="fold", ratio=3 if self._console.width < 100 else None)

    def add(self, verdict: Verdict, *, accepted: bool = False) -> None:
        self._table.add_row(
            Text(printable(verdict.source)),
            Text(verdict.action.upper(), style=ACTION_STYLES[verdict.action]),
            Text(verdict.outcome),
            Text(_score(verdict)),
            Text(why(verdict, accepted=accepted)),
        )

    def close(self) -> None:
        if self._table.row_count:
            self._console.print(self._table)
