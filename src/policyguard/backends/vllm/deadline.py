"""When an answer is of no more use: one moment on the monotonic clock, for everything done about a picture.

It travels in a context variable, so that calls, waits and body reads deep down need no further argument.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from policyguard.backends.vllm.faults import CallError

__all__ = ["remaining", "until"]

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
