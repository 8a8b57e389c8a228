"""The formats that can be imported: tables (CSV, JSON lines, parquet) and what a row of each data set means.

Column names, label strings and category names are those of the published data sets. Policies are ours: the
words of a row's own policy are not kept, only what they declare. A row that cannot be read is a ``Problem``
with its place, and reading goes on after it.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyguard.errors import ConfigurationError, MissingExtraError, Problem
from policyguard.policy import ResolvedPolicy
from policyguard.strict.explain import not_one_of
from policyguard.train.data import Label, read_object
from policyguard.train.importers.images import ImageStore
from policyguard.train.importers.llavaguard import LlavaGuard
from policyguard.train.importers.record import (
    BadRowError,
    Draft,
    Record,
    first_of,
    label_of,
    rule_named,
    text_of,
)

__all__ = ["FORMATS", "SUFFIXES", "Format", "Reader", "find_tables", "read_table"]

SUFFIXES = (".csv", ".jsonl", ".parquet")
SAFE_UNSAFE: dict[str, Label] = {"safe": "safe", "unsafe": "unsafe"}
_UNSAFEBENCH_NAMES = {"adult": "sexual", "self harm": "self-harm", "illegal": "illegal-activity"}
_EDITED = "_edited"
_FLAGS = {"true": True, "false": False, "yes": True, "no": False}
_MAX_CELL = 1 << 20
_BATCH = 32
"""Rows of a parquet file in memory at once; each may hold an image."""

Policies = Callable[[str], ResolvedPolicy]
Reader = Callable[[Record], Draft]


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
            f"{path} is not a readable parquet file: {str(error).splitlines()[0]}",
            hint="fetch it again; a file of Git LFS holds a pointer only",
        ) from error


@dataclass(frozen=True, slots=True)
class Format:
    """``source``, ``licence``: what the rows say by default. ``policy``: the default."""

    source: str | None
    licence: str | None
    policy: str | None
    reader: Callable[[str, Policies, ImageStore], Reader]


def _llavaguard(policy: str, policies: Policies, store: ImageStore) -> Reader:
    return LlavaGuard(policy, policies(policy), store).read


def _unsafebench(policy: str, policies: Policies, store: ImageStore) -> Reader:
    resolved = policies(policy)

    def read(record: Record) -> Draft:
        _, image = first_of(record, "image", "image_path", "file_name")
        category = text_of(record, "category")
        if category is not None:
            name = _UNSAFEBENCH_NAMES.get(category.lower(), category)
            category = rule_named(resolved, name, field="category")
        label = label_of("safety_label", record.fields.get("safety_label"), SAFE_UNSAFE)
        part = text_of(record, "source")
        source = None if part is None else f"UnsafeBench ({part[:100]})"
        return Draft(image, policy, resolved, label, category=category, source=source)

    return read


def _safeedit(policy: str, policies: Policies, store: ImageStore) -> Reader:
    def read(record: Record) -> Draft:
        _, image = first_of(record, "image_path", "image", "file_name")
        name = policy
        if not name:
            level = text_of(record, "policy_level")
            if level is None or level.upper() not in ("L1", "L2", "L3", "L4", "L5"):
                raise BadRowError("policy_level", not_one_of(level, ["L1", "L2", "L3", "L4", "L5"]))
            name = f"safeedit/{level.lower()}"
        resolved = policies(name)
        label = label_of("safety_label", record.fields.get("safety_label"), SAFE_UNSAFE)
        category = text_of(record, "category")
        if category is not None:
            category = rule_named(resolved, category, field="category")
        path = text_of(record, "image_path", "file_name") or (
            str(image.get("path") or "") if isinstance(image, dict) else ""
        )
        stem = Path(path).stem.removesuffix(_EDITED)
        pair = text_of(record, "pair_id") or (f"safeedit/{stem}" if stem else None)
        return Draft(image, name, resolved, label, category=category, pair_id=pair)

    return read


def _folder(policy: str, policies: Policies, store: ImageStore) -> Reader:
    resolved = policies(policy)

    def read(record: Record) -> Draft:
        _, image = first_of(record, "path", "image", "file_name")
        label = label_of("label", record.fields.get("label"), SAFE_UNSAFE)
        category = text_of(record, "category")
        if category is not None:
            category = rule_named(resolved, category, field="category")
        names = text_of(record, "violations")
        violations = None if names is None else _rules_of(names, resolved)
        complete = text_of(record, "complete")
        return Draft(
            image,
            policy,
            resolved,
            label,
            category=category,
            violations=violations,
            complete=None if complete is None else _flag("complete", complete),
            rationale=text_of(record, "rationale"),
        )

    return read


def _rules_of(names: str, policy: ResolvedPolicy) -> tuple[str, ...]:
    parts = filter(None, (name.strip() for name in names.split(";")))
    return tuple(dict.fromkeys(rule_named(policy, name, field="violations") for name in parts))


def _flag(field: str, text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise BadRowError(field, not_one_of(text, [*_FLAGS]))
    return _FLAGS[text.lower()]


FORMATS: dict[str, Format] = {
    "llavaguard": Format(
        "LlavaGuard (AIML-TUDA/LlavaGuard)",
        "see the card of AIML-TUDA/LlavaGuard; images have terms of their own",
        "llavaguard/default",
        _llavaguard,
    ),
    "unsafebench": Format(
        "UnsafeBench (yiting/UnsafeBench)",
        "see the card of yiting/UnsafeBench; images have terms of their own",
        "unsafebench/default",
        _unsafebench,
    ),
    "safeedit": Format(
        "SafeEditBench (tyodd/SafeEditBench)",
        "see the card of tyodd/SafeEditBench; images have terms of their own",
        "",
        _safeedit,
    ),
    "folder": Format(None, None, None, _folder),
}
