"""Tables of published data sets and labels, row by row: CSV, JSON lines, JSON lists, parquet.

A row that cannot be read is a ``Problem`` with its place, and reading goes on after it. A cell may hold an
image as ``datasets`` stores it, or name a file, which must lie in the folder that it is relative to.
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from policyguard.errors import ConfigurationError, MissingExtraError, Problem
from policyguard.strict.explain import not_one_of
from policyguard.strict.jsontext import JsonError, parse_json, parse_object

__all__ = [
    "MAX_LINE",
    "SUFFIXES",
    "BadRowError",
    "Record",
    "file_in",
    "find_tables",
    "first_of",
    "image_cell",
    "image_of",
    "label_of",
    "read_object",
    "read_table",
    "text_of",
]

SUFFIXES = (".csv", ".jsonl", ".parquet")
MAX_LINE = 1 << 20
"""Bytes. A longer line is not a row."""
_MAX_CELL = 1 << 20
_BATCH = 32
"""Rows of a parquet file in memory at once; each may hold an image."""
_VARIANT = re.compile(r"_v\d+[a-z]?(?:_[a-z0-9]+)*$")
"""What a data set appends to the id of an image that comes under several policies."""
_ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp")
_L = TypeVar("_L")


class BadRowError(Exception):
    """This row is left out. Never leaves the package."""

    def __init__(self, field: str | None, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source, as it came. ``line``: in a text file the line, in parquet the row, from 1."""

    file: Path
    line: int
    fields: Mapping[str, Any]


def find_tables(source: Path) -> list[Path]:
    """The table ``source``, or all tables below the folder ``source``. Raises ConfigurationError."""
    if source.is_dir():
        tables = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not tables:
            raise ConfigurationError(
                f"there is no table in folder '{source}'", hint=f"looked for {', '.join(SUFFIXES)}"
            )
        return tables
    if not source.is_file():
        raise ConfigurationError(f"there is no file '{source}'", hint="give a table or a folder of tables")
    if source.suffix.lower() not in SUFFIXES:
        raise ConfigurationError(
            f"'{source}' is not a table that can be read", hint=f"convert it to one of {', '.join(SUFFIXES)}"
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
            case ".json":
                yield from _json_list(path)
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


def read_object(line: bytes) -> dict[str, Any]:
    """The JSON object in ``line``. Raises ValueError for anything else, also if a field appears twice."""
    if len(line) > MAX_LINE:
        raise ValueError(f"the line is longer than {MAX_LINE >> 20} MiB")
    try:
        return parse_object(line)
    except JsonError as error:
        raise ValueError(f"the line {error}") from None


def _json_list(path: Path) -> Iterator[Record | Problem]:
    try:
        rows = parse_json(path.read_bytes().removeprefix(BOM_UTF8))
    except JsonError as error:
        raise ConfigurationError(f"{path} {error}") from error
    if not isinstance(rows, list):
        raise ConfigurationError(f"{path} is not a JSON list of rows")
    for number, row in enumerate(rows, 1):
        yield (
            Record(path, number, row)
            if isinstance(row, dict)
            else Problem("is not a JSON object", str(path), number)
        )


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
        raise MissingExtraError("pyarrow", "bench") from None
    try:
        line = 0
        with parquet.ParquetFile(path) as file:
            classes = _classes(file.schema_arrow.metadata or {})
            for batch in file.iter_batches(batch_size=_BATCH):
                rows: list[dict[str, Any]] = batch.to_pylist()
                for fields in rows:
                    line += 1
                    for column, names in classes.items():
                        number = fields.get(column)
                        if isinstance(number, int) and 0 <= number < len(names):
                            fields[column] = names[number]
                    yield Record(path, line, fields)
    except pa.ArrowException as error:
        raise ConfigurationError(
            f"{path} is not a readable parquet file: {str(error).splitlines()[0]}",
            hint="fetch it again; a file of Git LFS holds a pointer only",
        ) from error


def _classes(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names of columns that ``datasets`` has stored as numbers of classes."""
    with suppress(JsonError, KeyError, TypeError, AttributeError):
        features = parse_object(metadata[b"huggingface"])["info"]["features"]
        return {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    return {}


def first_of(record: Record, *names: str) -> tuple[str, Any]:
    """The first of these columns that is filled, with its name. Raises BadRowError."""
    for name in names:
        value = record.fields.get(name)
        if value is not None and value != "":
            return name, value
    missing = " or ".join(repr(name) for name in names)
    raise BadRowError(names[0], f"this field is missing or empty; expected {missing}")


def text_of(record: Record, *names: str) -> str | None:
    """The text of the first filled column among ``names``, or ``None``. Raises BadRowError."""
    for name in names:
        value = record.fields.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise BadRowError(name, f"expected a text, found {type(value).__name__}")
        return value.strip() or None
    return None


def label_of(field: str, value: Any, labels: Mapping[str, _L]) -> _L:
    """The label that ``value`` stands for, whatever its case. Raises BadRowError if it is unknown."""
    label = labels.get(" ".join(value.lower().split())) if isinstance(value, str) else None
    if label is None:
        raise BadRowError(field, not_one_of(value, [*labels]))
    return label


def file_in(folder: Path, name: str) -> Path | None:
    """The file of this name in ``folder``; ``None`` also for one outside of it."""
    root = folder.resolve()
    with suppress(OSError, ValueError):
        path = (root / name).resolve()
        if path.is_relative_to(root) and path.is_file():
            return path
    return None


def image_cell(record: Record, folder: Path) -> Any:
    """The cell with the image, its path, or the file in ``folder`` that is called like the row's id or like
    the end of its address. Raises BadRowError.
    """
    value = record.fields.get("image")
    if isinstance(value, Mapping | bytes) and value:
        return value
    stated = text_of(record, "image", "image_path", "file_name", "image_fname")
    if stated is not None and (file_in(folder, stated) is not None or "://" in stated):
        return stated
    number = record.fields.get("id")
    names = [] if number is None else [str(number), _VARIANT.sub("", str(number))]
    if url := text_of(record, "url"):
        names.append(url.split("?")[0].rstrip("/").rpartition("/")[2])
    for name in dict.fromkeys(f"{name}{ending}" for name in names for ending in _ENDINGS if name):
        if file_in(folder, name) is not None:
            return name
    if stated is not None:
        return stated
    raise BadRowError("id", f"there is no image file for it; looked for {', '.join(names) or 'nothing'}")


def image_of(value: Any, folder: Path, *, field: str) -> Path | bytes:
    """The image that a cell holds, or the file in ``folder`` that it names. Raises BadRowError."""
    if isinstance(value, Mapping):  # how `datasets` stores an image
        data = value.get("bytes")
        if isinstance(data, bytes) and data:
            return data
        value = value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise BadRowError(field, "holds neither an image nor a path")
    if "://" in value:
        raise BadRowError(field, "is an address: fetch the images first, nothing is downloaded here")
    path = file_in(folder, value)
    if path is None:
        raise BadRowError(field, f"there is no image {value!r} in {folder}")
    return path
