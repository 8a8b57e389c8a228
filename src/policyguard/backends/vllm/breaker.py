"""A circuit breaker: a server that keeps failing is left alone for a while. It waits for nothing itself."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

__all__ = ["Breaker", "State"]

CONSECUTIVE = 5
"""As many failures in a row open it."""
WINDOW, ENOUGH, MOST = 30.0, 20, 0.5
"""So does this share of failures among at least ENOUGH results of the last WINDOW seconds."""


class State(StrEnum):
    """``CLOSED`` lets calls through, ``OPEN`` none, ``PROBING`` waits for the result of a single one."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Breaker:
    """Opens on failures, lets one probe through after ``cool_down`` seconds, and closes when it succeeds.

    Args:
        cool_down: seconds between opening, or a failed probe, and the next probe.
        clock: tells the seconds; only differences count.

    Belongs to one event loop, or one thread. ``admit`` gives a ticket for each call that may be made, and
    ``record`` takes it back with the result; results of calls from before the last change of state say
    nothing about the server as it is now, and are ignored.
    """

    def __init__(self, *, cool_down: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State.CLOSED
        self._cool_down = cool_down
        self._clock = clock
        self._since = 0
        self._opened = 0.0
        self._in_a_row = 0
        self._results: deque[tuple[float, bool]] = deque()

    @property
    def ready(self) -> bool:
        """Whether ``admit`` would let a call through."""
        return self.state is State.CLOSED or (self.state is State.OPEN and self.probes_in <= 0.0)

    @property
    def probes_in(self) -> float:
        """Seconds until the next probe; 0 when closed, or when one is due or under way."""
        if self.state is not State.OPEN:
            return 0.0
        return max(0.0, self._opened + self._cool_down - self._clock())

    def admit(self) -> int | None:
        """A ticket for one call, or None while no call may be made."""
        if not self.ready:
            return None
        if self.state is State.OPEN:
            self._turn(State.PROBING)
        return self._since

    def record(self, ticket: int, ok: bool | None) -> None:
        """The call went well, or failed as failing servers do; None: it was given up, and tells nothing."""
        if ticket != self._since:
            return
        if self.state is State.PROBING:
            if ok is None:  # the next call may probe at once
                self._turn(State.OPEN)
            else:
                self._close() if ok else self._open()
        elif ok is not None:
            self._count(ok)

    def _count(self, ok: bool) -> None:
        now = self._clock()
        self._results.append((now, ok))
        while self._results[0][0] < now - WINDOW:
            self._results.popleft()
        self._in_a_row = 0 if ok else self._in_a_row + 1
        failed = sum(not good for _, good in self._results) if not ok else 0
        if self._in_a_row >= CONSECUTIVE or (
            len(self._results) >= ENOUGH and failed >= MOST * len(self._results) and not ok
        ):
            self._open()

    def _open(self) -> None:
        self._opened = self._clock()
        self._turn(State.OPEN)

    def _close(self) -> None:
        self._turn(State.CLOSED)

    def _turn(self, state: State) -> None:
        self.state = state
        self._since += 1
        self._in_a_row = 0
        self._results.clear()
