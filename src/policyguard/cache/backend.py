"""A backend that asks another one only what is not in the cache."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Literal

from policyguard.assessment import Reading, Result
from policyguard.backends.base import AssessmentRequest, WrappingBackend, checked
from policyguard.cache.keys import assessment_key
from policyguard.cache.pending import facts_key, facts_of, pending_image, read_settled
from policyguard.cache.store import MemoryCache
from policyguard.cache.work import End, Flights, Work
from policyguard.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.cache.store import VerdictCache
    from policyguard.images import Image
    from policyguard.policy import ResolvedPolicy

__all__ = ["CachedBackend", "remembering"]

_log = logging.getLogger("policyguard.cache")


class CachedBackend(WrappingBackend):
    """``inner`` behind ``cache``. Thread-safe, and usable from any number of event loops.

    Args:
        owns_inner, owns_cache: whether ``close`` closes them too.

    Of those who ask the same at once one asks the model, and all get its answer. So they do with a
    ``Failure``, which is not stored: the next who asks tries again. If that one is cancelled or its time is
    up, another takes over. If its call raises, the others ask for themselves, all at once. Nobody waits past
    its own deadline.

    ``asked`` and ``known`` count the requests answered by the model, and those it need not be asked.
    """

    def __init__(
        self, inner: Backend, cache: VerdictCache, *, owns_inner: bool = False, owns_cache: bool = False
    ) -> None:
        super().__init__(inner)
        self.cache = cache
        self.asked = self.known = 0
        self._counting = Lock()
        self._owns_inner, self._owns_cache = owns_inner, owns_cache
        self._flights = Flights()
        self._closed = False

    def __repr__(self) -> str:
        return f"CachedBackend({self.inner!r}, {self.cache!r})"

    def recall_image(
        self, source: object, *, frames: Literal["all", "sample"], policies: Sequence[ResolvedPolicy]
    ) -> Image:
        """Not decoded yet where scores of this image under the first of ``policies`` are stored."""
        from policyguard.images import describe, snapshot
        from policyguard.images.frames import decoder

        source = snapshot(source)  # what is looked up and what is judged are the same bytes
        data = read_settled(source)
        if data is not None:
            try:
                sha256 = hashlib.sha256(data).hexdigest()
                if (facts := self.cache.get(facts_key(sha256, frames, decoder()))) is not None:
                    image = pending_image(facts, data, sha256, frames, describe(source))
                    if any(self._has_scores(image, self.parts(policy)[0]) for policy in policies[:1]):
                        return image
            except UsageError:
                raise
            except Exception as error:  # a cache that breaks its promise: go on without it
                _log.warning("the verdict cache is passed over: %s: %s", type(error).__name__, error)
        image = super().recall_image(source, frames=frames, policies=policies)
        if data is not None and image.format is not None:
            try:
                self.cache.put(facts_key(image.sha256, frames, decoder()), facts_of(image))
            except Exception as error:
                _log.warning("the verdict cache is passed over: %s: %s", type(error).__name__, error)
        return image

    def _has_scores(self, image: Image, policy: ResolvedPolicy) -> bool:
        from policyguard.images.frames import frame_key

        model = self.model
        for reading in Reading:
            request = AssessmentRequest(image.frames[0], policy, reading, frame_key(image, 0))
            key = assessment_key(model, request, scope=self.cache_scope)
            if key is not None and self.cache.get(key) is not None:
                return True
        return False

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request, in order. Raises what ``inner`` raises, and UsageError after ``close``."""
        self._require_open()
        work = Work(self.inner, self.cache, self._flights, requests)
        while work.open:
            work.join(coroutine=False)
            try:
                if requests := work.look_up():
                    work.settle(checked(self.inner.assess(requests), len(requests)))
            except Exception:
                work.drop(End.BROKEN)
                raise
            finally:
                work.drop(End.ABANDONED)
            for index, flight, deadline in work.followed():
                work.take(index, flight.wait(deadline))
        return self._counted(work)

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """``assess`` without blocking the event loop.

        The cache is asked in a thread: it mostly answers within a tenth of a millisecond, but may have to
        wait for another process that writes, and the model's identity for its files.
        """
        self._require_open()
        work = await asyncio.to_thread(Work, self.inner, self.cache, self._flights, requests)
        while work.open:
            work.join(coroutine=True)  # not in the thread, which goes on if this is cancelled
            try:
                if requests := await asyncio.to_thread(work.look_up):
                    answers = checked(await self.inner.aassess(requests), len(requests))
                    await asyncio.to_thread(work.settle, answers)
            except Exception:
                work.drop(End.BROKEN)
                raise
            finally:
                work.drop(End.ABANDONED)
            for index, flight, deadline in work.followed():
                work.take(index, await flight.await_(deadline))
        return self._counted(work)

    def _counted(self, work: Work) -> list[Result]:
        with self._counting:
            self.asked += work.asked
            self.known += len(work.results) - work.asked
        return work.results

    def aside(self) -> Backend:
        """One with the same cache, which it does not own."""
        inner = self.inner.aside()
        return self if inner is self.inner else CachedBackend(inner, self.cache, owns_inner=True)

    def close(self) -> None:
        """Close what it owns. The backend cannot be used afterwards."""
        self._closed = True
        if self._owns_inner:
            self.inner.close()
        if self._owns_cache:
            self.cache.close()

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the cached backend is closed", hint="build a new one")


def remembering(backend: Backend) -> CachedBackend:
    """``backend``, behind a cache of this object's own unless it has one already."""
    if isinstance(backend, CachedBackend):
        return backend
    return CachedBackend(backend, MemoryCache(max_entries=sys.maxsize, ttl=None))
