"""One batch on its way through the cache: what it finds there, what it asks, whose answers it waits for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.assessment import Assessment, AssessmentRequest, Failure, FailureKind, ModelIdentity
from policyguard.cache.codec import LARGEST, decode, encode
from policyguard.cache.enough import holds_enough
from policyguard.cache.flights import End, Flight, FlightKey, Flights
from policyguard.cache.keys import assessment_key
from policyguard.cache.pictures import PendingFrame
from policyguard.errors import ImageError, UsageError

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.cache.store import VerdictCache

__all__ = ["Work"]

Result = Assessment | Failure
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
        """Blocks: the model's identity may have to be found out. Raises UsageError."""
        self._inner, self._cache, self._flights, self._requests = inner, cache, flights, requests
        self._identity = self._identify()
        identity = self._identity
        self._keys = [None if identity is None else assessment_key(identity, one) for one in requests]
        self._alone = {index for index, key in enumerate(self._keys) if key is None}
        self._found: dict[int, Result] = {}
        self._led: dict[int, Flight] = {}
        self._asked: list[int] = []
        self._followed: list[tuple[int, Flight]] = []

    @property
    def open(self) -> bool:
        return len(self._found) < len(self._requests)

    @property
    def results(self) -> list[Result]:
        return [self._found[index] for index in range(len(self._requests))]

    def join(self, *, coroutine: bool) -> None:
        """Lead or follow one flight for each open request. Never blocks."""
        self._followed = []
        for index, request in enumerate(self._requests):
            if index not in self._found and index not in self._alone:
                flight, leads = self._flights.join(self._flight(index), request.deadline, coroutine=coroutine)
                if leads:
                    self._led[index] = flight
                else:
                    self._followed.append((index, flight))

    def look_up(self) -> list[AssessmentRequest]:
        """End the flights whose answer is stored, and return what has to be asked. Blocks."""
        for index in list(self._led):
            if (found := self._stored(index)) is not None:
                self._end(index, found)
        asked = {}
        for index in sorted({*self._led, *(index for index in self._alone if index not in self._found)}):
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
            self._found[index] = _LATE
        elif result is End.BROKEN:
            self._alone.add(index)
        elif isinstance(result, Assessment | Failure):
            self._found[index] = result

    def _flight(self, index: int) -> FlightKey:
        # With the thresholds: what a backend reads, and what counts as a failure, may depend on them.
        return self._keys[index] or "", self._requests[index].policy.decision_fingerprint

    def _end(self, index: int, result: Result) -> None:
        self._found[index] = result
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
            _complain(error)
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
            _complain(error)

    def _identify(self) -> ModelIdentity | None:
        try:
            return self._inner.model
        except UsageError:
            raise
        except Exception as error:
            _complain(error)
            return None


def _with_pixels(request: AssessmentRequest) -> AssessmentRequest:
    """``request`` for a model: decoded, where the cache put that off. Raises ImageError."""
    pending: object = request.frame
    if not isinstance(pending, PendingFrame):
        return request
    frame, encoded = pending.load()
    return replace(request, frame=frame, encoded=encoded)


def _complain(error: Exception) -> None:
    """For a cache that breaks its promise, or a model that cannot say what it is: the check goes on."""
    _log.warning("the verdict cache is passed over: %s: %s", type(error).__name__, error)
