"""Verdicts remembered for the length of one run, so that the same image is not asked about at every turn."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyguard.verdict import Verdict

__all__ = ["Memo"]


class Memo:
    """Verdicts by guard and image, failures included: an outage is met once per run and not at every turn.

    Its lifetime is the caller's to choose: make one where a run of an agent (or one request) begins and drop
    it where that ends. A Memo that outlives its run keeps failures that may long be over. Thread-safe; keeps
    the ``max_entries`` verdicts used last.
    """

    def __init__(self, *, max_entries: int = 4096) -> None:
        self._max = max_entries
        self._verdicts: OrderedDict[Hashable, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Verdict | None:
        with self._lock:
            if key in self._verdicts:
                self._verdicts.move_to_end(key)
            return self._verdicts.get(key)

    def put(self, key: Hashable, verdict: Verdict) -> None:
        with self._lock:
            self._verdicts[key] = verdict
            self._verdicts.move_to_end(key)
            while len(self._verdicts) > self._max:
                self._verdicts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._verdicts)
