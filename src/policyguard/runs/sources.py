"""From the paths on a command line to the images that are checked.

Nothing named goes unjudged: what cannot be opened is handed on and becomes UNSCANNABLE. In folders, files are
chosen by the ending of their names, and what is passed over is counted, so that it can be said. Patterns are
expanded here, the same way under every shell and none.

The images of a run, in order, in memory that does not grow with their number.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path
from typing import BinaryIO
from policyguard.errors import UsageError
import tempfile
import threading
from typing import IO
from typing import Self

__all__ = [
    "IMAGE_SUFFIXES",
    "Skipped",
    "Source",
    "Sources",
    "collect",
    "search",
]


READABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjp", ".pjpeg", ".webp", ".gif")
UNREADABLE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".cur", ".dib", ".dng", ".heic", ".heif", ".hif", ".ico", ".j2k", ".jp2"),
    *(".jpx", ".jxl", ".jxr", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".svgz", ".tga", ".tif"),
    ".tiff",
)
_MAGIC = re.compile(r"[*?\[]")

IMAGE_SUFFIXES = frozenset(READABLE_SUFFIXES + UNREADABLE_SUFFIXES)
"""Names of images in a folder, in lower case. Those that cannot be decoded are reported, not passed over."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image to check: how it is called in the output, and, unless that is its path, what it is."""

    name: str
    data: Path | bytes | str | None = None

    @property
    def image(self) -> Path | bytes | str:
        """What the guard is given."""
        return Path(self.name) if self.data is None else self.data


@dataclass(slots=True)
class Skipped:
    """What was passed over in folders: file endings with their counts, hidden folders, links to folders."""

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    linked: int = 0

    def __str__(self) -> str:
        parts = []
        if self.endings:
            shown = ", ".join(ending or "no ending" for ending, _ in self.endings.most_common(5))
            more = ", ..." if len(self.endings) > 5 else ""
            parts.append(f"{_count(self.endings.total(), 'file')} not named like an image ({shown}{more})")
        if self.hidden:
            parts.append(_count(self.hidden, "hidden folder"))
        if self.linked:
            parts.append(_count(self.linked, "link") + " to folders")
        return " and ".join(parts)


def collect(paths: Iterable[str], stdin: BinaryIO | None = None) -> tuple[list[Source], Skipped]:
    """The images that ``paths`` name, in a fixed order: as given, folders by sorted names, each once.

    Raises UsageError for a folder or a pattern without images, and for ``-`` without an image on ``stdin``.
    """
    skipped = Skipped()
    return list(search(list(paths), skipped, stdin)), skipped


def search(
    paths: Sequence[str], skipped: Skipped, stdin: BinaryIO | None = None, *, allow_empty: bool = False
) -> Iterator[Source]:
    """``collect``, one by one; what is passed over is counted in ``skipped``.

    ``allow_empty``: a folder or a pattern without images is none, and the other paths are searched.
    """
    if paths.count("-") > 1:
        raise UsageError("'-' stands for one image on standard input, and is given twice")
    seen: set[str] | None = set() if len(paths) > 1 else None
    for path in paths:
        for source in _named(path, skipped, stdin, allow_empty=allow_empty):
            if seen is not None:  # such as a file that is named, and then its folder
                key = os.path.abspath(source.name) if source.data is None else source.name  # noqa: PTH100
                if key in seen:
                    continue
                seen.add(key)
            yield source


def _named(path: str, skipped: Skipped, stdin: BinaryIO | None, *, allow_empty: bool) -> Iterator[Source]:
    """The images that one path means."""
    if path == "-":
        yield _from_stdin(stdin)
    elif os.path.isdir(path):  # noqa: PTH112 (no name makes it raise)
        found = _walk(path, skipped)
        yield from (
            found
            if allow_empty
            else _some(
                found,
                f"no image found in folder '{path}'",
                f"looked for names ending in {', '.join(READABLE_SUFFIXES)}, in sub-folders too; "
                "files named one by one are checked whatever they are called",
            )
        )
    elif path.startswith(("http://", "https://")) and not os.path.lexists(path):
        yield Source(path, path)  # as text, so that the guard can say what it thinks of URLs
    elif _MAGIC.search(path) and not os.path.lexists(path):
        hint = "`*` stays within a folder and `**` does not; hidden folders are not searched"
        found = _expand(path, skipped)
        yield from found if allow_empty else _some(found, f"no image matches '{path}'", hint)
    else:
        yield Source(path)


def _some(sources: Iterator[Source], message: str, hint: str) -> Iterator[Source]:
    """``sources``. Raises UsageError if there are none."""
    first = next(sources, None)
    if first is None:
        raise UsageError(message, hint=hint)
    yield first
    yield from sources


def _expand(pattern: str, skipped: Skipped) -> Iterator[Source]:
    """The files that a pattern means: those that look like images, or have an ending that it names."""
    from policyguard.runs.patterns import Patterns

    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    base = str(Path(*parts[:first])) if first else "."
    # Behind a slash, a pattern of .gitignore means what a shell means: folders that it matches are searched.
    wanted = Patterns(["/" + "/".join(parts[first:])], where=f"the pattern {pattern!r}")
    ending = Path(pattern).suffix.lower()
    found = _walk(base, skipped, ending=ending if not _MAGIC.search(ending) else "")
    for source in found:
        below = Path(os.path.relpath(source.name, base)).as_posix()
        unlisted = os.path.isdir(source.name)  # noqa: PTH112 (no name makes it raise)
        if wanted.match(below) or unlisted:
            yield source


def _walk(folder: str, skipped: Skipped, *, ending: str = "") -> Iterator[Source]:
    unreadable: list[str] = []
    for root, folders, files in os.walk(folder, onerror=lambda error: unreadable.append(str(error.filename))):
        here = Path(root)
        hidden = {name for name in folders if name.startswith(".")}
        linked = {name for name in folders if (here / name).is_symlink()} - hidden
        skipped.hidden += len(hidden)
        skipped.linked += len(linked)
        folders[:] = sorted(set(folders) - hidden - linked)
        for path in (here / name for name in sorted(files)):
            if path.suffix.lower() in IMAGE_SUFFIXES or (ending and path.suffix.lower() == ending):
                yield Source(str(path))
            else:
                skipped.endings[path.suffix.lower()] += 1
    # A folder that cannot be listed may hold anything: the guard gets it, and reports it as unscannable.
    yield from map(Source, sorted(unreadable))


def _from_stdin(stdin: BinaryIO | None) -> Source:
    if stdin is None or stdin.isatty():
        raise UsageError(
            "'-' reads an image from standard input, and none is piped in", hint="... < image.png"
        )
    from policyguard.images import Limits

    # One byte more than is allowed is enough for the decoder to refuse it, and keeps memory bounded.
    return Source("<stdin>", stdin.read(Limits().max_bytes + 1))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


_IN_MEMORY = 2000
_CHUNK = 64 * 1024


class Sources:
    """Sources that are appended first and iterated over then, as often and as many at once as needed.

    Names beyond the first 2,000 are kept in a temporary file, which goes away with this object.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._first: list[Source] = []
        self._special: dict[int, Source] = {}
        self._file: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._count = 0
        for source in sources:
            self.append(source)

    def append(self, source: Source) -> None:
        if self._count < _IN_MEMORY:
            self._first.append(source)
        else:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="policyguard-")  # noqa: SIM115 (closed with this object)
            if source.data is not None:
                self._special[self._count] = source
            self._file.write(os.fsencode(source.name) + b"\0")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Source]:
        yield from self._first
        for number, name in enumerate(self._spooled(), _IN_MEMORY):
            yield self._special.get(number) or Source(os.fsdecode(name))

    def _spooled(self) -> Iterator[bytes]:
        position, rest = 0, b""
        while self._file is not None:
            with self._lock:
                self._file.seek(position)
                chunk = self._file.read(_CHUNK)
            if not chunk:
                return
            position += len(chunk)
            *names, rest = (rest + chunk).split(b"\0")
            yield from names

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
