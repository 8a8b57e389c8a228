"""From the paths on a command line to the images that are checked.

Nothing named goes unjudged: what cannot be opened is handed on and becomes UNSCANNABLE. In folders, files are
chosen by the ending of their names, and what is passed over is counted, so that it can be said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from policyguard.errors import UsageError

__all__ = ["IMAGE_SUFFIXES", "Skipped", "Source", "collect"]

READABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif")
UNREADABLE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".dng", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl"),
    *(".pbm", ".pgm", ".ppm", ".psd", ".svg", ".svgz", ".tga", ".tif", ".tiff"),
)
IMAGE_SUFFIXES = frozenset(READABLE_SUFFIXES + UNREADABLE_SUFFIXES)
"""Names of images in a folder, in lower case. Those that cannot be decoded are reported, not passed over."""


@dataclass(frozen=True, slots=True)
class Source:
    """One image to check: how it is called in the output, and what the guard is given."""

    name: str
    image: Path | bytes | str


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
    """The images that ``paths`` name, in a fixed order: as given, folders by sorted names.

    Raises UsageError for a folder without images, and for ``-`` without an image on ``stdin``.
    """
    sources: list[Source] = []
    skipped = Skipped()
    for path in paths:
        if path == "-":
            sources.append(_from_stdin(stdin, again=any(source.name == "<stdin>" for source in sources)))
        elif Path(path).is_dir():
            found = list(_walk(path, skipped))
            if not found:
                raise UsageError(
                    f"no image found in folder '{path}'",
                    hint=f"looked for names ending in {', '.join(READABLE_SUFFIXES)}, in sub-folders too; "
                    "files named one by one are checked whatever they are called",
                )
            sources.extend(found)
        elif path.startswith(("http://", "https://")) and not Path(path).exists():
            sources.append(Source(path, path))  # as text, so that the guard can say what it thinks of URLs
        else:
            sources.append(Source(path, Path(path)))
    return sources, skipped


def _walk(folder: str, skipped: Skipped) -> Iterator[Source]:
    unreadable: list[str] = []
    for root, folders, files in os.walk(folder, onerror=lambda error: unreadable.append(str(error.filename))):
        here = Path(root)
        hidden = {name for name in folders if name.startswith(".")}
        linked = {name for name in folders if (here / name).is_symlink()} - hidden
        skipped.hidden += len(hidden)
        skipped.linked += len(linked)
        folders[:] = sorted(set(folders) - hidden - linked)
        for path in (here / name for name in sorted(files)):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                yield Source(str(path), path)
            else:
                skipped.endings[path.suffix.lower()] += 1
    # A folder that cannot be listed may hold anything: the guard gets it, and reports it as unscannable.
    yield from (Source(path, Path(path)) for path in sorted(unreadable))


def _from_stdin(stdin: BinaryIO | None, *, again: bool) -> Source:
    if again:
        raise UsageError("'-' stands for one image on standard input, and is given twice")
    if stdin is None or stdin.isatty():
        raise UsageError(
            "'-' reads an image from standard input, and none is piped in", hint="... < image.png"
        )
    from policyguard.images import Limits

    # One byte more than is allowed is enough for the decoder to refuse it, and keeps memory bounded.
    return Source("<stdin>", stdin.read(Limits().max_bytes + 1))


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
