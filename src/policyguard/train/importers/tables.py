"""Tables of rows: CSV, JSON lines and parquet, and folders of such files.

A row that cannot be read is a ``Problem`` with its place, and reading goes on after it.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policyguard.errors import ConfigurationError, MissingExtraError, Problem
from policyguard.train.data import read_object
from policyguard.train.importers.record import Record

__all__ = ["SUFFIXES", "find_tables", "read_table"]

SUFFIXES = (".csv", ".jsonl", ".parquet")
_MAX_CELL = 1 << 20
_BATCH = 32
"""Rows of a parquet file in memory at once; each may hold a picture."""


def find_tables(source: Path) -> list[Path]:
    """The table ``source``, or all tables below the folder ``source``. Raises ConfigurationError."""
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise ConfigurationError(
                f"there is no table in folder '{source}'", hint=f"looked for {', '.join(SUFFIXES)}"
            )
        return found
    if not source.is_file():
        raise ConfigurationError(f"there is no file '{source}'", hint="give a table or a folder of tables")
    if source.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(
            f"'{source}' is no table that can be read", hint=f"convert it to one of {', '.join(SUFFIXES)}"
        )
    return [source]


def read_table(path: Path) -> Iterator[Record | Problem]:
    """All rows of a table. Raises ConfigurationError if it cannot be read as a whole."""
    try:
        match path.suffix.lower():
            case ".csv":
                yield from _csv(path)
            case ".jsonl":
                yield from _json_lines(path)
            case _:
                yield from _parquet(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8", hint="save it as UTF-8") from error


def _csv(path: Path) -> Iterator[Record | Problem]:
    csv.field_size_limit(_MAX_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            head = next(reader, None)
        except csv.Error as error:
            raise ConfigurationError(f"{path}:1: {error}") from error
        if not head or len(set(head)) != len(head):
            raise ConfigurationError(
                f"{path}:1: expected one line with the names of the columns, each once",
                hint="add a head such as path,label",
            )
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Problem(str(error), str(path), line)
                continue
            if len(cells) == len(head):
                yield Record(path, line, dict(zip(head, cells, strict=True)))
            elif cells:
                yield Problem(f"{len(cells)} cells under {len(head)} columns", str(path), line)


def _json_lines(path: Path) -> Iterator[Record | Problem]:
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                yield Record(path, line, read_object(text.removeprefix(BOM_UTF8) if line == 1 else text))
            except (ValueError, RecursionError) as error:
                yield Problem(str(error), str(path), line)


def _parquet(path: Path) -> Iterator[Record | Problem]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "train") from None
    try:
        line = 0
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH):
                rows: list[dict[str, Any]] = batch.to_pylist()
                for fields in rows:
                    line += 1
                    yield Record(path, line, fields)
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"{path} is no parquet file that can be read: {str(error).splitlines()[0]}",
            hint="fetch it again; a file of Git LFS holds a pointer only",
        ) from error
