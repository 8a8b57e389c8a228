"""The one place where tests look at a clock: for deadlines that they hand to the code under test.

No test measures how long something takes (``tests/test_suite.py``): on a slow machine that fails, and on a
fast one it proves nothing. ``support.work`` counts what was done instead.
"""

from __future__ import annotations

import time


def deadline(seconds: float) -> float:
    """``seconds`` from now on the monotonic clock, as ``AssessmentRequest.deadline`` wants it."""
    return time.monotonic() + seconds
