"""Small tables: with lines and a head in a terminal, plain aligned columns in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from policyguard.cli.text import is_terminal, one_line

__all__ = ["print_table"]


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
