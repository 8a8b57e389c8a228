"""From the paths on a command line to the images that are checked.

Everything that is named is checked: what cannot be opened is passed on and becomes UNSCANNABLE. In folders,
files are chosen by the ending of their names, and what is skipped is counted and reported. Patterns are
expanded here, so they mean the same under every shell.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from policyguard.errors import UsageError
from policyguard.images.sniff import IMAGE_SUFFIXES, READABLE_SUFFIXES
from policyguard.runs.patterns import Patterns
from policyguard.runs.sources import STDIN, Source
from policyguard.strict.explain import nearest
from policyguard.strict.text import printable

__all__ = ["Skipped", "collect", "collect_existing", "search"]

_MAGIC = re.compile(r"[*?\[]")
_GUESSED_AMONG = 2000
"""Names in a folder that are looked at to guess what was meant."""


@dataclass(slots=True)
class Skipped:
    """What was skipped in folders: file endings with their counts, hidden folders, links to folders.

    ``absent``: files that were named and are not there. They are checked, and become UNSCANNABLE.
    """

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    linked: int = 0
    absent: list[str] = field(default_factory=list)

    @property
    def meant(self) -> str:
        """``; did you mean FOLDERS?`` for what is absent, where a folder of nearly that name is there."""
        names = [name for path in self.absent[:5] if (name := _nearest_folder(path)) is not None]
        return f"; did you mean {', '.join(names)}?" if names else ""

    def __str__(self) -> str:
        parts = []
        if self.endings:
            names = ", ".join(ending or "no ending" for ending, _ in self.endings.most_common(5))
            more = ", ..." if len(self.endings) > 5 else ""
            parts.append(f"{_count(self.endings.total(), 'file')} not named like an image ({names}{more})")
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


def collect_existing(paths: Iterable[str]) -> tuple[list[Source], Skipped]:
    """``collect`` for a comparison, which blocks nothing: there, a path that is missing is a mistake.

    Raises UsageError for it too.
    """
    sources, skipped = collect(paths)
    if skipped.absent:
        names = ", ".join(f"'{printable(path)}'" for path in skipped.absent)
        hint = (
            f"check the path{printable(skipped.meant)}" if skipped.meant else "check the path; quote patterns"
        )
        raise UsageError(f"there is no {names}", hint=hint)
    return sources, skipped


def search(
    paths: Sequence[str], skipped: Skipped, stdin: BinaryIO | None = None, *, allow_empty: bool = False
) -> Iterator[Source]:
    """``collect``, one by one; what is skipped is counted in ``skipped``.

    ``allow_empty``: a folder or a pattern without images is no error, and the other paths are searched.
    """
    if paths.count("-") > 1:
        raise UsageError("'-' reads one image from standard input, so give it once")
    seen: set[str] | None = set() if len(paths) > 1 else None
    for path in paths:
        for source in _images_at(path, skipped, stdin, allow_empty=allow_empty):
            if seen is not None:  # such as a file that is named, and its folder too
                key = os.path.abspath(source.name) if source.data is None else source.name  # noqa: PTH100
                if key in seen:
                    continue
                seen.add(key)
            yield source


def _images_at(path: str, skipped: Skipped, stdin: BinaryIO | None, *, allow_empty: bool) -> Iterator[Source]:
    """The images that one path means."""
    if path == "-":
        yield _from_stdin(stdin)
    elif os.path.isdir(path):  # noqa: PTH112 (no name makes it raise)
        hint = (
            f"looked for names ending in {', '.join(READABLE_SUFFIXES)}, in sub-folders too; "
            "files named one by one are checked whatever they are called"
        )
        images = _walk(path, skipped)
        yield from (
            images if allow_empty else _at_least_one(images, f"no image found in folder '{path}'", hint)
        )
    elif path.startswith(("http://", "https://")) and not os.path.lexists(path):
        yield Source(path, path)  # as text, so that the guard can say why it refuses URLs
    elif _MAGIC.search(path) and not os.path.lexists(path):
        hint = "`*` stays within a folder and `**` does not; hidden folders are not searched"
        images = _expand(path, skipped)
        yield from images if allow_empty else _at_least_one(images, f"no image matches '{path}'", hint)
    else:
        if not os.path.lexists(path):
            skipped.absent.append(path)
        yield Source(path)


def _at_least_one(sources: Iterator[Source], message: str, hint: str) -> Iterator[Source]:
    """``sources``. Raises UsageError if there are none."""
    first = next(sources, None)
    if first is None:
        raise UsageError(message, hint=hint)
    yield first
    yield from sources


def _expand(pattern: str, skipped: Skipped) -> Iterator[Source]:
    """The files that a pattern means: those that look like images, or have an ending that it names."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
    base = str(Path(*parts[:first])) if first else "."
    # Behind a slash, a pattern of .gitignore means what a shell means: folders that it matches are searched.
    patterns = Patterns(["/" + "/".join(parts[first:])], where=f"the pattern {pattern!r}")
    ending = Path(pattern).suffix.lower()
    for source in _walk(base, skipped, ending=ending if not _MAGIC.search(ending) else ""):
        below = Path(os.path.relpath(source.name, base)).as_posix()
        unlisted = os.path.isdir(source.name)  # noqa: PTH112 (no name makes it raise)
        if patterns.match(below) or unlisted:
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
        prefix = "" if str(here) == "." else os.path.join(here, "")  # noqa: PTH118 (a million of them)
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
            if suffix in IMAGE_SUFFIXES or (ending and suffix == ending):
                yield Source(prefix + name)
            else:
                skipped.endings[suffix] += 1
    # A folder that cannot be listed may hold anything: the guard gets it, and reports it as unscannable.
    yield from map(Source, sorted(unreadable))


def _from_stdin(stdin: BinaryIO | None) -> Source:
    if stdin is None or stdin.isatty():
        raise UsageError(
            "'-' reads an image from standard input, and nothing is piped in", hint="... < image.png"
        )
    from policyguard.images import Limits

    # One byte more than is allowed is enough for the decoder to refuse it, and keeps memory bounded.
    return Source(STDIN, stdin.read(Limits().max_bytes + 1))


def _nearest_folder(path: str) -> str | None:
    """The folder beside ``path`` with nearly its name. No file: next to one photograph lie its like."""
    folder, name = os.path.split(path.rstrip("/" + os.sep))
    try:
        with os.scandir(folder or ".") as entries:
            found = nearest(name, (entry.name for entry in islice(entries, _GUESSED_AMONG) if entry.is_dir()))
    except OSError:
        return None
    return None if found is None else os.path.join(folder, found)  # noqa: PTH118 (as it was written)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
