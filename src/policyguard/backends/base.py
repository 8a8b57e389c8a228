"""What every backend is: something that assesses pictures under policies, one shape for local and remote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

from policyguard.assessment import Assessment, Failure, ModelIdentity, Reading

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.policy import ResolvedPolicy

__all__ = [
    "AssessmentRequest",
    "Backend",
]


@dataclass(frozen=True, slots=True)
class AssessmentRequest:
    """One RGB picture (one frame of an image) under one policy.

    ``frame_key`` names the pixels: equal keys are equal pictures; empty where that is not known, and nothing
    is cached then. ``deadline`` is when the answer is of no more use, on ``time.monotonic``'s clock.
    ``encoded`` is a JPEG or PNG file of these pixels and nothing else, where there is one.
    """

    frame: PILImage
    policy: ResolvedPolicy
    reading: Reading = Reading.FAST
    frame_key: str = ""
    deadline: float | None = None
    encoded: bytes | None = None


@runtime_checkable
class Backend(Protocol):
    """Runs one guard model. Thread-safe; usable as a context manager.

    ``assess`` returns one result per request, in order. What goes wrong with one request is a
    ``Failure`` in its place; what is wrong with the set-up raises a ``UsageError``, at first sight.
    """

    @property
    def preferred_batch(self) -> int:
        """How many requests the backend likes to get at once."""
        ...

    @property
    def preferred_workers(self) -> int:
        """How many calls of ``assess`` or ``aassess`` the backend likes to get at the same time."""
        ...

    @property
    def model(self) -> ModelIdentity: ...

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]: ...

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Assessment | Failure]: ...

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raise a UsageError if this model cannot be asked about ``policy``; cheap, loads nothing."""
        ...

    def warm(self) -> None:
        """Load what is loaded lazily."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
