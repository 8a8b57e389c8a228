"""What a run says about its baseline: entries that have expired, and entries that nothing needs any more."""

from __future__ import annotations

from typing import TextIO

from policyguard.runs.baseline import Baseline, BaselineEntry
from policyguard.runs.run import CheckedImage, ImageStatus
from policyguard.strict.text import printable

__all__ = ["Seen"]

_NAMED = 5


class Seen:
    """Which entries of a baseline the images of a run have met."""

    def __init__(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._known = baseline.known()
        self._hashes = {entry.sha256 for entry in baseline.entries}
        self._met: set[tuple[str, str]] = set()
        self._needed: set[BaselineEntry] = set()
        self._expired: list[tuple[str, BaselineEntry]] = []

    def add(self, image: CheckedImage) -> None:
        sha256 = image.verdict.evidence.image_sha256
        if sha256 not in self._hashes or sha256 is None:
            return
        self._needed.update(image.baseline)
        for policy in image.policies:
            entry = self._known.get((sha256, policy))
            if entry is None:
                continue
            self._met.add((sha256, policy))
            if image.status in (ImageStatus.FAILED, ImageStatus.UNJUDGED):
                self._needed.add(entry)  # it is not what it takes, but neither is it idle
                if self._baseline.expired(entry):
                    self._expired.append((image.path, entry))

    def stale(self, *, whole: bool) -> tuple[BaselineEntry, ...]:
        """Entries that accept nothing: met and not needed, or, where the run saw everything, not met."""
        return tuple(
            entry
            for key, entry in self._known.items()
            if entry not in self._needed and (whole or key in self._met)
        )

    def tell(self, stale: tuple[BaselineEntry, ...], *, stderr: TextIO) -> None:
        for path, entry in self._expired[:_NAMED]:
            print(
                f"note: {printable(path)}: was accepted until {entry.until} by {printable(entry.by)}",
                file=stderr,
            )
        if len(self._expired) > _NAMED:
            print(f"note: ... and {len(self._expired) - _NAMED:,} more have expired", file=stderr)
        if stale:
            some = ", ".join(printable(entry.path) for entry in stale[:_NAMED])
            more = ", ..." if len(stale) > _NAMED else ""
            entries = (
                "1 baseline entry accepts" if len(stale) == 1 else f"{len(stale):,} baseline entries accept"
            )
            print(f"note: {entries} nothing any more ({some}{more})", file=stderr)
