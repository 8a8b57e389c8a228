"""What every backend is: something that assesses images under policies, one shape for local and remote."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from inspect import getattr_static
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Reading, Result
from policyguard.backends.stats import GuardStats
from policyguard.errors import ConfigurationError, PolicyGuardError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.images import Image
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "AssessmentRequest",
    "Backend",
    "WrappingBackend",
    "checked",
    "failures",
    "require_backend",
]


@dataclass(frozen=True, slots=True)
class AssessmentRequest:
    """One frame of an image, in RGB, under one policy.

    ``frame_key`` names the pixels: equal keys are equal frames; empty where that is not known, and nothing
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

    To write your own, inherit from this class and define ``model`` and ``assess``; all other members have
    defaults. A backend in front of another one inherits from ``WrappingBackend``.
    """

    @property
    @abstractmethod
    def model(self) -> ModelIdentity:
        """Which model answers."""
        ...

    @abstractmethod
    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request, in order.

        What goes wrong with one request is a ``Failure`` in its place; what is wrong with the set-up raises
        a ``UsageError``, at first sight.
        """
        ...

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """``assess`` without blocking the event loop. Default: in a thread."""
        import asyncio

        return await asyncio.to_thread(self.assess, requests)

    @property
    def preferred_batch(self) -> int:
        """How many requests the backend likes to get at once. Default: 1."""
        return 1

    @property
    def preferred_workers(self) -> int:
        """How many calls of ``assess`` or ``aassess`` the backend likes at the same time. Default: 1."""
        return 1

    def make_room(self, workers: int) -> None:
        """Before a run in which ``workers`` calls are made at the same time. Default: nothing is done."""
        return

    @property
    def cache_scope(self) -> str:
        """What tells askers apart who may get different answers. Part of cache keys. Default: empty."""
        return ""

    def aside(self) -> Backend:
        """A backend of the same model for work that must not touch this one's calls, such as a shadow's.

        Default: this one itself. One that keeps connections, retries or a circuit breaker gives another.
        """
        return self

    def parts(self, policy: ResolvedPolicy) -> tuple[ResolvedPolicy, ...]:
        """What it is asked about in place of ``policy``; the worst answer counts. Default: all in one."""
        return (policy,)

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raise a UsageError if this model cannot be asked about ``policy``; cheap, loads nothing."""
        return

    def recall_image(
        self, source: object, *, frames: Literal["all", "sample"], policies: Sequence[ResolvedPolicy]
    ) -> Image:
        """The image that ``source`` holds, to be checked against ``policies``. Default: decoded.

        A cache puts decoding off where it knows the scores. Raises ImageError and UsageError.
        """
        from policyguard.images import decode

        return decode(source, frames=frames)

    def stats(self) -> GuardStats:
        """What it did so far, without what a guard counts. Default: nothing is counted."""
        return GuardStats()

    def warm(self) -> None:
        """Load now what is loaded lazily."""
        return

    def close(self) -> None:
        """Free what the backend holds. It cannot be used afterwards."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class WrappingBackend(Backend):
    """A backend in front of a backend: whatever a subclass does not define is passed on to ``inner``.

    A subclass that changes ``assess`` changes ``aassess`` too.
    """

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    @property
    def model(self) -> ModelIdentity:
        return self.inner.model

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        return self.inner.assess(requests)

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        return await self.inner.aassess(requests)

    @property
    def preferred_batch(self) -> int:
        return self.inner.preferred_batch

    @property
    def preferred_workers(self) -> int:
        return self.inner.preferred_workers

    def make_room(self, workers: int) -> None:
        self.inner.make_room(workers)

    @property
    def cache_scope(self) -> str:
        return self.inner.cache_scope

    def aside(self) -> Backend:
        inner = self.inner.aside()
        if inner is self.inner:
            return self
        twin = copy(self)
        twin.inner = inner
        return twin

    def parts(self, policy: ResolvedPolicy) -> tuple[ResolvedPolicy, ...]:
        return self.inner.parts(policy)

    def accept(self, policy: ResolvedPolicy) -> None:
        self.inner.accept(policy)

    def recall_image(
        self, source: object, *, frames: Literal["all", "sample"], policies: Sequence[ResolvedPolicy]
    ) -> Image:
        return self.inner.recall_image(source, frames=frames, policies=policies)

    def stats(self) -> GuardStats:
        return self.inner.stats()

    def warm(self) -> None:
        self.inner.warm()

    def close(self) -> None:
        self.inner.close()


_MEMBERS = [name for name in vars(Backend) if not name.startswith("_")]


def require_backend(backend: object) -> None:
    """Raises ConfigurationError unless ``backend`` has all members of ``Backend``; calls none of them."""
    if isinstance(backend, str):
        raise ConfigurationError(
            f"a backend is an object, and {backend!r} is a text",
            hint="name a model with model=, and a server that runs it with base_url=",
        )
    if isinstance(backend, type):
        raise ConfigurationError(
            f"{backend.__name__} is a class", hint=f"give an object: {backend.__name__}(...)"
        )
    absent = [
        name
        for name in _MEMBERS
        if getattr_static(backend, name, None) is None and not hasattr(backend, name)
    ]
    if absent:
        raise ConfigurationError(
            f"a {type(backend).__name__} is not a backend: it has no {', '.join(absent)}",
            hint="inherit from policyguard.backends.Backend, which has defaults",
        )


def failures(error: Exception, expected: int) -> list[Result]:
    """What a backend raised, as the outcome of every image it was asked about. Usage errors are raised on."""
    if isinstance(error, UsageError):
        raise error
    retryable = isinstance(error, PolicyGuardError) and error.retryable
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return [Failure(FailureKind.ERROR, reason, retryable)] * expected


def checked(results: Sequence[Result], expected: int) -> list[Result]:
    """``results``, if there are ``expected`` of them; what is no result becomes a Failure."""
    try:
        answers = list(results)
    except Exception as error:  # None, or a lazy sequence that fails only now
        return failures(error, expected)
    if len(answers) != expected:
        reason = f"the backend gave {len(answers)} results for {expected} requests"
        return [Failure(FailureKind.ERROR, reason)] * expected
    return [
        result
        if isinstance(result, Assessment | Failure)
        else Failure(FailureKind.ERROR, f"the backend answered with a {type(result).__name__}")
        for result in answers
    ]
