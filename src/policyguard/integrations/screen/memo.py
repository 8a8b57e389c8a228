"""What is remembered of judged images: verdicts for the length of one run, so that the same image is not
asked about at every turn (``Memo``), and which files were judged on their way to a provider
(``FileLedger``).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from policyguard.strict.arguments import InOneProcess
from policyguard.strict.lru import LruDict

if TYPE_CHECKING:
    from policyguard.verdict import Verdict

__all__ = [
    "FileLedger",
    "Memo",
]


class FileLedger(InOneProcess):
    """Ids of files whose upload went through a guard, and of images that a model made and it judged, with
    the verdict. The ``max_entries`` used last are kept.

    A file that is not in the ledger, or was pushed out of it, blocks where it is used: it has to be uploaded
    again through the guard. Held in memory only. Thread-safe.
    """

    def __init__(self, *, max_entries: int = 10_000) -> None:
        self._verdicts: LruDict[str, Verdict | None] = LruDict(max_entries)

    def remember(self, file_id: str, verdict: Verdict | None) -> None:
        """Note that the file the provider calls ``file_id`` got ``verdict``; None: it holds no image."""
        self._verdicts.put(file_id, verdict)

    def lookup(self, file_id: str) -> Verdict | None:
        """The verdict of the upload, or None where none went through the guard."""
        return self._verdicts.get(file_id)

    def holds_no_image(self, file_id: str) -> bool:
        """Whether the file was uploaded, and no image was in it."""
        return file_id in self._verdicts and self._verdicts.get(file_id) is None

    def __len__(self) -> int:
        return len(self._verdicts)


class Memo:
    """Verdicts by guard and image, failures included: an outage is met once per run and not at every turn.

    Its lifetime is the caller's to choose: make one where a run of an agent (or one request) begins and drop
    it where that ends. A Memo that outlives its run keeps failures that may long be over. Thread-safe; keeps
    the ``max_entries`` verdicts used last.
    """

    def __init__(self, *, max_entries: int = 4096) -> None:
        self._verdicts: LruDict[Hashable, Verdict] = LruDict(max_entries)

    def get(self, key: Hashable) -> Verdict | None:
        return self._verdicts.get(key)

    def put(self, key: Hashable, verdict: Verdict) -> None:
        self._verdicts.put(key, verdict)

    def __len__(self) -> int:
        return len(self._verdicts)
