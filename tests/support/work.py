"""How much work something is, in numbers that a slow or busy machine does not change."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls(action: Callable[[], Any]) -> int:
    """How many functions ``action`` calls in this thread, those written in C included.

    What one call of C does counts as one, however long it takes: a regular expression that goes back and
    forth is not seen.
    """
    count = 0

    def note(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def most_bytes(action: Callable[[], Any]) -> int:
    """How many bytes Python held at most at once during ``action``, over what it held before."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        action()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
