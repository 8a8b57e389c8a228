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
        table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for row in cells:
            table.add_row(*map(Text, row))
        Console(file=stream, highlight=False).print(table)
        return
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip(), file=stream)
