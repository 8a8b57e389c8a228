"""What a verdict cache is: a store of short texts under hashes; and one in this process's memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from time import monotonic
from typing import Any

from policyguard.errors import ConfigurationError
from policyguard.strict.lru import LruDict

__all__ = [
    "TTL",
    "CacheInfo",
    "MemoryCache",
    "VerdictCache",
    "require_ttl",
]


TTL = 86_400.0
"""Seconds for which an entry is served, unless set otherwise: one day."""


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What a store holds. ``bytes`` counts its texts in memory, its files on disk."""

    entries: int
    bytes: int
    location: str

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


class VerdictCache(ABC):
    """A store that may forget anything at any time. Thread-safe.

    ``get`` and ``put`` raise nothing that has to do with the store's state: what cannot be read is ``None``,
    what cannot be written is dropped. ``key`` is 64 hexadecimal digits, ``value`` a short text.
    """

    @abstractmethod
    def get(self, key: str) -> str | None:
        """The text last put under ``key``, unaltered, or ``None``."""

    @abstractmethod
    def put(self, key: str, value: str) -> None:
        """Remember ``value`` under ``key``."""

    @abstractmethod
    def discard(self, key: str) -> None:
        """Forget ``key``, if it is there."""

    @abstractmethod
    def clear(self) -> int:
        """Forget everything, and return how many entries that were."""

    @abstractmethod
    def info(self) -> CacheInfo:
        """What is in the store now."""

    @abstractmethod
    def close(self) -> None:
        """Free what the store holds open. Afterwards ``get`` finds nothing and ``put`` drops."""


def require_ttl(ttl: float | None) -> float:
    """Seconds, infinite for ``None``. Raises ConfigurationError unless above 0."""
    if ttl is None:
        return math.inf
    if not ttl > 0.0:
        raise ConfigurationError(
            f"ttl must be above 0 seconds, not {ttl!r}", hint="None keeps entries for good"
        )
    return float(ttl)


class MemoryCache(VerdictCache):
    """Keeps the ``max_entries`` that were used last, each for ``ttl`` seconds (``None``: for good)."""

    def __init__(self, *, max_entries: int = 10_000, ttl: float | None = TTL) -> None:
        if max_entries < 1:
            raise ConfigurationError(f"max_entries must be at least 1, not {max_entries!r}")
        self._ttl = require_ttl(ttl)
        self._entries: LruDict[str, tuple[float, str]] = LruDict(max_entries)
        self._closed = False

    def get(self, key: str) -> str | None:
        with self._entries.lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if monotonic() - entry[0] >= self._ttl:
                self._entries.pop(key)
                return None
            return entry[1]

    def put(self, key: str, value: str) -> None:
        with self._entries.lock:
            if not self._closed:
                self._entries.put(key, (monotonic(), value))

    def discard(self, key: str) -> None:
        self._entries.pop(key)

    def clear(self) -> int:
        return self._entries.clear()

    def info(self) -> CacheInfo:
        values = self._entries.values()
        return CacheInfo(len(values), sum(len(text) for _, text in values), "memory")

    def close(self) -> None:
        with self._entries.lock:
            self._closed = True
            self._entries.clear()
