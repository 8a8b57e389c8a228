"""The types of a run over many images: what it starts from, what it finds, how it ends.

Reports are written against these types, and against ``policyguard.runs.reports.Report``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyguard.assessment import ModelIdentity
    from policyguard.policy import ResolvedPolicy
    from policyguard.runs.baseline import BaselineEntry
    from policyguard.verdict import Verdict

__all__ = ["CheckedImage", "ImageStatus", "PolicyInfo", "RunInfo", "RunSummary", "Stop", "Unchecked"]


class ImageStatus(StrEnum):
    """The result for one image.

    ``UNJUDGED``: blocked because it could not be judged. One that could not be judged and that its policy
    lets through or flags is ``PASSED`` or ``FLAGGED``, and its verdict is ``degraded``.
    """

    PASSED = "passed"
    FLAGGED = "flagged"
    FAILED = "failed"
    UNJUDGED = "unjudged"
    ACCEPTED = "accepted"


class Stop(StrEnum):
    """Why a run ended before its last image."""

    MAX_FAILURES = "max-failures"
    TIMEOUT = "timeout"
    INTERRUPT = "interrupt"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """One image that was checked.

    ``path`` is relative to the project's root, with forward slashes (absolute where the image lies outside of
    it, ``<stdin>`` for standard input). It may hold any character that a file name can, lone surrogates for
    undecodable bytes included. ``policies`` are ids. ``baseline``: the entries that accept the violation;
    empty unless ``status`` is ``ACCEPTED``.
    """

    path: str
    verdict: Verdict
    status: ImageStatus
    policies: tuple[str, ...]
    baseline: tuple[BaselineEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Unchecked:
    """An image that should have been checked and was not, and why in a few words."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """A policy of the run. ``file`` is relative to the project's root if it lies in it; None if packaged."""

    policy: ResolvedPolicy
    name: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known before the first image: ``command`` as typed, ``started`` in UTC, ``images`` to check."""

    root: Path
    policies: tuple[PolicyInfo, ...]
    model: ModelIdentity
    command: tuple[str, ...]
    version: str
    started: datetime
    images: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run ended.

    ``counts`` has a number for every ``ImageStatus``. ``unchecked`` is every image that should have been
    checked and was not: not reached before the run stopped, under a policy that cannot be used, or matched by
    no policy.
    ``problems`` are lines about the set-up (a report that cannot be written, a line of a baseline that
    cannot be read). ``exit_code``: see docs/cli.md; ``stopped`` is None when the run came to its end.
    """

    counts: Mapping[ImageStatus, int]
    seconds: float
    model: ModelIdentity
    policies: tuple[ResolvedPolicy, ...]
    exit_code: int
    stopped: Stop | None = None
    unchecked: tuple[Unchecked, ...] = ()
    problems: tuple[str, ...] = ()
    ignored: int = 0
    cached: int = 0
    stale: tuple[BaselineEntry, ...] = field(default=())
