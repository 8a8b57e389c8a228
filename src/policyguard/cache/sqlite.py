"""A verdict cache in one SQLite file, shared by many processes.

Covered: a problem with the file, the disk or their rights costs the cache, never the check: it is logged
once, and the check asks the model; while other processes keep the file busy, entries wait in memory. Every
row has a checksum; one that does not fit is deleted. A damaged cache is set aside under another name and a
new one begun. A file that is no cache, or that others may write, is left alone. The file is readable for its
owner alone, holds hashes, scores and, of explain readings, the model's words, and no image.
Not covered: whoever can write the file can forge verdicts, as checksums are no signatures. Network file
systems, where SQLite's locks do not hold.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import sqlite3
import struct
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

from policyguard.cache.file import DamagedError, ForeignError, connect, is_busy, is_damage, set_aside
from policyguard.cache.store import TTL, CacheInfo, MemoryCache, VerdictCache, require_ttl
from policyguard.errors import ConfigurationError

__all__ = ["SqliteCache", "checksum", "default_path", "open_cache"]

T = TypeVar("T")
_log = logging.getLogger("policyguard.cache")

_PAUSE = 5.0
"""Seconds without the file after it could not be used, so that no check waits for it again and again."""
_BUSY = 0.05, 0.25
"""Seconds, at random between these, without the file after others kept it busy. Entries wait in memory."""
_WAITING = 4096
"""Entries that wait at most; the oldest are dropped then."""
_FLUSHES = 8
"""How often a cache that is closed tries to write what waits."""
_TOUCH = 600.0
"""Seconds between two notes that an entry is in use: a note is a write."""
_SKEW = 60.0
"""Seconds by which clocks of processes may differ."""
_SMALLEST = 1 << 16


class SqliteCache(VerdictCache):
    """Keeps entries in the file ``path``, which is made with mode 0600 if it is not there.

    Args:
        path: a local file.
        max_bytes: when entries take more, those unused for longest go. The write-ahead log beside the file
            may take some MiB on top.
        ttl: seconds for which an entry is served; ``None``: for good.
        busy_timeout: seconds to wait for other processes that write.

    Raises ConfigurationError if ``path`` is a folder, a file that is no cache, or one that others may write.
    A file that is open here must not be used after a fork: the child goes on without it. A cache that is
    dropped without ``close`` lets go of its file quietly; what waited for other processes is lost then.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 256 << 20,
        ttl: float | None = TTL,
        busy_timeout: float = 0.25,
    ) -> None:
        if max_bytes < _SMALLEST:
            raise ConfigurationError(f"max_bytes must be at least {_SMALLEST}, not {max_bytes!r}")
        if not 0.0 <= busy_timeout <= 60.0:
            raise ConfigurationError(f"busy_timeout must be between 0 and 60 seconds, not {busy_timeout!r}")
        self.path = Path(path).expanduser().absolute()
        if self.path.is_dir():
            raise ConfigurationError(f"the verdict cache {self.path} is a folder", hint="name a file in it")
        self._max_bytes = max_bytes
        self._ttl = require_ttl(ttl)
        self._busy_timeout = busy_timeout
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._off = False
        self._paused = {False: 0.0, True: 0.0}
        self._waiting: dict[bytes, tuple[bytes, bytes, bytes, float, float]] = {}
        self._warned: set[str] = set()
        _caches.add(self)
        try:
            self._use(lambda _: None, write=True)
        except ForeignError as error:
            raise ConfigurationError(
                f"{self.path} {error}", hint="name a new file, or one that was made as a cache"
            ) from None
        with self._lock:
            self._drop()  # opened again on first use, which may be in a forked process

    def __repr__(self) -> str:
        return f"SqliteCache({str(self.path)!r})"

    def get(self, key: str) -> str | None:
        name = bytes.fromhex(key)
        with self._lock:
            if not self._off and (row := self._waiting.get(name)) is not None:
                return row[1].decode()
        entry = self._attempt(lambda connection: self._read(connection, name), write=False)
        if entry is None:
            return None
        value, stale = entry
        if value is None:
            self._warn("damaged row", f"a damaged entry of the verdict cache {self.path} is dropped")
            self.discard(key)
        elif stale:
            now = time.time()
            self._attempt(
                lambda connection: connection.execute(
                    "UPDATE verdicts SET used = ? WHERE key = ?", (now, name)
                ),
                write=True,
            )
        return value

    def put(self, key: str, value: str) -> None:
        name, text, now = bytes.fromhex(key), value.encode(), time.time()
        with self._lock:
            if self._off:
                return
            self._waiting[name] = (name, text, checksum(name, now, text), now, now)
            if len(self._waiting) > _WAITING:
                del self._waiting[next(iter(self._waiting))]
        self._flush()

    def _flush(self) -> None:
        """Write all that waits, in one piece."""

        def write(connection: sqlite3.Connection) -> None:
            if not self._waiting:  # another thread has written it
                return
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?)", self._waiting.values()
            )
            _evict(connection, self._max_bytes)
            connection.execute("COMMIT")
            self._waiting.clear()

        self._attempt(write, write=True)

    def discard(self, key: str) -> None:
        name = bytes.fromhex(key)
        with self._lock:
            self._waiting.pop(name, None)
        self._attempt(
            lambda connection: connection.execute("DELETE FROM verdicts WHERE key = ?", (name,)), write=True
        )

    def clear(self) -> int:
        self._flush()

        def delete(connection: sqlite3.Connection) -> int:
            count = connection.execute("DELETE FROM verdicts").rowcount
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return int(count)

        return self._attempt(delete, write=True) or 0

    def info(self) -> CacheInfo:
        self._flush()
        count = self._attempt(
            lambda connection: int(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0]),
            write=False,
        )
        files = [self.path, self.path.with_name(f"{self.path.name}-wal")]
        size = sum(file.stat().st_size for file in files if file.exists())
        return CacheInfo(count or 0, size, str(self.path))

    def __del__(self) -> None:
        # Whoever drops a guard and its cache without closing them has lost nothing: each entry was written
        # when it was put. Python 3.13 would warn of the connection.
        if getattr(self, "_connection", None) is not None:  # or the arguments were refused
            self._drop()

    def close(self) -> None:
        for _ in range(_FLUSHES):
            if not self._waiting or self._off:
                break
            with self._lock:
                self._paused[True] = 0.0
            self._flush()
        with self._lock:
            self._off = True
            self._drop()

    def _read(self, connection: sqlite3.Connection, name: bytes) -> tuple[str | None, bool] | None:
        """Text and whether its use should be noted; a text of ``None`` is a damaged row."""
        row = connection.execute(
            "SELECT value, checksum, created, used FROM verdicts WHERE key = ?", (name,)
        ).fetchone()
        if row is None:
            return None
        value, seal, created, used = row
        sound = isinstance(value, bytes) and isinstance(created, float) and isinstance(used, float)
        if not sound or seal != checksum(name, created, value):
            return None, False
        now = time.time()
        if not -_SKEW <= now - created < self._ttl:
            return None
        try:
            return value.decode(), abs(now - used) > _TOUCH
        except UnicodeDecodeError:
            return None, False

    def _attempt(self, work: Callable[[sqlite3.Connection], T], *, write: bool) -> T | None:
        try:
            return self._use(work, write=write)
        except ForeignError as error:  # only if the file was exchanged meanwhile
            self._pause("exchanged", str(error), write=False)
            return None

    def _use(self, work: Callable[[sqlite3.Connection], T], *, write: bool) -> T | None:
        """What ``work`` returns; ``None`` where the file cannot be used. Raises ForeignError."""
        with self._lock:
            if self._off or time.monotonic() < self._paused[write]:
                return None
            try:
                return work(self._open())
            except ForeignError:
                self._drop()
                raise
            except (sqlite3.Error, DamagedError, OSError, OverflowError, ValueError) as error:
                self._drop()
                if is_busy(error):
                    until = time.monotonic() + random.uniform(*_BUSY)
                    self._paused = {False: self._paused[False] if write else until, True: until}
                    return None
                self._waiting.clear()
                if is_damage(error):
                    self._begin_anew(error)
                else:
                    readable = write and self._connection_works()
                    self._pause("unusable", f"is not used for now: {error}", write=readable)
                return None

    def _open(self) -> sqlite3.Connection:
        """The connection, to the file that has the name now: another process may have begun a new one."""
        if self._connection is not None:
            try:
                if self.path.stat().st_ino == self._inode:
                    return self._connection
            except FileNotFoundError:
                pass
            self._drop()
        self._inode = 0
        self._connection, self._inode = connect(self.path, self._busy_timeout)
        return self._connection

    def _connection_works(self) -> bool:
        """Whether the file can still be read although it could not be written."""
        try:
            self._open().execute("SELECT 1 FROM verdicts LIMIT 1").fetchone()
        except Exception:
            self._drop()
            return False
        return True

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error as error:
                _log.debug("closing the verdict cache: %s", error)

    def _begin_anew(self, error: Exception) -> None:
        """Set the file aside, unless another process has done so already. Raises ForeignError."""
        try:
            inode = self.path.stat().st_ino
            if self._inode and inode != self._inode:
                return
            kept = set_aside(self.path)
        except FileNotFoundError:
            return
        except OSError as problem:
            self._pause("unusable", f"is damaged ({error}) and cannot be set aside: {problem}", write=False)
            return
        self._inode = 0
        _log.warning(
            "the verdict cache %s is damaged (%s); it is set aside as %s and begun anew",
            self.path,
            error,
            kept.name,
        )

    def _pause(self, kind: str, reason: str, *, write: bool) -> None:
        """Leave the file alone for a while; ``write``: only for writing."""
        until = time.monotonic() + _PAUSE
        self._paused = {False: self._paused[False] if write else until, True: until}
        self._warn(kind, f"the verdict cache {self.path} {reason}; checks go on without it")

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning("%s", text)

    def after_fork(self) -> None:
        """In the child process: drop the parent's lock, what it had open, and what it will write."""
        self._lock = Lock()
        self._waiting.clear()
        if self._connection is not None:
            # SQLite's locks do not survive a fork, and closing the connection here would break the parent's.
            _inherited.append(self._connection)
            self._connection, self._off = None, True
            self._warn(
                "fork",
                f"the verdict cache {self.path} was in use before this process was forked, and is off in it; "
                "open it in the child process",
            )


def checksum(key: bytes, created: float, value: bytes) -> bytes:
    """SHA-256 over key, time and text of a row: finds damage and rows that were exchanged, no forgery."""
    return hashlib.sha256(key + struct.pack(">d", created) + value).digest()


def _evict(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Delete what was unused for longest, a tenth at a time, until a tenth of the room is free."""
    bound = max_bytes
    while _used(connection) > bound:
        bound = max_bytes * 9 // 10
        count = connection.execute("SELECT count(*) FROM verdicts").fetchone()[0]
        if not count:
            return
        connection.execute(
            "DELETE FROM verdicts WHERE key IN (SELECT key FROM verdicts ORDER BY used LIMIT ?)",
            (count // 10 + 1,),
        )


def _used(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


_inherited: list[sqlite3.Connection] = []


def _forked() -> None:
    for cache in list(_caches):
        cache.after_fork()


_caches: weakref.WeakSet[SqliteCache] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

_HINT = "give 'memory', the path of a file such as 'verdicts.sqlite', or a VerdictCache"


def open_cache(cache: str | os.PathLike[str] | VerdictCache) -> VerdictCache:
    """A MemoryCache for ``"memory"``, a SqliteCache for any other text or path; a VerdictCache as it is.

    Raises ConfigurationError for what cannot be one.
    """
    if isinstance(cache, VerdictCache):
        return cache
    if cache == "memory":
        return MemoryCache()
    if not isinstance(cache, str | os.PathLike):
        raise ConfigurationError(f"cache is of type {type(cache).__name__}, which names no cache", hint=_HINT)
    if not (path := os.fspath(cache)) or path.startswith(":") or "://" in path:
        raise ConfigurationError(f"{path!r} is not the path of a verdict cache", hint=_HINT)
    return SqliteCache(path)


def default_path() -> Path:
    """POLICYGUARD_CACHE, else ``policyguard/verdicts.sqlite`` in XDG_CACHE_HOME, else in ``~/.cache``."""
    if named := os.environ.get("POLICYGUARD_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if home.startswith("/") else Path("~/.cache").expanduser()
    return base / "policyguard" / "verdicts.sqlite"
