"""What a change of policy does to images: each is judged under both policies, and asked about once.

Both policies go through the same Guard path as any check; a cache sees to it that an image whose scores
are known is decided afresh and not asked about again, as long as they are enough for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from policyguard.authoring.diff.structure import Head
from policyguard.cache.backend import CachedBackend, remembering
from policyguard.guard import Guard
from policyguard.outcomes import Action
from policyguard.verdict import ImageChange, Verdict

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.policy.policy import Policy
    from policyguard.policy.resolved import ResolvedPolicy

__all__ = ["BehaviourDiff", "ImageChange", "Judged", "called", "compare_on", "judge", "unjudged"]

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class BehaviourDiff:
    """All images under both policies, in the order given. ``asked``: how many images went to the model."""

    before: Head
    after: Head
    model: str
    images: tuple[ImageChange, ...]
    asked: int
    known: int

    @property
    def changed(self) -> tuple[ImageChange, ...]:
        """The images whose outcome or action differs, those that pass more easily first."""
        changed = [image for image in self.images if image.changed]
        return tuple(sorted(changed, key=lambda i: i.after.action.severity - i.before.action.severity))

    @property
    def unjudged(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image that could not be judged under one of the two, in the order given."""
        return unjudged(
            (image.source, [("before", image.before), ("after", image.after)]) for image in self.images
        )

    @property
    def moves(self) -> Counter[tuple[Action, Action]]:
        """How many of the changed images went from which action to which."""
        return Counter((image.before.action, image.after.action) for image in self.changed)

    def to_dict(self) -> dict[str, Any]:
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "model": self.model,
            "total": len(self.images),
            "changed": len(self.changed),
            "unjudged": len(self.unjudged),
            "asked": self.asked,
            "known": self.known,
            "images": [image.to_dict() for image in self.images],
        }


def compare_on(
    before: Policy | ResolvedPolicy,
    after: Policy | ResolvedPolicy,
    images: Sequence[object],
    *,
    backend: Backend,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> BehaviourDiff:
    """Judge ``images`` under both policies.

    ``names`` are what the images are called in the result, one each. What is wrong with an image is its
    outcome under both. To keep scores from run to run, give a ``CachedBackend``. Raises UsageError when the
    set-up is wrong, such as a model that reads neither policy.
    """
    cached = remembering(backend)
    guards = [Guard(policy, backend=cached) for policy in (before, after)]
    total = len(images)
    sides: list[Judged] = []
    for turn, guard in enumerate(guards):
        step = _shifted(progress, turn * total, 2 * total)
        sides.append(judge(guard, images, names=names, progress=step))
    judged = tuple(
        ImageChange(old.source, old, new) for old, new in zip(*(side.verdicts for side in sides), strict=True)
    )
    return BehaviourDiff(
        Head.of(guards[0].policies[0]),
        Head.of(guards[1].policies[0]),
        cached.model.id,
        judged,
        asked=sum(side.asked for side in sides),
        known=sum(side.known for side in sides),
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """One guard's verdicts, and how many requests its model answered and was spared."""

    verdicts: tuple[Verdict, ...]
    asked: int
    known: int


def unjudged(
    images: Iterable[tuple[str, Sequence[tuple[str, Verdict]]]],
) -> tuple[tuple[str, str], ...]:
    """Name and reason of each image that not every side could judge.

    ``images``: names, each with the verdicts by side. A side is named where the others say something else.
    """
    found = []
    for name, verdicts in images:
        why = [(side, v.reason or str(v.outcome)) for side, v in verdicts if not v.outcome.judged]
        if why and len(why) == len(verdicts) and len({reason for _, reason in why}) == 1:
            found.append((name, why[0][1]))
        elif why:
            found.append((name, "; ".join(f"{side}: {reason}" for side, reason in why)))
    return tuple(found)


def judge(
    guard: Guard,
    images: Sequence[object],
    *,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Judged:
    """Judge ``images`` with a guard whose backend is a ``CachedBackend``, each called by its name.

    Raises UsageError when the set-up is wrong.
    """
    cached = guard.backend
    assert isinstance(cached, CachedBackend)
    asked, known = cached.asked, cached.known
    verdicts = list(guard.check_many(images, progress=progress))
    labels = names if names is not None else [verdict.source for verdict in verdicts]
    renamed = tuple(called(verdict, name) for verdict, name in zip(verdicts, labels, strict=True))
    return Judged(renamed, cached.asked - asked, cached.known - known)


def called(verdict: Verdict, name: str) -> Verdict:
    """Under the name that was asked for; the reason need not repeat the one that the guard knows."""
    reason = verdict.reason and verdict.reason.removeprefix(f"{verdict.source}: ")
    return replace(verdict, source=name, reason=reason)


def _shifted(progress: Progress | None, offset: int, total: int) -> Progress | None:
    if progress is None:
        return None
    report = progress
    return lambda done, _total: report(offset + done, total)
