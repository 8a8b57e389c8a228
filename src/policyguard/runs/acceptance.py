"""What the images of a run mean for the baseline: violations to accept, entries that expired or are stale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from policyguard.runs.baseline import Baseline, BaselineEntry, blocking_rules
from policyguard.runs.run import CheckedImage, ImageStatus

__all__ = ["Accepted", "BaselineUse", "accept"]


@dataclass(slots=True)
class Accepted:
    """New entries, which replace earlier ones for the same image and policy, and what still blocks.

    ``unjudged`` and ``violating`` count the images that still block; ``blocking`` says why, a line each.
    """

    entries: list[BaselineEntry] = field(default_factory=list)
    blocking: list[str] = field(default_factory=list)
    unjudged: int = 0
    violating: int = 0


def accept(
    images: Iterable[CheckedImage], baseline: Baseline, *, by: str, reason: str, until: date
) -> Accepted:
    """Entries for every violation among ``images`` that blocks and is not accepted yet; for nothing else."""
    known, accepted = baseline.by_key(), Accepted()
    new: dict[tuple[str, str], BaselineEntry] = {}
    for image in images:
        if image.status is ImageStatus.UNJUDGED:
            accepted.unjudged += 1
            accepted.blocking.append(f"{image.path}: could not be judged: {image.verdict.reason}")
        elif image.status is ImageStatus.FAILED:
            rules, sha256 = blocking_rules(image.verdict), image.verdict.evidence.image_sha256
            if not rules or sha256 is None:
                accepted.violating += 1
                reasons = "; ".join(image.verdict.evidence.unexplained) or "no rule is named"
                accepted.blocking.append(f"{image.path}: cannot be accepted: {reasons}")
            for policy, broken in rules.items():
                key = (sha256 or "", policy)
                old = known.get(key)
                if old is not None and not baseline.expired(old) and broken <= set(old.rules):
                    continue  # another policy blocks it
                new[key] = BaselineEntry(
                    path=image.path,
                    policy=policy,
                    sha256=key[0],
                    rules=tuple(sorted(broken)),
                    until=until,
                    by=by,
                    reason=reason,
                )
    accepted.entries = sorted(new.values())
    return accepted


class BaselineUse:
    """Which entries of a baseline a run's images need. ``expired``: paths that an expired entry blocks."""

    def __init__(self, baseline: Baseline) -> None:
        self.expired: list[tuple[str, BaselineEntry]] = []
        self._baseline = baseline
        self._known = baseline.by_key()
        self._hashes = {entry.sha256 for entry in baseline.entries}
        self._met: set[tuple[str, str]] = set()
        self._needed: set[BaselineEntry] = set()

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
                self._needed.add(entry)  # it does not suffice, but it is not stale either
                if self._baseline.expired(entry):
                    self.expired.append((image.path, entry))

    def stale(self, *, whole: bool) -> tuple[BaselineEntry, ...]:
        """Entries that accept nothing: met and not needed, or, where the run covered everything, not met."""
        return tuple(
            entry
            for key, entry in self._known.items()
            if entry not in self._needed and (whole or key in self._met)
        )
