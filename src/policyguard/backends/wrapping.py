"""A backend in front of a backend: whatever a subclass does not define is passed on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from policyguard.backends.base import AssessmentRequest, Backend

if TYPE_CHECKING:
    from policyguard.assessment import ModelIdentity, Result
    from policyguard.images import Image
    from policyguard.policy import ResolvedPolicy

__all__ = ["WrappingBackend"]


class WrappingBackend(Backend):
    """``inner``, as it is. A subclass that changes ``assess`` changes ``aassess`` too."""

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

    @property
    def cache_scope(self) -> str:
        return self.inner.cache_scope

    def accept(self, policy: ResolvedPolicy) -> None:
        self.inner.accept(policy)

    def recall_image(
        self, source: object, *, frames: Literal["all", "sample"], policies: Sequence[ResolvedPolicy]
    ) -> Image:
        return self.inner.recall_image(source, frames=frames, policies=policies)

    def warm(self) -> None:
        self.inner.warm()

    def close(self) -> None:
        self.inner.close()
