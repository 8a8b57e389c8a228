"""Time for the code under test: deadlines, and clocks that stand still until a test moves them.

No test measures how long something takes (``tests/test_suite.py``): on a slow machine that fails, and on a
fast one it proves nothing. ``support.work`` counts what was done instead. Only this module looks at a clock.
"""

from __future__ import annotations

import threading
import time


def deadline(seconds: float) -> float:
    """``seconds`` from now on the monotonic clock, as ``AssessmentRequest.deadline`` wants it."""
    return time.monotonic() + seconds


class Clock:
    """A monotonic clock in a test's hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SpentTime(threading.local):
    """A monotonic clock that stands at 1000.0, plus what each thread says that it has waited."""

    waited = 0.0

    def __call__(self) -> float:
        return 1000.0 + self.waited

    def wait(self, seconds: float) -> None:
        self.waited += seconds
