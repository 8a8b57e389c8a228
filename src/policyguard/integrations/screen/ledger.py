"""Which files at a provider were judged on their way there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyguard.verdict import Verdict

__all__ = ["FileLedger"]


class FileLedger:
    """File ids whose upload went through a guard, with the verdict; the ``max_entries`` used last are kept.

    A file that is not in the ledger, or was pushed out of it, blocks where it is used: it has to be uploaded
    again through the guard. Held in memory only. Thread-safe.
    """

    def __init__(self, *, max_entries: int = 10_000) -> None:
        self._max = max_entries
        self._verdicts: OrderedDict[str, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, file_id: str, verdict: Verdict) -> None:
        """Note that the file the provider calls ``file_id`` got ``verdict`` when it was uploaded."""
        with self._lock:
            self._verdicts[file_id] = verdict
            self._verdicts.move_to_end(file_id)
            while len(self._verdicts) > self._max:
                self._verdicts.popitem(last=False)

    def lookup(self, file_id: str) -> Verdict | None:
        """The verdict of the upload, or None where none went through the guard."""
        with self._lock:
            if file_id in self._verdicts:
                self._verdicts.move_to_end(file_id)
            return self._verdicts.get(file_id)

    def __len__(self) -> int:
        return len(self._verdicts)
