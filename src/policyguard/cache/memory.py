"""A verdict cache in this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from time import monotonic

from policyguard.cache.store import TTL, CacheInfo, VerdictCache, require_ttl
from policyguard.errors import ConfigurationError

__all__ = ["MemoryCache"]


class MemoryCache(VerdictCache):
    """Keeps the ``max_entries`` that were used last, each for ``ttl`` seconds (``None``: for good)."""

    def __init__(self, *, max_entries: int = 10_000, ttl: float | None = TTL) -> None:
        if max_entries < 1:
            raise ConfigurationError(f"max_entries must be at least 1, not {max_entries!r}")
        self._max = max_entries
        self._ttl = require_ttl(ttl)
        self._lock = Lock()
        self._entries: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._closed = False

    def get(self, key: str) -> str | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if monotonic() - entry[0] >= self._ttl:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return entry[1]

    def put(self, key: str, value: str) -> None:
        with self._lock:
            if self._closed:
                return
            self._entries[key] = monotonic(), value
            self._entries.move_to_end(key)
            while len(self._entries) > self._max:
                self._entries.popitem(last=False)

    def discard(self, key: str) -> None:
        with self._lock:
            self._entries.pop(key, None)

    def clear(self) -> int:
        with self._lock:
            count = len(self._entries)
            self._entries.clear()
            return count

    def info(self) -> CacheInfo:
        with self._lock:
            size = sum(len(value) for _, value in self._entries.values())
            return CacheInfo(len(self._entries), size, "memory")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._entries.clear()
