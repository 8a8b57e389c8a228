"""What an audit is for: the rows that a condition holds for, and the images themselves, in a folder.

Covered: a copy is put in its place whole, and only if its bytes are the ones that were judged; what stands
there already stays, and is named if it differs; no name leads out of the folder, and no link is followed
within it. Not covered: a hard link shares its bytes with the source, so whoever changes one changes both; and
a power cut can leave a file empty, which the next run names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self

from policyguard.errors import UsageError
from policyguard.images.sniff import media_type
from policyguard.outcomes import Action
from policyguard.runs.audit.labels import Images, cell
from policyguard.runs.audit.reading import NotNowError, pictures
from policyguard.runs.audit.report import scale_of
from policyguard.runs.audit.rows import Audit, Part, arrow
from policyguard.runs.audit.run import spec_of
from policyguard.runs.audit.sampling import Drawn
from policyguard.runs.audit.sources import Spec, is_image_name
from policyguard.runs.audit.tally import chunks
from policyguard.runs.audit.where import Where, parse_where
from policyguard.strict.files import check_place, replacing
from policyguard.strict.text import quoted

__all__ = ["ALLOWED", "TABLE", "Copied", "Order", "copy", "numbered", "read_where", "select"]

ALLOWED = f'action != "{Action.BLOCK}"'
"""The images that may be used: what ``Verdict.allowed`` holds for."""
TABLE = ("key", "action", "outcome", "rules", "score", "reason")
"""The columns of a selection in a ``.csv`` or ``.jsonl`` file."""
Order = Literal["source", "worst", "score"]
"""As the source has them; what is blocked first, then by score; by score alone. Highest scores first."""
_NAMED = 1000
"""Images that could not be copied of which each is told."""


def read_where(audit: Audit, text: str) -> Where:
    """A condition on the rows of ``audit``. Raises UsageError that points at what is wrong."""
    return parse_where(text, keep=audit.keep, rules=list(scale_of(audit.about).rules))


def select(
    audit: Audit,
    where: Where,
    out: Path | Callable[[str], object],
    *,
    order: Order = "source",
    once: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> int:
    """Write the rows that ``where`` holds for, and give their number. ``once``: of equal bytes, the first.

    A function is called with each key and a line end, and a ``.txt`` file has the same lines; ``.csv`` and
    ``.jsonl`` have the columns ``TABLE``, for people; ``.parquet`` has all. The old file stays until the new
    one is whole. Raises UsageError for another ending, and for a key with a line break in a list.
    """
    if not isinstance(out, Path):
        return _lines(_selected(audit, where, ["key"], progress, order, once=once), out)
    if out.suffix not in (".txt", ".csv", ".jsonl", ".parquet"):
        raise UsageError(
            f"--out: '{out}' ends in none of .txt, .csv, .jsonl and .parquet",
            hint="the ending says what is written",
        )
    check_place(out, name="--out", folder=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    columns = {".txt": ["key"], ".parquet": None}.get(out.suffix, list(TABLE))
    tables = _selected(audit, where, columns, progress, order, once=once)
    with replacing(out) as file:
        if out.suffix == ".txt":
            return _lines(tables, lambda line: file.write(line.encode()))
        if out.suffix != ".parquet":
            return _written(tables, file, out.suffix)
        from pyarrow import parquet

        count = 0
        writer: Any = None
        for table in tables:
            writer = writer or parquet.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
            count += table.num_rows
        if writer is not None:
            writer.close()
    return count


def _lines(tables: Iterator[Any], write: Callable[[str], object]) -> int:
    count = 0
    for table in tables:
        for key in table["key"].to_pylist():
            if "\n" in key or "\r" in key:
                raise UsageError(
                    f"the key {quoted(key)} holds a line break, and cannot stand in a list",
                    hint="write a .jsonl or .parquet file",
                )
            write(f"{key}\n")
        count += table.num_rows
    return count


def _written(tables: Iterator[Any], file: Any, ending: str) -> int:
    """Write ``TABLE`` of each row: JSON lines, or cells that no spreadsheet takes for formulas."""
    count, head = 0, ending == ".csv"
    for table in tables:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        if head:
            writer.writerow(TABLE)
        head = False
        for row in table.select(list(TABLE)).to_pylist():
            row["rules"] = [found["rule"] for found in row["rules"]]
            if ending == ".jsonl":
                text.write(json.dumps(row, ensure_ascii=False) + "\n")
                continue
            row["rules"] = ", ".join(row["rules"])
            writer.writerow(cell(value) if isinstance(value, str) else value for value in row.values())
        file.write(text.getvalue().encode())
        count += table.num_rows
    return count


def _selected(
    audit: Audit,
    where: Where,
    columns: list[str] | None,
    progress: Callable[[int], None],
    order: Order = "source",
    *,
    once: bool = False,
) -> Iterator[Any]:
    """The rows that ``where`` holds for; in another order than the source's, all in one table.

    ``once``: of those with equal bytes, the first alone.
    """
    audit.require_own()
    needed = {"source": (), "score": ("score",), "worst": ("action", "score")}[order]
    if once:
        needed = (*needed, "sha256")
    wanted = None if columns is None else list(dict.fromkeys([*columns, *where.columns, *needed]))
    seen, held, known = 0, [], set[str]()
    for table in chunks(audit.rows(wanted)):
        kept = where.filter(table)
        if once:
            kept = kept.filter(arrow().array(_new(kept["sha256"].to_pylist(), known), arrow().bool_()))
        if order == "source":
            yield kept
        else:
            held.append(kept)
        seen += table.num_rows
        progress(seen)
    if held:
        yield _ordered(arrow().concat_tables(held), order)


def _new(hashes: list[str | None], known: set[str]) -> list[bool]:
    """Which of ``hashes`` come for the first time; what has none is like nothing. They become ``known``."""
    found = []
    for sha256 in hashes:
        found.append(sha256 is None or sha256 not in known)
        if sha256 is not None:
            known.add(sha256)
    return found


def _ordered(table: Any, order: Order) -> Any:
    """The highest scores first; for ``worst``, of what is blocked, then of what is flagged."""
    from pyarrow import compute as pc

    severity = pc.index_in(table["action"], arrow().array([*map(str, Action)])) if order == "worst" else None
    keys = {} if severity is None else {"severity": severity}
    marks = arrow().table({**keys, "score": table["score"]})
    return table.take(pc.sort_indices(marks, sort_keys=[(name, "descending") for name in marks.column_names]))


@dataclass
class Copied:
    """What became of the selected images. ``counts`` has ``copied``, ``there already`` and ``failed``, and of
    all selected the ``flagged``, ``degraded`` and ``partial``; ``problems`` names the first that failed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def add(self, key: str, problem: str | None) -> None:
        """An image that was copied, or why it was not."""
        self.counts["copied" if problem is None else "failed"] += 1
        if problem is not None and len(self.problems) < _NAMED:
            self.problems.append(f"{key}: {problem}")


def copy(
    audit: Audit,
    folder: Path,
    where: Where,
    *,
    link: bool = False,
    once: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Copied:
    """Put the images that ``where`` holds for into ``folder``, each under its key.

    What a run that was stopped has put there is left as it is, if it has the bytes that were judged.
    ``link``: hard links to the source's files instead of copies. ``once``: of images with equal bytes, the
    first alone. ``progress`` gets the number of images done after each part. Raises UsageError if ``folder``
    cannot take them, or for ``link`` where the source has no files on this machine.
    """
    spec, done = spec_of(audit), Copied()
    columns = ["part", "row", "key", "sha256", "action", "degraded", "partial"]
    tables = _selected(audit, where, columns, lambda rows: None, once=once)
    rows = (row for table in tables for row in table.select(columns).to_pylist())
    with _Target(folder, audit, spec) as target:
        _copy_rows(audit, rows, spec, target, done, link=link, progress=progress)
    return done


@contextmanager
def numbered(audit: Audit, folder: Path, done: Copied, *, beside: Path) -> Iterator[Images]:
    """Puts the images of a sample into the new ``folder``, numbered as they come: ``0001.png``.

    What the block gets gives the path of each as seen from the file ``beside``, or nothing where an image
    cannot be had; why is in ``done``. Raises UsageError if ``folder`` holds anything, or cannot be used.
    """
    check_place(folder, name="the folder for the images", folder=True)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty", hint="name a new folder for the images of a sample")
    spec = spec_of(audit)
    where = folder.absolute().as_posix()
    with suppress(ValueError):  # on another drive
        where = Path(os.path.relpath(folder, beside.parent)).as_posix()
    with _Target(folder, audit, spec) as target:

        def put(rows: Sequence[Drawn]) -> list[str]:
            parts: dict[int, dict[int, tuple[str, str]]] = {}
            for number, row in enumerate(rows, 1):
                name = f"{number:04}{Path(row.key).suffix if is_image_name(row.key) else ''}"
                if row.sha256 is None:
                    done.add(name, f"'{row.key}' could not be read when it was judged")
                else:
                    parts.setdefault(row.part, {})[row.row] = name, row.sha256
            for part, wanted in sorted(parts.items()):
                _copy_part(audit.part(part), spec, wanted, target, done, link=False)
            there = {path.name.partition(".")[0]: f"{where}/{path.name}" for path in folder.iterdir()}
            return [there.get(f"{number:04}", "") for number in range(1, len(rows) + 1)]

        yield put


def _copy_rows(
    audit: Audit,
    rows: Iterator[dict[str, Any]],
    spec: Spec,
    target: _Target,
    done: Copied,
    *,
    link: bool,
    progress: Callable[[int], None],
) -> None:
    for number, group in groupby(rows, key=lambda row: row["part"]):
        wanted: dict[int, tuple[str, str]] = {}
        for row in group:
            key, sha256 = row["key"], row["sha256"]
            done.counts.update(name for name in ("degraded", "partial") if row[name])
            done.counts["flagged"] += row["action"] == Action.FLAG
            if sha256 is None:
                done.add(key, "its bytes could not be read when it was judged")
            elif target.holds(key, sha256):
                done.counts["there already"] += 1
            else:
                wanted[row["row"]] = key, sha256
        if wanted:
            _copy_part(audit.part(number), spec, wanted, target, done, link=link)
        progress(sum(done.counts[name] for name in ("copied", "there already", "failed")))


def _copy_part(
    part: Part, spec: Spec, wanted: dict[int, tuple[str, str]], target: _Target, done: Copied, *, link: bool
) -> None:
    if part.kind == "files" and not any("://" in part.items[row].path for row in wanted):
        for row, (key, sha256) in wanted.items():
            source = Path(spec.absolute(part.items[row].path))
            done.add(key, target.put(key, sha256, source, link=link))
        return
    if link:
        raise UsageError(
            f"'{part.location}' is not made of files on this machine, which alone can be linked",
            hint="leave out --link",
        )
    reason = "it is not in its shard any more"
    try:
        for row, picture in enumerate(pictures(part, spec, accept_changed=True)):
            if row in wanted:
                key, sha256 = wanted.pop(row)
                image = picture.image
                if image is None or image.error is not None:
                    done.add(key, "it cannot be read any more")
                else:
                    done.add(key, target.put(key, sha256, image.data))
            if not wanted:
                return
    except NotNowError as error:
        reason = str(error)
    for key, _ in wanted.values():
        done.add(key, reason)


class _Target:
    """The folder that images are put into."""

    def __init__(self, folder: Path, audit: Audit, spec: Spec) -> None:
        check_place(folder, name="the folder for the images", folder=True)
        root = Path(os.path.realpath(folder))
        held = [Path(os.path.realpath(spec.absolute(name))) for name in spec.sources if "://" not in name]
        if audit.place.local is not None:
            held.append(Path(os.path.realpath(audit.place.local)))
        for place in held:
            if place in (root, *root.parents):
                raise UsageError(
                    f"{folder} lies in {place}, which belongs to the audit",
                    hint="name a folder outside of it",
                )
        root.mkdir(parents=True, exist_ok=True)
        self._root, self._staging = root, root / ".policyguard-partial"
        shutil.rmtree(self._staging, ignore_errors=True)  # of a run that was killed
        self._staging.mkdir()
        # Names in a source such as ../photos begin with the way up to it, which no copy needs.
        ways_up = {found[0] for name in spec.sources if (found := re.match(r"(\.\./)+", name))}
        self._ways_up = sorted(ways_up, key=len, reverse=True)
        self._made: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)

    def _place(self, key: str, ending: str = "") -> Path:
        """Where an image goes. Raises _RefusedError if that is not in the folder."""
        name = re.sub(r"^[a-z0-9+.-]+://", "", key, flags=re.IGNORECASE)
        way_up = next(filter(name.startswith, self._ways_up), "")
        name = os.path.normpath(name.removeprefix(way_up).lstrip("/"))
        if "\0" in name or name in (".", "..") or name.startswith("../") or os.path.isabs(name):  # noqa: PTH117
            raise _RefusedError("its name leads out of the folder")
        if name.partition("/")[0] == self._staging.name:
            raise _RefusedError(f"the name {self._staging.name} is needed for what is not whole yet")
        place = self._root / (name + ending)
        if place.parent not in self._made:
            for step in (place.parent, *place.parent.parents):
                if step == self._root:
                    break
                if step.is_symlink():
                    raise _RefusedError(f"{step} is a link, and is not followed")
        return place

    def holds(self, key: str, sha256: str) -> bool:
        """Whether the image is there already."""
        for ending in ("",) if is_image_name(key) else ("", *_ENDINGS.values()):
            with suppress(_RefusedError, OSError):
                if _sha256(self._place(key, ending)) == sha256:
                    return True
        return False

    def put(self, key: str, sha256: str, source: Path | bytes, *, link: bool = False) -> str | None:
        """Put an image in its place; None, or why it is not there."""
        partial: Path | None = None
        try:
            if isinstance(source, Path):
                source = Path(os.path.realpath(source))  # the file itself, not a link to it
                with _opened(source) as file:
                    head = file.read(_HEAD)
            else:
                head = source[:_HEAD]
            ending = "" if is_image_name(key) else _ENDINGS.get(media_type(head) or "", "")
            place = self._place(key, ending)
            place.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(place.parent)
            partial = self._staging / uuid.uuid4().hex
            if isinstance(source, bytes):
                partial.write_bytes(source)
            elif link:
                os.link(source, partial)
            else:
                with _opened(source) as file, partial.open("xb") as copied:
                    while block := file.read(_BLOCK):
                        copied.write(block)
            if _sha256(partial) != sha256:
                return "it has changed since it was judged"
            return _published(partial, place, sha256)
        except _RefusedError as error:
            return str(error)
        except OSError as error:
            return f"{error.strerror or error}"
        finally:
            if partial is not None:
                partial.unlink(missing_ok=True)


class _RefusedError(Exception):
    """An image has no place in the folder."""


_BLOCK, _HEAD = 1 << 20, 64
_ENDINGS = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp"}


def _opened(path: Path) -> BufferedReader:
    """A file for reading; what is none (a pipe would wait for ever) raises OSError."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(0, "it is no file any more")
    return file


def _sha256(path: Path) -> str | None:
    """Of the file at ``path``; None if there is none. A link is not followed."""
    if path.is_symlink() or not path.is_file():
        return None
    with _opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _published(partial: Path, place: Path, sha256: str) -> str | None:
    """Give the file its name, unless something else has it."""
    try:
        os.link(partial, place)
    except FileExistsError:
        return None if _sha256(place) == sha256 else f"{place} is there already and holds something else"
    except OSError:  # a file system without hard links
        if os.path.lexists(place):
            return None if _sha256(place) == sha256 else f"{place} is there already and holds something else"
        partial.rename(place)
    return None
