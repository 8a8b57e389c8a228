"""Waiting for what another thread or task does. Nothing is given up: the suite ends what hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_PAUSE = 0.005


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(_PAUSE)


async def until(condition: Callable[[], object]) -> None:
    """The same on an event loop, which goes on meanwhile."""
    while not condition():  # noqa: ASYNC110 (most conditions are of other threads)
        await asyncio.sleep(_PAUSE)
