"""One batch on its way through the cache: what is stored, what it asks, whose answers it waits for.

Of those who ask the same at once, one asks the model (it leads a *flight*), and the others take its answer.
Whoever leads a flight ends it, whatever happens. Callers with and without an event loop share flights
in one direction only: a coroutine may wait for a thread, but a thread never for a coroutine, whose event loop
may be the very one that the thread keeps waiting.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from enum import Enum
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Result
from policyguard.backends.base import AssessmentRequest
from policyguard.cache.codec import LARGEST, decode, encode
from policyguard.cache.keys import assessment_key, holds_enough
from policyguard.cache.pending import PendingFrame
from policyguard.errors import ImageError, UsageError

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.cache.store import VerdictCache

__all__ = [
    "End",
    "Flight",
    "FlightKey",
    "Flights",
    "Work",
]


FlightKey = tuple[str, str]


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


_log = logging.getLogger("policyguard.cache")
_LATE = Failure(FailureKind.ERROR, "time ran out while an equal question was being asked", retryable=True)


class Work:
    """A batch of ``requests``. The caller runs rounds until nothing is ``open``.

    A round: ``join``; ``look_up``, and ask the model what it returns; ``settle`` the answers; ``drop``
    whatever is left of the flights that this batch leads; then ``take`` what those return that it follows. A
    batch ends its own flights before it waits for others', so that no two batches wait for each other.
    """

    def __init__(
        self, inner: Backend, cache: VerdictCache, flights: Flights, requests: Sequence[AssessmentRequest]
    ) -> None:
        """Blocks: the model's identity may have to be read from its files. Raises UsageError."""
        self._inner, self._cache, self._flights, self._requests = inner, cache, flights, requests
        self._identity = self._identify()
        identity = self._identity
        scope = inner.cache_scope
        self._keys = [
            None if identity is None else assessment_key(identity, one, scope=scope) for one in requests
        ]
        self._alone = {index for index, key in enumerate(self._keys) if key is None}
        self._results: dict[int, Result] = {}
        self._led: dict[int, Flight] = {}
        self._asked: list[int] = []
        self.asked = 0
        self._followed: list[tuple[int, Flight]] = []

    @property
    def open(self) -> bool:
        return len(self._results) < len(self._requests)

    @property
    def results(self) -> list[Result]:
        return [self._results[index] for index in range(len(self._requests))]

    def join(self, *, coroutine: bool) -> None:
        """Lead or follow one flight for each open request. Never blocks."""
        self._followed = []
        for index, request in enumerate(self._requests):
            if index not in self._results and index not in self._alone:
                flight, leads = self._flights.join(self._flight(index), request.deadline, coroutine=coroutine)
                if leads:
                    self._led[index] = flight
                else:
                    self._followed.append((index, flight))

    def look_up(self) -> list[AssessmentRequest]:
        """End the flights whose answer is stored, and return what has to be asked. Blocks."""
        for index in list(self._led):
            if (stored := self._stored(index)) is not None:
                self._end(index, stored)
        asked = {}
        for index in sorted({*self._led, *(index for index in self._alone if index not in self._results)}):
            try:
                asked[index] = _with_pixels(self._requests[index])
            except ImageError as error:
                self._end(index, Failure(FailureKind.UNSCANNABLE, str(error)))
        self._asked = list(asked)
        return list(asked.values())

    def settle(self, answers: Sequence[Result]) -> None:
        """Store whole assessments and end the flights; ``answers`` to what ``look_up`` returned. Blocks."""
        unchanged = self._identify() == self._identity
        for index, answer in zip(self._asked, answers, strict=True):
            if unchanged and isinstance(answer, Assessment):
                self._store(index, answer)
            self._end(index, answer)
        self.asked += len(answers)

    def drop(self, end: End) -> None:
        """End all flights that this batch still leads."""
        for index, flight in list(self._led.items()):
            del self._led[index]
            self._flights.land(self._flight(index), flight, end)

    def followed(self) -> Iterator[tuple[int, Flight, float | None]]:
        """What to wait for, and until when."""
        for index, flight in self._followed:
            yield index, flight, self._requests[index].deadline

    def take(self, index: int, result: Result | End) -> None:
        """The answer of a followed flight. Without one the request stays open for the next round."""
        if result is End.LATE:
            self._results[index] = _LATE
        elif result is End.BROKEN:
            self._alone.add(index)
        elif isinstance(result, Assessment | Failure):
            self._results[index] = result

    def _flight(self, index: int) -> FlightKey:
        # With the thresholds: what a backend reads, and what counts as a failure, may depend on them.
        return self._keys[index] or "", self._requests[index].policy.decision_fingerprint

    def _end(self, index: int, result: Result) -> None:
        self._results[index] = result
        flight = self._led.pop(index, None)
        if flight is not None:
            self._flights.land(self._flight(index), flight, result)

    def _stored(self, index: int) -> Assessment | None:
        key, request = self._keys[index], self._requests[index]
        try:
            text = self._cache.get(key) if key else None
            if key is None or text is None:
                return None
            try:
                assessment = decode(text)
            except ValueError as error:
                _log.warning("an entry of the verdict cache is not an assessment, and is dropped: %s", error)
                self._cache.discard(key)
                return None
        except Exception as error:
            _warn(error)
            return None
        return assessment if holds_enough(assessment, request.policy, request.reading) else None

    def _store(self, index: int, answer: Assessment) -> None:
        key, request = self._keys[index], self._requests[index]
        try:
            if key and holds_enough(answer, request.policy, request.reading):
                text = encode(answer)
                if len(text) <= LARGEST:
                    self._cache.put(key, text)
        except ValueError as error:
            _log.debug("not stored: %s", error)
        except Exception as error:
            _warn(error)

    def _identify(self) -> ModelIdentity | None:
        try:
            return self._inner.model
        except UsageError:
            raise
        except Exception as error:
            _warn(error)
            return None


def _with_pixels(request: AssessmentRequest) -> AssessmentRequest:
    """``request`` for a model: decoded, where the cache put that off. Raises ImageError."""
    pending: object = request.frame
    if not isinstance(pending, PendingFrame):
        return request
    frame, encoded = pending.load()
    return replace(request, frame=frame, encoded=encoded)


def _warn(error: Exception) -> None:
    """For a cache that breaks its promise, or a model that cannot say what it is: the check goes on."""
    _log.warning("the verdict cache is passed over: %s: %s", type(error).__name__, error)
