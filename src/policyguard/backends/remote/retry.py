"""When a call is repeated, after what wait, and until when: tenacity with a deadline and a budget.

Judging an image changes nothing on a server, so a call may be repeated even where its answer was lost on the
way; whether that helps, ``CallError.retry_now`` says. A backend's retries are a share of its calls, so that
they never multiply an overload. One deadline, a moment on the monotonic clock, covers all that is done about
a frame; it travels in a context variable, so that calls, waits and body reads need no further argument.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

from policyguard.backends.remote.errors import CallError
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = [
    "FLOOR",
    "SHARE",
    "WINDOW",
    "Budget",
    "Retries",
    "call_with_retries",
    "remaining",
    "until",
]


SHARE = 0.2
"""Retries per call, over the window."""

FLOOR = 10
"""Retries that are always allowed in the window, so that a quiet process may retry too."""

WINDOW = 10.0
"""Seconds. Older calls no longer count."""


class Budget:
    """At most ``FLOOR + SHARE * calls`` retries in any WINDOW seconds. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[tuple[float, int]] = deque()
        self._retries: deque[float] = deque()
        self._number = 0

    def call(self) -> None:
        """Count a call that is not a retry."""
        now = self._clock()
        self._number += 1
        # Calls of a tenth of a second share an entry, so that there are never more than a hundred.
        if self._calls and self._calls[-1][0] > now - 0.1:
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


_GRACE = 0.05
"""Seconds past the deadline at which work is cancelled: code that watches the clock gives a better reason."""
_deadline: ContextVar[float] = ContextVar("policyguard_remote_deadline", default=math.inf)


def remaining() -> float:
    """Seconds until the deadline in force: infinite without one, negative after it."""
    return _deadline.get() - time.monotonic()


@asynccontextmanager
async def until(deadline: float | None) -> AsyncIterator[None]:
    """Bound what runs inside by ``deadline`` on ``time.monotonic``'s clock, and by any earlier one outside.

    Raises CallError when it passes, and at once if it has passed.
    """
    if deadline is None:
        yield
        return
    before = _deadline.set(min(deadline, _deadline.get()))
    try:
        left = remaining()
        if left <= 0.0:
            raise CallError("the deadline of the check had passed before it began", retryable=True)
        async with asyncio.timeout(left + _GRACE):
            yield
    except TimeoutError:
        raise CallError("there was no answer before the deadline of the check", retryable=True) from None
    finally:
        _deadline.reset(before)


T = TypeVar("T")

_FIRST, _LONGEST = 0.25, 8.0
"""Seconds: the first wait is random below _FIRST, the next below twice that, and none is above _LONGEST."""


@dataclass(frozen=True, slots=True)
class Retries:
    """What a backend does about a failing server. The defaults are meant to stay.

    Args:
        attempts: how often one call is made at most; 1 for no retries.
        cool_down: seconds for which a server that keeps failing is left alone before one call probes it.
        patience: seconds of an outage of all servers for which calls wait; 0: they fail at once.
        sleep: waits for so many seconds; tests replace it to lose no time.
    """

    attempts: int = 3
    cool_down: float = 5.0
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)
    patience: float = 0.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"attempts must be at least 1, not {self.attempts!r}")
        if not 0.0 <= self.cool_down < float("inf"):
            raise ConfigurationError(f"cool_down must be a number of seconds, not {self.cool_down!r}")
        if not 0.0 <= self.patience < float("inf"):
            raise ConfigurationError(f"patience must be a number of seconds, not {self.patience!r}")

    @classmethod
    def without_waits(cls, *, attempts: int = 3, cool_down: float = 5.0) -> Self:
        """For test suites: the same decisions as in production, without the waits."""
        return cls(attempts, cool_down, _no_wait)


async def _no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


async def call_with_retries(
    attempt: Callable[[], Awaitable[T]],
    *,
    retries: Retries,
    budget: Budget,
    other_server: Callable[[], bool] = lambda: False,
) -> T:
    """The result of ``attempt()``, which is repeated while that may help and the deadline leaves room.

    ``other_server`` says whether the next attempt goes to a server that has not been asked yet: the last
    one's ``Retry-After`` does not apply to it. Raises the last attempt's CallError, with the number of
    attempts in its reason, and any other exception at once.
    """
    budget.call()
    began = time.monotonic()
    first: CallError | None
    try:
        return await attempt()  # most calls end here, and tenacity costs as much as the rest of a call
    except CallError as error:
        if not error.retry_now:
            raise
        first = error
    from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

    backoff = wait_random_exponential(multiplier=_FIRST, max=_LONGEST)
    gave_up = ""

    async def timed() -> T:
        nonlocal began, first
        if first is not None:
            error, first = first, None
            raise error
        began = time.monotonic()
        return await attempt()

    def wait(state: RetryCallState) -> float:
        error = _error(state)
        requested = 0.0 if error.retry_after is None or other_server() else error.retry_after
        return requested + backoff(state)

    def stop(state: RetryCallState) -> bool:
        nonlocal gave_up
        # The next attempt is expected to take as long as this one did.
        needed = state.upcoming_sleep + time.monotonic() - began
        if state.attempt_number >= retries.attempts:
            return True
        if needed > remaining():
            gave_up = "no time is left for another"
        elif not budget.take():
            gave_up = "the retry budget is spent"
        return bool(gave_up)

    retrying = AsyncRetrying(
        sleep=retries.sleep,
        retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.retry_now),
        wait=wait,
        stop=stop,
        reraise=True,
    )
    try:
        return await retrying(timed)
    except CallError as error:
        attempts = int(retrying.statistics["attempt_number"])
        notes = [f"after {attempts} attempts"] if attempts > 1 else []
        raise error.with_note(", ".join([*notes, gave_up] if gave_up else notes)) from None


def _error(state: RetryCallState) -> CallError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, CallError)
    return error
