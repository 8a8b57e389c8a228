"""A mapping that keeps what was used last, and forgets the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Generic, TypeVar

__all__ = ["LruDict"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruDict(Generic[K, V]):
    """Keeps the entries used last whose weights add up to at most ``limit``, and always the very last one.

    ``weigh`` gives the weight of a value; by default each counts 1, so ``limit`` is a number of entries.
    Thread-safe; hold ``lock`` to do several things as one.
    """

    def __init__(self, limit: int, *, weigh: Callable[[V], int] = lambda _: 1) -> None:
        self.limit, self.lock = limit, RLock()
        self._weigh = weigh
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: K) -> V | None:
        """The value under ``key``, which counts as a use, or ``None``."""
        with self.lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: K, value: V) -> None:
        with self.lock:
            self.pop(key)
            weight = self._weigh(value)
            self._entries[key] = value, weight
            self._weight += weight
            while self._weight > self.limit and len(self._entries) > 1:
                self._weight -= self._entries.popitem(last=False)[1][1]

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The value under ``key``; if there is none, it is made while the lock is held."""
        with self.lock:
            if key not in self._entries:
                self.put(key, make())
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def pop(self, key: K) -> V | None:
        """Forget ``key``, and give the value that it had."""
        with self.lock:
            if key not in self._entries:
                return None
            value, weight = self._entries.pop(key)
            self._weight -= weight
            return value

    def clear(self) -> int:
        """Forget everything, and say how many entries there were."""
        with self.lock:
            count = len(self._entries)
            self._entries.clear()
            self._weight = 0
            return count

    @property
    def weight(self) -> int:
        return self._weight

    def values(self) -> list[V]:
        """The values, the one used longest ago first."""
        with self.lock:
            return [value for value, _ in self._entries.values()]

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)
