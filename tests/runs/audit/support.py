"""Data sets of every kind that an audit reads, and audits of them by how red their pictures are."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image as Pictures
from pyarrow import parquet

from cli.support import house_rules, red
from policyguard.runs.audit.parts import Done
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.run import Engine, Set, Work, left, local, start
from policyguard.runs.audit.sources import Spec
from policyguard.testing import FakeBackend


def shot(number: int, level: int = 0) -> bytes:
    """A PNG of 8 x 8 pixels that differs with ``number``; ``level`` / 255 is its score."""
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8), (level, number // 256 % 256, number % 256)).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(folder: Path, pictures: Iterable[bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(pictures):
        (folder / f"{number:05}.png").write_bytes(data)
    return folder


def tar_of(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def parquet_of(path: Path, columns: dict[str, Sequence[Any]], rows_per_group: int = 2) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    return path


def backend() -> FakeBackend:
    return FakeBackend(red)


def made_of(**changes: Any) -> Set:
    return Set((house_rules().resolve(),), settings={"cache": None}, backend=backend, **changes)


def spec(*sources: str | Path, root: Path, **options: Any) -> Spec:
    return Spec(tuple(map(str, sources)), str(root), **options)


def run(audit: Audit, engine: Engine = local, **options: Any) -> list[Done]:
    """Judge what is left of ``audit``."""
    return list(engine(Work(audit.place.url, made_of(), **options), left(audit), lambda counts: None))


def audited(out: str | Path, found: Spec) -> tuple[list[dict[str, Any]], list[Done]]:
    """The rows of a whole audit of ``found``, and what became of its parts."""
    audit = start(out, found, made_of())
    dones = run(audit)
    return rows(audit), dones


def rows(audit: Audit, *columns: str) -> list[dict[str, Any]]:
    return [row for batch in audit.rows(columns or None) for row in batch.to_pylist()]


def keys(found: Iterable[dict[str, Any]]) -> list[str]:
    return [row["key"] for row in found]


def counted(dones: Iterable[Done]) -> Counter[str]:
    return sum((done.counts for done in dones), Counter())


def contents(folder: Path) -> Iterator[tuple[str, list[Any]]]:
    """The verdict files of an audit, whole, but for the seconds."""
    for path in sorted((folder / "verdicts").glob("[!.]*")):  # a kill may leave a hidden file behind
        table = parquet.read_table(path)
        yield path.name, [table.schema.metadata, table.drop_columns(["seconds"]).to_pylist()]
