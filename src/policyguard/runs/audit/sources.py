"""From what a user names to the parts of an audit, in an order that does not change.

Covered: everything that looks like an image in what is named is in exactly one part; what is skipped is
counted and said; an image that a list names twice is judged once; two runs over an unchanged source give
equal parts. Nothing is opened but what tells the rows apart: no image, and no remote shard.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from policyguard.errors import UsageError
from policyguard.images.sniff import IMAGE_SUFFIXES
from policyguard.runs.audit.rows import Item, Part, arrow, arrow_fs, open_filesystem
from policyguard.runs.search import Skipped, search
from policyguard.strict.jsontext import JsonError, parse_json

__all__ = ["ADDRESS", "Spec", "as_text", "digest", "file_at", "is_image_name", "pick_column", "plan", "stamp"]

ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_TAR = (".tar", ".tar.gz", ".tgz")
_LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")
_SHARDS = (*_TAR, ".parquet")
_BYTES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content")
_PATHS = ("path", "image_path", "filepath", "file_path", "file", "filename", "file_name", "image")
_URLS = ("url", "image_url")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MAGIC = re.compile(r"[*?\[]")
_SMALLEST, _LARGEST = 50, 1000


@dataclass(frozen=True, slots=True)
class Spec:
    """What is audited, and how it is read. Relative paths start at the folder ``root``.

    ``column``: which one holds the images; None: the one that is named like it. ``keep``: columns to carry
    along. ``fetch``: images that are given by their URL are fetched. ``per_part``: files, or rows of a list,
    in one part; None: a tenth of what came before, between 50 and 1,000, so that a stop costs little of a
    small audit and a large one has few files.
    """

    sources: tuple[str, ...]
    root: str
    column: str | None = None
    keep: tuple[str, ...] = ()
    fetch: bool = False
    per_part: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sources": list(self.sources), "keep": list(self.keep)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spec:
        return cls(**values | {"sources": tuple(values["sources"]), "keep": tuple(values["keep"])})

    def absolute(self, location: str) -> str:
        """Where ``location`` is, from whatever folder this process runs in."""
        return location if "://" in location else os.path.join(self.root, location)  # noqa: PTH118


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of a source: an image, a shard or a list."""

    name: str
    size: int | None
    mtime: int | None

    @property
    def stamp(self) -> str:
        return f"{self.size} bytes, {self.mtime}"


@dataclass
class _Plan:
    spec: Spec
    notes: list[str] = field(default_factory=list)
    count: bool = True
    seen: set[str] = field(default_factory=set)
    before: int = 0
    """Files, and rows of lists, in the parts so far."""

    def part(self, location: str, items: list[Item]) -> Part:
        self.before += len(items)
        return _listed(location, items)

    def full(self, items: list[Item]) -> bool:
        return len(items) >= (self.spec.per_part or min(max(self.before // 10, _SMALLEST), _LARGEST))

    def parts(self) -> Iterator[Part]:
        waiting: list[Item] = []
        location = ""
        for source in self.names:
            for found in self.files(source):
                if self.repeats(found.name):
                    continue
                name = found.name.lower()
                if is_image_name(name) or not name.endswith((*_SHARDS, *_LISTS, ".arrow")):
                    location = location or source
                    waiting.append(Item(found.name, found.size, found.mtime))
                    if self.full(waiting):
                        yield self.part(location, waiting)
                        waiting, location = [], ""
                    continue
                if waiting:
                    yield self.part(location, waiting)
                    waiting, location = [], ""
                yield from self.shard(found)
        if waiting:
            yield self.part(location, waiting)

    def repeats(self, name: str) -> bool:
        """Whether another source brought ``name`` before."""
        if len(self.names) == 1:
            return False
        known = name in self.seen
        self.seen.add(name)
        return known

    @cached_property
    def names(self) -> list[str]:
        return [name for source in self.spec.sources for name in _unbraced(source, self.spec)]

    def files(self, source: str) -> Iterator[_Found]:
        """The files that one source means. Raises UsageError where there are none."""
        if "://" in source:
            yield from self._remote(source)
            return
        place = Path(self.spec.absolute(source))
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            yield from self._saved_dataset(source, place)
        elif place.is_dir():
            yield from self._folder(source, place)
        elif _MAGIC.search(source) and not place.exists():
            skipped = Skipped()
            yield from (self._file(name) for name in self._searched(source, skipped))
        elif not place.exists():
            raise UsageError(f"there is no '{source}'", hint="check the path; quote patterns and braces")
        else:
            yield self._file(source)

    def _searched(self, source: str, skipped: Skipped) -> Iterator[str]:
        """``search`` from the root, so that keys are the same wherever the process runs."""
        absolute = self.spec.absolute(source)
        cut = None if source == absolute else len(absolute) - len(source)
        for found in search([absolute], skipped, allow_empty=True):
            yield found.name if cut is None else found.name[cut:]

    def _folder(self, source: str, place: Path) -> Iterator[_Found]:
        skipped, any_image = Skipped(), False
        for name in self._searched(source, skipped):
            any_image = True
            yield self._file(name)
        if any_image:
            if note := str(skipped):
                self.notes.append(f"skipped in '{source}': {note}")
            return
        shards = sorted(path for path in place.rglob("*") if path.name.lower().endswith(_SHARDS))
        if not shards:
            raise UsageError(
                f"neither images nor shards found in folder '{source}'",
                hint=f"looked for images, {', '.join(_SHARDS)}, and a data set saved by `datasets`",
            )
        yield from (self._file(str(Path(source) / path.relative_to(place))) for path in shards)

    def _saved_dataset(self, source: str, place: Path) -> Iterator[_Found]:
        """The Arrow files of ``Dataset.save_to_disk``, in its own order."""
        try:
            whole = place / "dataset_dict.json"
            splits = json.loads(whole.read_text(encoding="utf-8"))["splits"] if whole.is_file() else [""]
            for split in splits:
                state = json.loads((place / split / "state.json").read_text(encoding="utf-8"))
                for file in state["_data_files"]:
                    yield self._file(str(Path(source) / split / file["filename"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"the data set saved in '{source}' cannot be read: {error!r}") from None

    def _file(self, name: str) -> _Found:
        return file_at(self.spec, name)

    def _remote(self, url: str) -> Iterator[_Found]:
        fs = arrow_fs()
        base, _, pattern = url.partition("*")
        if pattern or url.endswith("*"):
            base, pattern = base.rpartition("/")[0], url
        else:
            base = url
        filesystem, path = open_filesystem(base)
        info = filesystem.get_file_info(path)
        if info.type == fs.FileType.File:
            yield _Found(base, info.size, info.mtime_ns)
            return
        prefix = base.rstrip("/")
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        any_file = False
        for info in sorted(infos, key=lambda info: str(info.path)):
            name = prefix + str(info.path)[len(path) :]
            lower = name.lower()
            fits = fnmatch(name, pattern) if pattern else is_image_name(lower) or lower.endswith(_SHARDS)
            if info.type == fs.FileType.File and fits:
                any_file = True
                yield _Found(name, info.size, info.mtime_ns)
        if not any_file:
            raise UsageError(f"no image and no shard found at '{url}'")

    def shard(self, found: _Found) -> Iterator[Part]:
        name = found.name.lower()
        if name.endswith(_TAR):
            rows = self._members(found) if self.count and "://" not in name else None
            yield Part(-1, "tar", found.name, rows=rows, fingerprint=digest([found.stamp]))
        elif name.endswith(".arrow"):
            yield Part(-1, "arrow", found.name, fingerprint=digest([found.stamp]))
        elif name.endswith(".parquet"):
            yield from self._parquet(found)
        else:
            yield from self._list(found, _read_list(self.spec, found))

    def _members(self, found: _Found) -> int | None:
        """How many images a shard on this machine holds; None if it cannot be told quickly."""
        if not found.name.lower().endswith(".tar"):
            return None
        with suppress(Exception), tarfile.open(self.spec.absolute(found.name), "r:") as tar:
            return sum(is_image_name(member.name) and not member.isdir() for member in tar)
        return None

    def _parquet(self, found: _Found) -> Iterator[Part]:
        arrow()
        from pyarrow import parquet

        try:
            filesystem, path = open_filesystem(self.spec.absolute(found.name))
            file = parquet.ParquetFile(filesystem.open_input_file(path))
        except UsageError:
            raise
        except Exception:  # what is wrong with it is said where it is judged
            yield Part(-1, "parquet", found.name, fingerprint=digest([found.stamp]))
            return
        with file:
            column, by_bytes = pick_column(file.schema_arrow, self.spec, found.name)
            if not by_bytes:
                wanted = [column, *self.spec.keep]
                batches = file.iter_batches(batch_size=4096, columns=wanted)
                rows = (row for batch in batches for row in batch.to_pylist())
                values = (
                    (number, row[column], [row[name] for name in self.spec.keep])
                    for number, row in enumerate(rows)
                )
                yield from self._list(found, values)
                return
            first = 0
            for group in range(file.metadata.num_row_groups):
                rows_here = file.metadata.row_group(group).num_rows
                mark = digest([found.stamp, f"group {group}"])
                yield Part(-1, "parquet", found.name, first, rows_here, group, mark)
                first += rows_here

    def _list(self, found: _Found, rows: Iterable[tuple[int, object, Sequence[object]]]) -> Iterator[Part]:
        """Parts of the images that a list names; each once."""
        base = found.name.rpartition("/")[0]
        known: dict[bytes, int] = {}
        repeated, waiting, first = [], [], 0
        for number, value, keep in rows:
            if not isinstance(value, str) or not value:
                raise UsageError(f"{found.name}: row {number:,} names no image", hint="correct it or drop it")
            path = value
            if not os.path.isabs(value) and "://" not in value:  # noqa: PTH117 (no name makes it raise)
                path = f"{base}/{value}" if base else value
            mark = hashlib.blake2b(path.encode("utf-8", "backslashreplace"), digest_size=16).digest()
            if (before := known.setdefault(mark, number)) != number:
                repeated.append(f"row {number:,} names '{value}' again (row {before:,} did)")
                continue
            if self.repeats(path):
                repeated.append(f"row {number:,} names '{value}' again (another source did)")
                continue
            size = mtime = None
            if "://" not in path:
                with suppress(OSError):
                    size, mtime = stamp(self.spec.absolute(path))
            waiting.append(Item(path, size, mtime, tuple(map(as_text, keep))))
            if self.full(waiting):
                yield replace(self.part(found.name, waiting), first=first)
                waiting, first = [], number + 1
        if waiting:
            yield replace(self.part(found.name, waiting), first=first)
        if repeated:
            more = f", and {len(repeated) - 5:,} more" if len(repeated) > 5 else ""
            self.notes.append(f"{found.name}: {'; '.join(repeated[:5])}{more}; each is judged once")


def plan(spec: Spec, notes: list[str], *, count: bool = True) -> Iterator[Part]:
    """The parts of what ``spec`` names, numbered from 0. What was skipped is appended to ``notes``.

    ``count``: look into shards on this machine for their numbers of rows. Raises UsageError for a source
    that is not there, has no image, or lacks a column.
    """
    if spec.keep and (plain := [source for source in spec.sources if _is_plain(source, spec)]):
        raise UsageError(
            f"'{plain[0]}' has no columns to keep", hint="--keep is for lists, Parquet files and tar shards"
        )
    try:
        for number, part in enumerate(_Plan(spec, notes, count).parts()):
            yield replace(part, number=number)
    except (OSError, arrow().ArrowException) as error:
        raise UsageError(f"the source cannot be listed: {error}") from error


def _is_plain(source: str, spec: Spec) -> bool:
    """Whether it is a folder of images on this machine."""
    if "://" in source or not os.path.isdir(spec.absolute(source)):  # noqa: PTH112
        return False
    return next(search([spec.absolute(source)], Skipped(), allow_empty=True), None) is not None


def is_image_name(name: str) -> bool:
    """Whether a file or member is named like an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a million of them)


def file_at(spec: Spec, name: str) -> _Found:
    """A file on this machine or an object store as it is now; without size and time if it is not there."""
    if "://" in name:
        filesystem, path = open_filesystem(name)
        info = filesystem.get_file_info(path)
        return _Found(name, info.size, info.mtime_ns)
    try:
        return _Found(name, *stamp(spec.absolute(name)))
    except OSError:
        return _Found(name, None, None)


def stamp(path: str) -> tuple[int, int]:
    """Size and time of the last change (ns). Raises OSError."""
    status = os.stat(path)  # noqa: PTH116 (a million of them)
    return status.st_size, status.st_mtime_ns


def _listed(location: str, items: list[Item]) -> Part:
    mark = digest(f"{item.path}\n{item.size} {item.mtime} {item.keep}" for item in items)
    return Part(-1, "files", location, rows=len(items), fingerprint=mark, items=tuple(items))


def digest(lines: Iterable[str]) -> str:
    whole = hashlib.sha256()
    for line in lines:
        whole.update(line.encode("utf-8", "backslashreplace") + b"\0")
    return whole.hexdigest()[:32]


def _unbraced(source: str, spec: Spec) -> list[str]:
    """``a{0..2}.tar`` and ``{train,val}.tar`` written out, as shells do; a path that is there stays."""
    found = _BRACES.search(source)
    if found is None or ("://" not in source and os.path.lexists(spec.absolute(source))):
        return [source]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if span is not None:
        low, high = int(span[1]), int(span[2])
        width = len(span[1]) if span[1].startswith("0") else 0
        step = 1 if low <= high else -1
        choices = [f"{number:0{width}}" for number in range(low, high + step, step)]
    elif "," in found[1]:
        choices = found[1].split(",")
    else:
        return [source]
    head, tail = source[: found.start()], source[found.end() :]
    return [name for choice in choices for name in _unbraced(head + choice + tail, spec)]


def pick_column(columns: Any, spec: Spec, where: str) -> tuple[str, bool]:
    """Which column holds the images, and whether it holds their bytes.

    ``columns``: a schema of pyarrow. Raises UsageError if none does, or one to keep is not there.
    """
    types = arrow().types
    if absent := [name for name in spec.keep if name not in columns.names]:
        _no_column(where, absent[0], columns.names, "--keep")

    def is_bytes(name: str) -> bool:
        kind = columns.field(name).type
        if types.is_struct(kind):
            return any(kind.field(index).name == "bytes" for index in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_text(name: str) -> bool:
        kind = columns.field(name).type
        return bool(types.is_string(kind) or types.is_large_string(kind))

    if spec.column is not None:
        if spec.column not in columns.names or not (is_bytes(spec.column) or is_text(spec.column)):
            _no_column(where, spec.column, columns.names, "--column")
        return spec.column, is_bytes(spec.column)
    holding = [name for name in columns.names if is_bytes(name)]
    best = [name for name in _BYTES if name in holding] or (holding if len(holding) == 1 else [])
    if best:
        return best[0], True
    return _named(where, [name for name in columns.names if is_text(name)], columns.names), False


def _named(where: str, candidates: Sequence[str], names: Sequence[str]) -> str:
    lower = {name.lower(): name for name in reversed(candidates)}
    for name in (*_PATHS, *_URLS):
        if name in lower:
            return lower[name]
    raise UsageError(
        f"{where}: no column is named like one with images; there are {', '.join(names) or 'none'}",
        hint="name it with --column",
    )


def _no_column(where: str, name: str, names: Iterable[str], option: str) -> None:
    raise UsageError(
        f"{where}: {option} names '{name}', which is no column it can use; there are {', '.join(names)}"
    )


def _read_list(spec: Spec, found: _Found) -> Iterator[tuple[int, object, list[object]]]:
    """Row number, image and kept columns of a CSV or JSONL file. Raises UsageError with the line."""
    filesystem, path = open_filesystem(spec.absolute(found.name))
    with (
        filesystem.open_input_stream(path) as raw,
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
    ):
        try:
            if found.name.lower().endswith((".csv", ".tsv")):
                yield from _read_csv(spec, found.name, text)
            else:
                yield from _read_jsonl(spec, found.name, text)
        except UnicodeDecodeError as error:
            raise UsageError(f"{found.name}: is not UTF-8: {error.reason}") from None


def _read_csv(spec: Spec, name: str, text: Iterable[str]) -> Iterator[tuple[int, object, list[object]]]:
    reader = csv.DictReader(text, delimiter="\t" if name.lower().endswith(".tsv") else ",", strict=True)
    try:
        columns = list(reader.fieldnames or ())
        column = spec.column or _named(name, columns, columns)
        for option, wanted in (("--column", (column,)), ("--keep", spec.keep)):
            if absent := [one for one in wanted if one not in columns]:
                _no_column(name, absent[0], columns, option)
        for number, row in enumerate(reader):
            if None in row or None in row.values():
                raise UsageError(f"{name}:{reader.line_num}: has not as many fields as the header")
            yield number, row[column], [row[one] for one in spec.keep]
    except csv.Error as error:
        raise UsageError(f"{name}:{reader.line_num}: {error}") from None


def _read_jsonl(spec: Spec, name: str, text: Iterable[str]) -> Iterator[tuple[int, object, list[object]]]:
    column = spec.column
    for number, line in enumerate(text):
        try:
            row = parse_json(line)
        except JsonError as error:
            raise UsageError(f"{name}:{number + 1}: {error}") from None
        if not isinstance(row, dict):
            raise UsageError(f"{name}:{number + 1}: is no JSON object")
        column = column or _named(name, [key for key in row if isinstance(row[key], str)], list(row))
        yield number, row.get(column), [row.get(one) for one in spec.keep]


def as_text(value: object) -> str | None:
    """A value that is carried along, as the text it is written with; half surrogate pairs as escapes."""
    if value is None or isinstance(value, str):
        return value and value.encode("utf-8", "backslashreplace").decode()
    return None if isinstance(value, bytes) else json.dumps(value, default=str, ensure_ascii=False)
