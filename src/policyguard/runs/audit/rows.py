"""What an audit leaves behind: the columns of its rows, the files of its folder, and their reader.

The folder, on a disk or an object store::

    audit.json                          source, policies, model, settings, counts
    manifest/parts.parquet              the parts of the source, in order
    verdicts/part-00000000.parquet      the rows of part 0; whole, or not there

A verdict file is written whole, so whatever process wrote it, and however often, it is the same file but for
the column ``seconds``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from policyguard.errors import ConfigurationError, MissingExtraError, UsageError
from policyguard.strict.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "FORMAT",
    "Audit",
    "Item",
    "Part",
    "Place",
    "arrow",
    "marked_schema",
    "open_filesystem",
    "schema",
    "write_parts",
]

FORMAT = 1
"""Of the rows, and of the folder. Raised with every change that a reader must know of."""
_HELD = ("mark", "source", "options", "policies", "model", "settings", "counts")
"""What an ``audit.json`` of this format holds, besides what only people read."""
_PARTS_TOGETHER = 16
"""Parts per row group of the manifest, so that one part is read without the others."""


def arrow() -> Any:
    """``pyarrow``. Raises MissingExtraError."""
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("pyarrow", "audit") from None
    return pa


def schema(keep: Sequence[str] = ()) -> pa.Schema:
    """The columns of the rows; ``keep``: columns of the source that are carried along, as texts.

    ========================  ==========================================================================
    key                       the image's path, or ``shard/member``; no two rows of an audit share one
    part, row                 the part it is of, and its place in it, from 0
    policy, fingerprint       ids and fingerprints of the policies, with ", " between several
    sha256                    of the bytes; null where they could not be read
    outcome, action, score    as in a verdict (docs/verdict.md); score is null where there is none
    rules                     the rules it breaks, each with score, threshold and action
    closest                   else the rule that it comes closest to breaking
    rationale, reason         the model's words, if asked for; why an image could not be judged
    degraded, partial         as in a verdict
    duplicate_of              key of an earlier row of the part with equal bytes, whose verdict this is
    dhash                     64-bit difference hash of the first frame: few differing bits, alike images
    seconds                   for decoding and judging; 0 for a duplicate
    keep_NAME                 a column carried along
    ========================  ==========================================================================

    With several policies, ``rule`` is written ``policy:rule``.
    """
    pa = arrow()
    text, finding = pa.string(), [("rule", pa.string()), ("score", pa.float64())]
    broken = pa.struct([*finding, ("threshold", pa.float64()), ("action", pa.string())])
    columns = [
        pa.field("key", text, nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
        pa.field("policy", text, nullable=False),
        pa.field("fingerprint", pa.dictionary(pa.int32(), text), nullable=False),
        pa.field("sha256", text),
        pa.field("outcome", text, nullable=False),
        pa.field("action", text, nullable=False),
        pa.field("score", pa.float64()),
        pa.field("rules", pa.list_(broken), nullable=False),
        pa.field("closest", pa.struct(finding)),
        pa.field("rationale", text),
        pa.field("reason", text),
        pa.field("degraded", pa.bool_(), nullable=False),
        pa.field("partial", pa.bool_(), nullable=False),
        pa.field("duplicate_of", text),
        pa.field("dhash", pa.uint64()),
        pa.field("seconds", pa.float32(), nullable=False),
        *(pa.field(f"keep_{name}", text) for name in keep),
    ]
    return pa.schema(columns, metadata={"policyguard.audit.format": str(FORMAT)})


def marked_schema(columns: pa.Schema, mark: str, part: int) -> pa.Schema:
    """``columns``, marked as those of one part of one audit."""
    mine = {"policyguard.audit.mark": mark, "policyguard.audit.part": str(part)}
    return columns.with_metadata({**columns.metadata, **mine})


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a part that lists its images. ``size`` and ``mtime`` (ns) where they are known."""

    path: str
    size: int | None = None
    mtime: int | None = None
    keep: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the source that is judged as one: the rows from ``first`` on of what lies at ``location``.

    ``kind``: ``files`` (listed in ``items``), ``tar``, ``parquet`` (row group ``group``) or ``arrow``.
    ``rows`` is None where counting them would mean to read a remote shard. ``fingerprint`` changes with the
    source.
    """

    number: int
    kind: str
    location: str
    first: int = 0
    rows: int | None = None
    group: int | None = None
    fingerprint: str = ""
    items: tuple[Item, ...] = field(default=(), repr=False)

    @property
    def file(self) -> str:
        """The name of its file of verdicts, in the audit's folder."""
        return f"verdicts/part-{self.number:08}.parquet"


def _parts_schema() -> pa.Schema:
    pa = arrow()
    item = [("path", pa.binary()), ("size", pa.int64()), ("mtime", pa.int64())]
    return pa.schema(
        [
            ("number", pa.int32()),
            ("kind", pa.string()),
            ("location", pa.binary()),
            ("first", pa.int64()),
            ("rows", pa.int64()),
            ("group", pa.int32()),
            ("fingerprint", pa.string()),
            ("items", pa.list_(pa.struct([*item, ("keep", pa.list_(pa.string()))]))),
        ]
    )


class Place:
    """A folder on a disk, or on an object store by its URL (``s3://``, ``gs://``, ``hf://``, ``memory://``)."""

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/") or "/"

    @property
    def local(self) -> Path | None:
        """The folder as a path, if it is on a disk."""
        return None if "://" in self.url else Path(self.url)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_filesystem(self.url)

    @property
    def filesystem(self) -> Any:
        return self._opened[0]

    def path(self, name: str) -> str:
        """Where ``name`` is, as ``filesystem`` calls it."""
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError and other OSErrors."""
        if self.local is not None:
            return (self.local / name).read_bytes()
        with self.filesystem.open_input_stream(self.path(name)) as file:
            return bytes(file.read())

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A file to write into, which is there when the block ends well, and then whole. Raises OSError."""
        if self.local is not None:
            (self.local / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.local / name) as file:
                yield file
            return
        if self.filesystem.type_name.startswith("py::"):  # a file system of fsspec may want folders
            self.filesystem.create_dir(self.path(name).rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(self.path(name)) as file:
            yield file

    def write(self, name: str, data: bytes) -> None:
        """``writing``, for what is in memory."""
        with self.writing(name) as file:
            file.write(data)

    def names(self, folder: str) -> list[str]:
        """The files in ``folder``, without it, sorted; none if it is not there."""
        selector = arrow_fs().FileSelector(self.path(folder), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.is_file and not info.base_name.startswith("."))


def arrow_fs() -> Any:
    """``pyarrow.fs``. Raises MissingExtraError."""
    arrow()
    from pyarrow import fs

    return fs


def open_filesystem(url: str) -> tuple[Any, str]:
    """The pyarrow file system of a path or URL, and what it calls the place.

    Raises ConfigurationError, with what to install, where there is none.
    """
    fs = arrow_fs()
    scheme, separator, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ConfigurationError(
            f"{scheme}://***@{rest.partition('@')[2]} holds a key, which would be in every row",
            hint="give it in the environment, as the store's own tools want it",
        )
    if not separator:
        return fs.LocalFileSystem(), str(Path(url).absolute())
    try:
        if scheme in ("s3", "gs", "gcs", "hdfs", "file", "abfs"):
            filesystem, path = fs.FileSystem.from_uri(url)
        else:
            from fsspec.core import url_to_fs

            inner, path = url_to_fs(url)
            filesystem = fs.PyFileSystem(fs.FSSpecHandler(inner))
    except (ImportError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"{url}: {error}",
            hint="s3:// and gs:// need no further package; hf:// needs huggingface_hub, others the package "
            "that fsspec names",
        ) from None
    return filesystem, path.rstrip("/")


def write_parts(place: Place, parts: Iterator[Part]) -> tuple[int, int | None]:
    """Write the manifest, in memory that does not grow with it; how many parts and rows (if known) it has."""
    pa = arrow()
    from pyarrow import parquet

    columns = _parts_schema()
    count, rows, unknown = 0, 0, False
    with (
        place.writing("manifest/parts.parquet") as file,
        parquet.ParquetWriter(file, columns, compression="zstd") as writer,
    ):
        batch: list[dict[str, Any]] = []

        def flush() -> None:
            if batch:
                writer.write_table(pa.Table.from_pylist(batch, columns), row_group_size=_PARTS_TOGETHER)
                batch.clear()

        for part in parts:
            count, rows = count + 1, rows + (part.rows or 0)
            unknown |= part.rows is None
            batch.append(_as_dict(part))
            if len(batch) == _PARTS_TOGETHER:
                flush()
        flush()
    return count, None if unknown else rows


def _as_dict(part: Part) -> dict[str, Any]:
    values = {name: getattr(part, name) for name in part.__slots__}
    items = part.items
    values["location"] = os.fsencode(part.location)  # names of files are bytes
    values["items"] = [
        {"path": os.fsencode(item.path), "size": item.size, "mtime": item.mtime, "keep": list(item.keep)}
        for item in items
    ]
    return values


def _as_part(values: dict[str, Any]) -> Part:
    items = tuple(
        Item(os.fsdecode(item["path"]), item["size"], item["mtime"], tuple(item["keep"]))
        for item in values["items"]
    )
    return Part(**{**values, "location": os.fsdecode(values["location"]), "items": items})


@dataclass
class Audit:
    """The folder of an audit, for reading. ``about`` is what its ``audit.json`` holds."""

    place: Place
    about: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Raises UsageError if no audit is there, or one of another format."""
        place = Place(folder)
        try:
            about = json.loads(place.read("audit.json"))
            found = about["format"]
        except FileNotFoundError:
            raise UsageError(
                f"{place.url} holds no audit: there is no audit.json in it",
                hint="start one with `policyguard audit SOURCE --out FOLDER`",
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{place.url}/audit.json cannot be read: {error}") from None
        if found != FORMAT:
            raise UsageError(
                f"{place.url} is an audit of format {found}, and this version reads format {FORMAT}",
                hint="use the version of policyguard that wrote it, or audit again",
            )
        if missing := [name for name in _HELD if name not in about]:
            raise UsageError(
                f"{place.url}/audit.json lacks {', '.join(missing)}",
                hint="it was changed by hand: audit again",
            )
        return cls(place, about)

    @property
    def keep(self) -> tuple[str, ...]:
        """The columns of the source that are carried along, without the prefix ``keep_``."""
        return tuple(self.about["options"]["keep"])

    def parts(self) -> Iterator[Part]:
        """All parts, in order."""
        for index in range(self._manifest.num_row_groups):
            yield from map(_as_part, self._manifest.read_row_group(index).to_pylist())

    def part(self, number: int) -> Part:
        """One part, without reading the others."""
        group = self._manifest.read_row_group(number // _PARTS_TOGETHER)
        return _as_part(group.slice(number % _PARTS_TOGETHER, 1).to_pylist()[0])

    @cached_property
    def _manifest(self) -> Any:
        arrow()
        from pyarrow import parquet

        path = self.place.path("manifest/parts.parquet")
        return parquet.ParquetFile(self.place.filesystem.open_input_file(path))

    def done(self) -> set[int]:
        """The numbers of the parts that are done: whose file is whole, and of this audit."""
        arrow()
        from pyarrow import parquet

        done = set()
        for name in self.files():
            with suppress(Exception):  # whatever is wrong with it, the part is done again
                marks = parquet.read_schema(name, filesystem=self.place.filesystem).metadata
                number = int(marks[b"policyguard.audit.part"])
                if marks[b"policyguard.audit.mark"].decode() == self.about["mark"] and name.endswith(
                    Part(number, "", "").file
                ):
                    done.add(number)
        return done

    def files(self) -> list[str]:
        """The files of verdicts that are there, by their parts' order, as the file system calls them."""
        return [self.place.path(f"verdicts/{name}") for name in self.place.names("verdicts")]

    def require_own(self) -> None:
        """Raise UsageError if a file of verdicts is damaged, or is not of this audit."""
        own = {Part(number, "", "").file for number in self.done()}
        strange = [name for name in self.place.names("verdicts") if f"verdicts/{name}" not in own]
        if strange:
            more = f", and so are {len(strange) - 1:,} more" if len(strange) > 1 else ""
            raise UsageError(
                f"{self.place.url}/verdicts/{strange[0]} is damaged, or not of this audit{more}",
                hint="`policyguard audit resume` makes the files of its own parts again; move others away",
            )

    def rows(
        self, columns: Sequence[str] | None = None, *, where: pa.compute.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of all parts that are done, in order, batch by batch.

        ``columns``: these alone. ``where``: rows that this expression of ``pyarrow.compute`` holds for.
        """
        arrow()
        from pyarrow import dataset

        files = self.files()
        if not files:
            return
        found = dataset.dataset(
            files, schema=schema(self.keep), filesystem=self.place.filesystem, format="parquet"
        )
        wanted = None if columns is None else list(columns)
        yield from found.to_batches(columns=wanted, filter=where, batch_readahead=4, fragment_readahead=2)
