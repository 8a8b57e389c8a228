"""The images of a run, in order, in memory that does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from policyguard.strict.files import Spool

__all__ = ["STDIN", "Source", "Sources"]

STDIN = "<stdin>"
"""The name of an image from standard input."""


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

    Many names are kept in a temporary file, which goes away with this object.
    """

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._names = Spool(end=b"\0")
        self._special: dict[int, Source] = {}
        for source in sources:
            self.append(source)

    def append(self, source: Source) -> None:
        if source.data is not None:
            self._special[self._names.count] = source
        self._names.append(os.fsencode(source.name))

    def __len__(self) -> int:
        return self._names.count

    def __iter__(self) -> Iterator[Source]:
        for number, name in enumerate(self._names.encoded()):
            yield self._special.get(number) or Source(os.fsdecode(name))

    def close(self) -> None:
        self._names.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
