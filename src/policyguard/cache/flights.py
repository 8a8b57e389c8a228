"""Single flight: of those who ask the same at once, one asks the model, and the others take its answer.

Whoever leads a flight ends it, whatever happens to it. Callers with and without an event loop share flights
in one direction only: a coroutine may wait for a thread, but a thread never for a coroutine, whose event loop
may be the very one that the thread keeps waiting.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from enum import Enum
from threading import Lock
from time import monotonic

from policyguard.assessment import Assessment, Failure

__all__ = ["End", "Flight", "FlightKey", "Flights"]

FlightKey = tuple[str, str]
Result = Assessment | Failure


class End(Enum):
    """How a flight ends without a result."""

    ABANDONED = "the leader was cancelled, or its time was up: the others choose a new one"
    BROKEN = "the leader's call raised: the others ask by themselves, all at once, so that nobody queues"
    LATE = "the one who waits has no more time"


class Flight:
    """One question that is being asked. ``deadline`` is the leader's, on ``time.monotonic``'s clock."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._future: Future[Result | End] = Future()
        self._future.set_running_or_notify_cancel()  # from here on nobody who waits can cancel it

    def end(self, result: Result | End) -> None:
        """Give ``result`` to all who wait; the first call counts.

        A failure for want of time is the leader's alone: who waits may have more.
        """
        out_of_time = self._deadline is not None and monotonic() >= self._deadline
        if out_of_time and isinstance(result, Failure):
            result = End.ABANDONED
        if not self._future.done():
            self._future.set_result(result)

    def wait(self, deadline: float | None) -> Result | End:
        """Blocks until the flight or the time ends."""
        try:
            return self._future.result(_left(deadline))
        except FutureTimeoutError:
            return End.LATE

    async def await_(self, deadline: float | None) -> Result | End:
        """``wait`` for event loops. Cancelling it disturbs nobody else."""
        future = asyncio.wrap_future(self._future)
        done, _ = await asyncio.wait({future}, timeout=_left(deadline))
        return future.result() if done else End.LATE


class Flights:
    """The questions that are being asked in this process."""

    def __init__(self) -> None:
        self._reset()

    def join(self, key: FlightKey, deadline: float | None, *, coroutine: bool) -> tuple[Flight, bool]:
        """The flight for ``key``, and whether the caller leads it and must pass it to ``land``."""
        if self._process != os.getpid():
            self._reset()  # the leaders stayed behind in the process that was forked
        with self._lock:
            flight = self._threads.get(key) or (self._coroutines.get(key) if coroutine else None)
            if flight is not None:
                return flight, False
            flight = Flight(deadline)
            (self._coroutines if coroutine else self._threads)[key] = flight
            return flight, True

    def land(self, key: FlightKey, flight: Flight, result: Result | End) -> None:
        """End ``flight``, so that the next who asks leads a new one. The first call counts."""
        with self._lock:
            for flights in (self._threads, self._coroutines):
                if flights.get(key) is flight:
                    del flights[key]
            flight.end(result)

    def __len__(self) -> int:
        return len(self._threads) + len(self._coroutines)

    def _reset(self) -> None:
        self._process = os.getpid()
        self._lock = Lock()
        self._threads: dict[FlightKey, Flight] = {}
        self._coroutines: dict[FlightKey, Flight] = {}


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - monotonic())
