"""When a call is made again, and how long that waits: tenacity with a deadline and a budget.

Judging a picture changes nothing on a server, so a call may be repeated even if its answer was lost on the
way. What is repeated, ``faults`` and ``connection`` say (``CallError.again``).

How many retries a backend may make: a share of its calls, so that they never multiply an overload.

When an answer is of no more use: one moment on the monotonic clock, for everything done about a picture.

It travels in a context variable, so that calls, waits and body reads deep down need no further argument.
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
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self, TypeVar

from policyguard.backends.remote.faults import CallError
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = [
    "FLOOR",
    "SHARE",
    "WINDOW",
    "Budget",
    "Retries",
    "persist",
    "remaining",
    "retry_after",
    "until",
]


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


_GRACE = 0.05
"""Seconds after which work that does not look at the clock is cancelled: who does look knows more to say."""
_ends: ContextVar[float] = ContextVar("policyguard_vllm_deadline", default=math.inf)


def remaining() -> float:
    """Seconds until the deadline in force: infinite without one, negative after it."""
    return _ends.get() - time.monotonic()


@asynccontextmanager
async def until(deadline: float | None) -> AsyncIterator[None]:
    """Bound what runs inside by ``deadline`` on ``time.monotonic``'s clock, and by any earlier one outside.

    Raises CallError when it passes, and at once if it has passed.
    """
    if deadline is None:
        yield
        return
    before = _ends.set(min(deadline, _ends.get()))
    try:
        left = remaining()
        if left <= 0.0:
            raise CallError("the deadline of the check had passed before it began", retryable=True)
        async with asyncio.timeout(left + _GRACE):
            yield
    except TimeoutError:
        raise CallError("there was no answer before the deadline of the check", retryable=True) from None
    finally:
        _ends.reset(before)


T = TypeVar("T")

_FIRST, _LONGEST = 0.25, 8.0
"""Seconds: the first wait is random below _FIRST, the next below twice that, and none is above _LONGEST."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How a backend meets a failing server. The defaults are meant to stay.

    Args:
        attempts: how often one call is made at most; 1 never repeats any.
        cool_down: seconds for which a server that keeps failing is left alone before one call probes it.
        sleep: waits for so many seconds; replace it, and tests wait for nothing.
    """

    attempts: int = 3
    cool_down: float = 5.0
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep, repr=False)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"attempts must be at least 1, not {self.attempts!r}")
        if not 0.0 <= self.cool_down < float("inf"):
            raise ConfigurationError(f"cool_down must be a number of seconds, not {self.cool_down!r}")

    @classmethod
    def without_waits(cls, *, attempts: int = 3, cool_down: float = 5.0) -> Self:
        """For test suites: everything is decided as in production, and no time is spent on it."""
        return cls(attempts, cool_down, _at_once)


async def _at_once(seconds: float) -> None:
    await asyncio.sleep(0)


async def persist(
    attempt: Callable[[], Awaitable[T]],
    *,
    retries: Retries,
    budget: Budget,
    elsewhere: Callable[[], bool] = lambda: False,
) -> T:
    """What ``attempt()`` gives, which is called again while that makes sense and the deadline leaves room.

    ``elsewhere`` says whether the next attempt goes to a server that has not been asked yet: what the last
    one said about waiting does not concern it. Raises the last attempt's CallError, with the attempts in its
    reason, and anything else at once.
    """
    from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

    backoff = wait_random_exponential(multiplier=_FIRST, max=_LONGEST)
    began = 0.0
    gave_up = ""

    async def timed() -> T:
        nonlocal began
        began = time.monotonic()
        return await attempt()

    def wait(state: RetryCallState) -> float:
        error = _error(state)
        asked = 0.0 if error.retry_after is None or elsewhere() else error.retry_after
        return asked + backoff(state)

    def stop(state: RetryCallState) -> bool:
        nonlocal gave_up
        # The next attempt will take as long as this one did, as far as anybody knows.
        needed = state.upcoming_sleep + time.monotonic() - began
        if state.attempt_number >= retries.attempts:
            return True
        if needed > remaining():
            gave_up = "no time is left for another"
        elif not budget.take():
            gave_up = "the retry budget is spent"
        return bool(gave_up)

    again = AsyncRetrying(
        sleep=retries.sleep,
        retry=retry_if_exception(lambda error: isinstance(error, CallError) and error.again),
        wait=wait,
        stop=stop,
        reraise=True,
    )
    budget.call()
    try:
        return await again(timed)
    except CallError as error:
        made = int(again.statistics["attempt_number"])
        notes = [f"after {made} attempts"] if made > 1 else []
        raise error.noted(", ".join([*notes, gave_up] if gave_up else notes)) from None


def _error(state: RetryCallState) -> CallError:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, CallError)
    return error


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as an HTTP date; None if it says neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    seconds = (
        (date if date.tzinfo else date.replace(tzinfo=UTC)) - (now or datetime.now(UTC))
    ).total_seconds()
    return max(0.0, seconds)
