"""Looks at a cache file without changing it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policyguard.cache.codec import decode
from policyguard.cache.file import DamagedError, ForeignError, is_damage, read_only, require_mark
from policyguard.cache.pending import checked_facts
from policyguard.cache.sqlite import checksum
from policyguard.errors import ConfigurationError
from policyguard.strict.jsontext import parse_json

__all__ = ["Contents", "inspect"]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds. ``damaged`` counts entries that will be dropped when they are asked for.

    ``problem`` says what is wrong with the file as a whole. Times are seconds since 1970.
    """

    path: str
    bytes: int
    entries: int = 0
    oldest: float | None = None
    newest: float | None = None
    damaged: int = 0
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def inspect(path: Path, *, thorough: bool) -> Contents:
    """What is in the cache file ``path``; ``thorough``: with every page and entry read and checked.

    Raises ConfigurationError if there is none, or if the file is something else.
    """
    if not path.is_file():
        raise ConfigurationError(
            f"there is no verdict cache {path}",
            hint="`policyguard check --cache FILE` and Guard(cache=...) make one",
        )
    side = path.with_name(f"{path.name}-wal")
    size = path.stat().st_size + (side.stat().st_size if side.exists() else 0)
    try:
        connection = read_only(path)
    except ForeignError as error:
        raise ConfigurationError(f"the file {path} {error}") from None
    except (sqlite3.Error, DamagedError) as error:
        if path.stat().st_size and is_damage(error):
            _require_cache(path)
        return Contents(str(path), size, problem=str(error))
    try:
        count, oldest, newest = connection.execute(
            "SELECT count(*), min(created), max(created) FROM verdicts"
        ).fetchone()
        damaged, problem = _check(connection) if thorough else (0, None)
        return Contents(str(path), size, count, oldest, newest, damaged, problem)
    except sqlite3.Error as error:
        return Contents(str(path), size, problem=str(error))
    finally:
        connection.close()


def _require_cache(path: Path) -> None:
    try:
        require_mark(path)
    except (ForeignError, OSError) as error:
        raise ConfigurationError(f"the file {path} {error}") from None


def _check(connection: sqlite3.Connection) -> tuple[int, str | None]:
    result = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    rows = connection.execute("SELECT key, value, checksum, created FROM verdicts")
    damaged = sum(not _is_sound(*row) for row in rows)
    return damaged, None if result == "ok" else " ".join(str(result).split())


def _is_sound(key: object, value: object, seal: object, created: object) -> bool:
    if not (isinstance(key, bytes) and isinstance(value, bytes) and isinstance(created, float)):
        return False
    if seal != checksum(key, created, value):
        return False
    try:
        text = value.decode()
        if "frame_count" in parse_json(text):
            checked_facts(text)
        else:
            decode(text)
    except (ValueError, TypeError):
        return False
    return True
