"""Where reports are kept while a run goes on, and how they get to their place: whole, or not at all.

Covered: what a file held before stays until the new report is complete on the disk; a full disk or a folder
that may not be written is an OSError; a report for a device (``/dev/stdout``) or a pipe is written straight
to it. Not covered: a process that is killed while it writes can leave a hidden temporary file behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from errno import EISDIR, ENOTDIR
from pathlib import Path
from typing import IO

from policyguard.ci.atomic import write_atomically

__all__ = ["Spool", "prepare", "write_report"]

_IN_MEMORY = 256 * 1024


class Spool:
    """Lines of text that are appended first and read then; beyond 256 KiB they are in a temporary file."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="policyguard-")  # noqa: SIM115
        self.count = 0

    def append(self, text: str) -> None:
        """Add a line; ``text`` holds no line end, or stands for several."""
        self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        self.count += 1

    def __iter__(self) -> Iterator[str]:
        """The lines, each with its line end."""
        self._file.seek(0)
        for line in self._file:
            yield line.decode("utf-8")

    def joined(self, separator: str) -> Iterator[str]:
        """The lines with ``separator`` between them, as JSON lists want it."""
        lead = ""
        for line in self:
            yield f"{lead}{line[:-1]}"
            lead = separator
        if lead:
            yield "\n"

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._file.close()


def prepare(path: Path) -> None:
    """Make the folder of ``path``. Raises OSError if a report could not be written there."""
    if (descriptor := _descriptor(path)) is not None:
        os.fstat(descriptor)
        return
    if _is_device(path):
        with path.open("ab"):
            return
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(path)) from None
    if target.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    with tempfile.TemporaryFile(dir=target.parent):
        pass


def write_report(path: Path, chunks: Iterable[str]) -> None:
    """Put ``chunks`` in place of the file at ``path``, whose permissions stay. Raises OSError."""
    descriptor = _descriptor(path)
    if descriptor is None and not _is_device(path):
        write_atomically(path, chunks)
        return
    opened = path if descriptor is None else os.dup(descriptor)  # what is printed stays before it
    with open(opened, "a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:  # noqa: PTH123
        file.writelines(chunks)


def _is_device(path: Path) -> bool:
    """Something that is there and can be neither replaced nor a folder: a device, a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _descriptor(path: Path) -> int | None:
    """The open file that ``/dev/stdout`` and the like stand for."""
    known = {"/dev/stdout": 1, "/dev/stderr": 2}
    number = re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,6})", str(path))
    return known.get(str(path)) if number is None else int(number[1])
