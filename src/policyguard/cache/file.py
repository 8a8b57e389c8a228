"""The SQLite file itself: opened, checked, made, and set aside when it is damaged.

The file is never opened but through SQLite: closing any other handle on it would drop the locks that this
process holds. The exception is a damaged file, where no lock
holds anyway: its head is read to see whether it is ours.

Covered: a file that is not marked as a cache is never written, renamed or deleted. A cache that others than
its owner may write is not used.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

__all__ = ["DamagedError", "ForeignError", "connect", "is_damage", "read_only", "require_mark", "set_aside"]

_APPLICATION = 0x50474331
"""Marks the file as ours."""
_VERSION = 1
_SCHEMA = {
    "verdicts": "CREATE TABLE verdicts (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL, "
    "created REAL NOT NULL, used REAL NOT NULL)",
    "verdicts_used": "CREATE INDEX verdicts_used ON verdicts (used)",
}
_MAGIC = b"SQLite format 3\0"
_MARK_AT = 68
"""Where a database keeps its application id."""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}
_SHORT_READ = 522
_SIDE_FILES = ("-wal", "-shm", "-journal")


class DamagedError(Exception):
    """A database that is ours and not as it must be."""


class ForeignError(Exception):
    """A file that is no cache, or one that others could write."""


def connect(path: Path, busy_timeout: float) -> tuple[sqlite3.Connection, int]:
    """A connection to the cache in ``path``, made if it is not there, and the file's inode.

    Raises ForeignError, DamagedError, sqlite3.Error and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    status = path.stat()
    _require_own(status)
    if status.st_size == 1:  # which SQLite takes for empty
        raise ForeignError("is not a verdict cache")
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        if not _is_ours(connection):
            _make(connection)
        _prefer_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {4 << 20}")
    except BaseException:
        connection.close()
        raise
    return connection, status.st_ino


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing. Raises ForeignError, DamagedError and sqlite3.Error."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        if not _is_ours(connection):
            raise DamagedError("the file is empty")
    except BaseException:
        connection.close()
        raise
    return connection


def is_damage(error: Exception) -> bool:
    """Whether ``error`` says that the file is damaged, rather than locked, full or out of reach."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code is not None and (code & 0xFF in _DAMAGE or code == _SHORT_READ)
    return isinstance(error, DamagedError)


def is_busy(error: Exception) -> bool:
    """Whether ``error`` says that others use the file just now."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return isinstance(error, sqlite3.Error) and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def require_mark(path: Path) -> None:
    """Raises ForeignError unless the head of ``path`` says that it is a cache, and OSError."""
    with path.open("rb") as file:
        head = file.read(_MARK_AT + 4)
    if not head.startswith(_MAGIC) or head[_MARK_AT:] != _APPLICATION.to_bytes(4, "big"):
        raise ForeignError("is not a verdict cache")


def set_aside(path: Path) -> Path:
    """Rename the file and what SQLite keeps beside it to the next free ``NAME.corrupt-N``.

    Raises OSError, and ForeignError if it is not marked as ours.
    """
    require_mark(path)
    number = 1
    while (kept := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    # The log goes first: left behind, it would be applied to the new file.
    for suffix in _SIDE_FILES:
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.rename(kept.with_name(kept.name + suffix))
    return path.rename(kept)


def _is_ours(connection: sqlite3.Connection) -> bool:
    """Whether the file holds a cache; False if it is empty. Raises ForeignError and DamagedError.

    Read in one transaction: another process may be making it.
    """
    alone = not connection.in_transaction
    if alone:
        connection.execute("BEGIN")
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    schema = dict(
        connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")
    )
    if alone:
        connection.execute("COMMIT")
    if not schema and not version and not application:
        return False
    if (application, version, schema) == (_APPLICATION, _VERSION, _SCHEMA):
        return True
    if application != _APPLICATION:
        raise ForeignError("is a database of another program")
    raise DamagedError("its layout is not that of this version")


def _require_own(status: os.stat_result) -> None:
    """Raises ForeignError where others could forge entries: another owner than us or root, a loose mode."""
    if os.name != "posix":
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise ForeignError("belongs to another user, who could forge verdicts")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ForeignError("may be written by others than its owner, who could forge verdicts (chmod 600)")


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if not _is_ours(connection):  # nor has another process made it meanwhile
        for statement in _SCHEMA.values():
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _prefer_wal(connection: sqlite3.Connection) -> None:
    """Readers and writers do not wait for each other then. Without it everything works, only slower."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if is_damage(error):
                raise
