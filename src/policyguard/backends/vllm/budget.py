"""How many retries a backend may make: a share of its calls, so that they never multiply an overload."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

__all__ = ["FLOOR", "SHARE", "WINDOW", "Budget"]

SHARE = 0.2
"""Retries per call, over the window."""
FLOOR = 10
"""Retries that the window allows besides, so that a quiet process may retry too."""
WINDOW = 10.0
"""Seconds. Calls that lie further back allow no retry any more."""


class Budget:
    """At most ``FLOOR + SHARE * calls`` retries in any WINDOW seconds. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[tuple[float, int]] = deque()
        self._retries: deque[float] = deque()
        self._number = 0

    def call(self) -> None:
        """Note a call that is no retry."""
        now = self._clock()
        self._number += 1
        if (
            self._calls and self._calls[-1][0] > now - 0.1
        ):  # a busy backend keeps a hundred of these, not more
            self._calls[-1] = (self._calls[-1][0], self._calls[-1][1] + 1)
        else:
            self._calls.append((now, 1))
        self._forget(now)

    def take(self) -> bool:
        """Whether a retry may be made now; if so, it is counted."""
        now = self._clock()
        self._forget(now)
        if len(self._retries) + 1 > FLOOR + SHARE * self._number:
            return False
        self._retries.append(now)
        return True

    def _forget(self, now: float) -> None:
        while self._calls and self._calls[0][0] <= now - WINDOW:
            self._number -= self._calls.popleft()[1]
        while self._retries and self._retries[0] <= now - WINDOW:
            self._retries.popleft()
