"""When a call is made again, and how long that waits: tenacity with a deadline and a budget.

Judging a picture changes nothing on a server, so a call may be repeated even if its answer was lost on the
way. What is repeated, ``faults`` and ``connection`` say (``CallError.again``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self, TypeVar

from policyguard.backends.vllm.deadline import remaining
from policyguard.backends.vllm.faults import CallError
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from tenacity import RetryCallState

    from policyguard.backends.vllm.budget import Budget

__all__ = ["Retries", "persist", "retry_after"]

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
