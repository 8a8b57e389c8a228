"""The images of one part, read from wherever they lie.

Covered: every row of a part comes out, also one that cannot be read; the rest of a shard that is damaged is a
row of its own; a part whose source changed, or cannot be reached now, raises, and is done another time.
"""

from __future__ import annotations

import tarfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from policyguard.assessment import Failure, FailureKind
from policyguard.errors import FetchError
from policyguard.images import Limits, Snapshot, snapshot
from policyguard.images.fetch import Fetcher
from policyguard.images.refusal import Refusal
from policyguard.runs.audit.rows import Item, Part, arrow, open_filesystem
from policyguard.runs.audit.sources import (
    ADDRESS,
    Spec,
    as_text,
    digest,
    file_at,
    is_image_name,
    pick_column,
    stamp,
)
from policyguard.strict.jsontext import JsonError, parse_json

__all__ = ["NotNowError", "Picture", "pictures"]

_LONGEST_FIELD = 2**20
_READERS = 16
"""Images that are read ahead from an object store, or fetched."""

Keep = tuple[str | None, ...]


class NotNowError(Exception):
    """The part cannot be judged this time."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One row before it is judged. ``failure`` stands where there are no bytes to be judged."""

    key: str
    image: Snapshot | None
    keep: Keep = ()
    failure: Failure | None = None


def pictures(part: Part, spec: Spec, *, accept_changed: bool = False) -> Iterator[Picture]:
    """The images of ``part``, in order. Raises ``NotNowError``, before the first or on the way."""
    reading = {"files": _listed, "tar": _members, "parquet": _cells, "arrow": _cells}[part.kind]
    known: Counter[str] = Counter()
    try:
        if not accept_changed:
            _require_unchanged(part, spec)
        for picture in reading(part, spec):
            known[picture.key] += 1
            if (count := known[picture.key]) > 1:
                picture = replace(picture, key=f"{picture.key}#{count}")
            yield picture
    except OSError as error:
        raise NotNowError(f"{part.location} cannot be read now: {error}") from error


def _require_unchanged(part: Part, spec: Spec) -> None:
    if part.kind == "files":
        for item in part.items:
            if item.mtime is None or "://" in item.path:
                continue
            try:
                now: tuple[int, int] | None = stamp(spec.absolute(item.path))
            except OSError:
                now = None
            if now != (item.size, item.mtime):
                what = "is gone" if now is None else "changed"
                raise NotNowError(f"'{item.path}' {what} since the manifest was made")
        return
    found = file_at(spec, part.location)
    marks = [found.stamp] if part.group is None else [found.stamp, f"group {part.group}"]
    if digest(marks) != part.fingerprint:
        what = "is gone" if found.mtime is None else "changed"
        raise NotNowError(f"'{part.location}' {what} since the manifest was made")


def _broken(part: Part, what: str, error: Exception) -> Picture:
    """A row for what of ``part`` cannot be read: it is not judged, and so not let through."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    key = part.location if part.group is None else f"{part.location}#group-{part.group}"
    return Picture(key, None, failure=Failure(FailureKind.UNSCANNABLE, f"{what}: {text}"))


def _listed(part: Part, spec: Spec) -> Iterator[Picture]:
    if not any("://" in item.path for item in part.items):
        yield from (_on_disk(item, spec) for item in part.items)
        return
    fetcher = Fetcher() if spec.fetch else None
    waiting: deque[Future[Picture]] = deque()
    pool = ThreadPoolExecutor(_READERS, "policyguard-read")
    try:
        for item in part.items:
            waiting.append(pool.submit(_anywhere, item, spec, fetcher))
            if len(waiting) > _READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _on_disk(item: Item, spec: Spec) -> Picture:
    found = snapshot(Path(spec.absolute(item.path)))
    assert isinstance(found, Snapshot)
    return Picture(item.path, replace(found, path=item.path), item.keep)


def _anywhere(item: Item, spec: Spec, fetcher: Fetcher | None) -> Picture:
    if "://" not in item.path:
        return _on_disk(item, spec)
    if not ADDRESS.match(item.path):
        try:
            return Picture(item.path, Snapshot(item.path, _from_store(item.path)), item.keep)
        except FileNotFoundError:
            error = Refusal("there is no such file", hint="check the path")
            return Picture(item.path, Snapshot(item.path, error=error), item.keep)
    if fetcher is None:
        reason = "is an address, and nothing is fetched unless --fetch is given"
        return Picture(item.path, None, item.keep, Failure(FailureKind.UNSCANNABLE, reason))
    try:
        return Picture(item.path, Snapshot(item.path, fetcher.fetch(item.path).data), item.keep)
    except FetchError as error:
        failure = Failure(FailureKind.ERROR, f"cannot be fetched: {error.message}", retryable=True)
        return Picture(item.path, None, item.keep, failure)


def _from_store(url: str) -> bytes:
    filesystem, path = open_filesystem(url)
    with filesystem.open_input_stream(path) as file:
        return bytes(file.read(Limits().max_bytes + 1))


def _members(part: Part, spec: Spec) -> Iterator[Picture]:
    """The images of a tar shard, each with the fields of its sample: the members named alike before a dot."""
    images: list[tuple[str, Snapshot]] = []
    fields: dict[str, bytes] = {}
    sample: str | None = None
    last = part.location

    def finished() -> Iterator[Picture]:
        keep = _fields(fields, spec.keep)
        yield from (Picture(key, image, keep) for key, image in images)
        images.clear()
        fields.clear()

    filesystem, path = open_filesystem(spec.absolute(part.location))
    try:
        with (
            filesystem.open_input_stream(path, compression=None) as raw,
            tarfile.open(fileobj=raw, mode="r|*") as tar,
        ):
            for member in tar:
                if member.isdir():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if (folder + "/" + stem) != sample:
                    yield from finished()
                    sample = folder + "/" + stem
                key = f"{part.location}/{member.name}"
                if is_image_name(member.name):
                    images.append((key, _member(tar, member, key)))
                    last = member.name
                    if not spec.keep:
                        yield from finished()
                elif (
                    spec.keep
                    and member.size <= _LONGEST_FIELD
                    and (file := tar.extractfile(member) if member.isfile() else None) is not None
                ):
                    fields[ending.lower()] = file.read()
            yield from finished()
            _require_end(raw)
            if last == part.location:
                reason = "no member of the shard is named like an image, so nothing of it was judged"
                yield Picture(part.location, None, failure=Failure(FailureKind.UNSCANNABLE, reason))
    except (tarfile.TarError, EOFError, ValueError) as error:
        yield from finished()
        yield _broken(part, f"the shard is damaged behind '{last}', and the rest of it was not judged", error)
    except OSError as error:
        if error.errno is not None:
            raise
        yield from finished()  # what a damaged compression raises
        yield _broken(part, f"the shard is damaged behind '{last}', and the rest of it was not judged", error)


def _require_end(raw: Any) -> None:
    """Raise TarError if more than padding follows the end of a tar: another reader may find members there."""
    while block := raw.read(2**20):
        if block.strip(b"\0"):
            raise tarfile.ReadError("data follows its end mark")


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo, key: str) -> Snapshot:
    if not member.isfile():
        return Snapshot(
            key, error=Refusal("is no file but a link or a device", hint="store the image itself")
        )
    file = tar.extractfile(member)
    data = b"" if file is None else file.read(Limits().max_bytes + 1)
    if len(data) < min(member.size, Limits().max_bytes + 1):
        raise tarfile.ReadError(f"'{member.name}' is cut short")
    return Snapshot(key, data)


def _fields(fields: dict[str, bytes], keep: Sequence[str]) -> Keep:
    """The kept columns of a sample: a member with that ending, else a key of its JSON."""
    if not keep:
        return ()
    record: object = None
    with suppress(JsonError):
        record = parse_json(fields.get("json", b"{}"))
    values: list[str | None] = []
    for name in keep:
        if name.lower() in fields:
            values.append(fields[name.lower()].decode("utf-8", "backslashreplace").strip())
        else:
            values.append(as_text(record.get(name)) if isinstance(record, dict) else None)
    return tuple(values)


def _cells(part: Part, spec: Spec) -> Iterator[Picture]:
    """The images of a Parquet row group, or of an Arrow file, by their numbers in the whole file."""
    pa = arrow()
    filesystem, path = open_filesystem(spec.absolute(part.location))
    row = part.first
    try:
        with filesystem.open_input_file(path) as file:
            for batch in _batches(part, spec, file):
                column, by_bytes = pick_column(batch.schema, spec, part.location)
                if not by_bytes:
                    raise pa.ArrowInvalid(f"column '{column}' holds no bytes")
                for value, *keep in zip(batch[column], *(batch[name] for name in spec.keep), strict=True):
                    kept = tuple(as_text(one.as_py()) for one in keep)
                    yield _cell(value.as_py(), f"{part.location}/{row}", kept, part, spec)
                    row += 1
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        missing = "" if part.rows is None else f" of {part.first + part.rows:,}"
        yield _broken(part, f"rows from {row:,} on{missing} cannot be read and were not judged", error)


def _batches(part: Part, spec: Spec, file: Any) -> Iterator[Any]:
    """Record batches small enough to be held, of the columns that are needed."""
    if part.kind == "arrow":
        from pyarrow import ipc

        yield from (batch.slice(n, 32) for batch in ipc.open_stream(file) for n in range(0, len(batch), 32))
        return
    from pyarrow import parquet

    shard = parquet.ParquetFile(file)
    column, _ = pick_column(shard.schema_arrow, spec, part.location)
    groups = range(shard.metadata.num_row_groups) if part.group is None else [part.group]
    wanted = list(dict.fromkeys((column, *spec.keep)))
    yield from shard.iter_batches(batch_size=32, row_groups=list(groups), columns=wanted)


def _cell(value: object, key: str, keep: Keep, part: Part, spec: Spec) -> Picture:
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
        if data is None and isinstance(path, str) and path:
            if path.startswith("/") or "://" in path or ".." in path.split("/"):
                reason = "the row has no bytes, and its path leads out of the folder of the file"
                return Picture(key, None, keep, Failure(FailureKind.UNSCANNABLE, reason))
            where = "".join((*part.location.rpartition("/")[:2], path))
            return replace(_anywhere(Item(where, keep=keep), spec, None), key=key)
        value = data
    if isinstance(value, bytes):
        return Picture(key, Snapshot(key, value), keep)
    return Picture(key, None, keep, Failure(FailureKind.UNSCANNABLE, "the row holds no image"))
