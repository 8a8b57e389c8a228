"""Accepts what a run finds: violations become entries of a baseline, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from policyguard.runs.baseline import Baseline, BaselineEntry, blocking_rules
from policyguard.runs.run import CheckedImage, ImageStatus

__all__ = ["Accepted", "accept"]


@dataclass(slots=True)
class Accepted:
    """New entries, which replace earlier ones for the same image and policy, and what is left.

    ``unjudged`` and ``violating`` count the images that still block; ``left`` says why, a line each.
    """

    entries: list[BaselineEntry] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unjudged: int = 0
    violating: int = 0


def accept(
    images: Iterable[CheckedImage], baseline: Baseline, *, by: str, reason: str, until: date
) -> Accepted:
    """Entries for every violation among ``images`` that blocks and is not accepted yet."""
    known, found = baseline.known(), Accepted()
    new: dict[tuple[str, str], BaselineEntry] = {}
    for image in images:
        if image.status is ImageStatus.UNJUDGED:
            found.unjudged += 1
            found.left.append(f"{image.path}: could not be judged: {image.verdict.reason}")
        elif image.status is ImageStatus.FAILED:
            rules, sha256 = blocking_rules(image.verdict), image.verdict.evidence.image_sha256
            if not rules or sha256 is None:
                found.violating += 1
                why = "; ".join(image.verdict.evidence.unexplained) or "no rule is named"
                found.left.append(f"{image.path}: cannot be accepted: {why}")
            for policy, broken in rules.items():
                key = (sha256 or "", policy)
                old = known.get(key)
                if old is not None and not baseline.expired(old) and broken <= set(old.rules):
                    continue  # what blocks it is another policy
                new[key] = BaselineEntry(
                    path=image.path,
                    policy=policy,
                    sha256=key[0],
                    rules=tuple(sorted(broken)),
                    until=until,
                    by=by,
                    reason=reason,
                )
    found.entries = sorted(new.values())
    return found
