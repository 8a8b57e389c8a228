"""The images of a run, in order, in memory that does not grow with their number."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

__all__ = ["STDIN", "Source", "Sources"]

STDIN = "<stdin>"
"""The name of an image from standard input."""

_IN_MEMORY = 2000
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """One image to check: its name in the output, and its content unless the name is its path."""

    name: str
    data: Path | bytes | str | None = None

    @property
    def image(self) -> Path | bytes | str:
        """What is passed to the guard."""
        return Path(self.name) if self.data is None else self.data


class Sources:
    """Sources that are first appended and then iterated over, as often and by as many readers as needed.

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
