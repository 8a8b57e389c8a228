"""Guard: policy + backend + settings; the one door.

A check goes source -> images.decode -> backend.assess -> verdict.decide, once per frame and policy, and
the worst answer wins. What is wrong with one image becomes an outcome of that image; what is wrong with
the set-up raises.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from policyguard.assessment import Assessment, Failure, FailureKind, Reading, Timings
from policyguard.errors import ConfigurationError, ImageError
from policyguard.judging import Opened, failures, judge
from policyguard.verdict import Decision, Evidence, Verdict

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from policyguard.backends.base import Backend
    from policyguard.images import Image
    from policyguard.policy import Policy, ResolvedPolicy

    PolicyLike: TypeAlias = str | Path | Policy | ResolvedPolicy

__all__ = ["Guard", "Progress"]

Progress = Callable[[int, int | None], None]
"""Called with the number of images done and, where it is known, how many there are."""


class Guard:
    """Checks images against one policy, or against several that must all allow.

    Args:
        policy: a packaged name (``"pictosafe/l3"``), a path, a ``Policy`` or ``ResolvedPolicy``, or a list.
        model: alias, hub id or local path of a guard model, run in this process. Default: POLICYGUARD_MODEL;
            without one, pico for PictoSafe policies and a ConfigurationError for all others.
        base_url: an OpenAI-compatible server that runs ``model``. Default: POLICYGUARD_BASE_URL.
        api_key: for that server. Default: POLICYGUARD_API_KEY.
        backend: a built backend, shared between guards; excludes ``model`` and ``base_url``.
        dialect: name of the dialect to speak; default: the model's own.
        explain: also read category and rationale (slower: the answer is decoded).

    Weights load on first use or in ``warm``. A Guard is thread-safe and a context manager.
    Raises PolicyError for a bad policy and ConfigurationError for settings that cannot work.
    """

    def __init__(
        self,
        policy: PolicyLike | Sequence[PolicyLike],
        *,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        backend: Backend | None = None,
        dialect: str | None = None,
        explain: bool = False,
        cache: Any = None,
        timeout: float | None = None,
    ) -> None:
        self.policies = _resolve_all(policy)
        self.explain = explain
        if backend is not None:
            if model or base_url or dialect:
                raise ConfigurationError("give either a backend or model, base_url and dialect, not both")
            self.backend, self._owns_backend = backend, False
        else:
            from policyguard.backends import build_backend
            from policyguard.backends.registry import resolve_model

            if base_url is None and not (model and resolve_model(model).path):
                # A packaged model that is named outright runs here: its pictures go to no server by surprise.
                base_url = os.environ.get("POLICYGUARD_BASE_URL")
            self.backend = build_backend(
                model or os.environ.get("POLICYGUARD_MODEL") or None,
                base_url=base_url or None,
                api_key=api_key or os.environ.get("POLICYGUARD_API_KEY") or None,
                dialect=dialect,
                policies=self.policies,
            )
            self._owns_backend = True
        for resolved in self.policies:
            self.backend.accept(resolved)

    def with_policy(self, policy: PolicyLike | Sequence[PolicyLike]) -> Guard:
        """A guard with another policy and the same backend: nothing is loaded again."""
        return Guard(policy, backend=self.backend, explain=self.explain)

    def warm(self) -> Self:
        """Load the model now instead of on the first check."""
        self.backend.warm()
        return self

    def close(self) -> None:
        """Free the backend, if this guard built it."""
        if self._owns_backend:
            self.backend.close()

    def __repr__(self) -> str:
        policies = ", ".join(policy.id for policy in self.policies)
        return f"<Guard {policies} on {type(self.backend).__name__}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def check(self, image: object, *, explain: bool | None = None) -> Verdict:
        """Judge one image: a path, bytes, a PIL image, a data URI or a numpy array.

        What is wrong with the image is the verdict's outcome. Raises UsageError when the set-up is wrong.
        """
        return self._judge([self._open(image)], explain=explain)[0]

    async def acheck(self, image: object, *, explain: bool | None = None) -> Verdict:
        """``check``, without blocking the event loop."""
        import asyncio

        return (await self._ajudge([await asyncio.to_thread(self._open, image)], explain=explain))[0]

    def check_many(
        self,
        images: Iterable[object],
        *,
        explain: bool | None = None,
        progress: Progress | None = None,
        workers: int | None = None,
    ) -> Iterator[Verdict]:
        """Judge many images, lazily, in input order.

        Images are decoded while the model runs; at most two backend batches are read ahead, so a generator
        of a million images never piles up in memory. ``progress`` is called after each verdict.
        """
        from concurrent.futures import ThreadPoolExecutor

        _iterable(images)
        size = max(1, self.backend.preferred_batch)
        number = workers or 1
        total = len(images) if isinstance(images, Sequence) else None
        source = iter(images)
        done = 0

        def work(batch: list[Future[Opened]]) -> list[Verdict]:
            return self._judge([item.result() for item in batch], explain=explain)

        with (
            ThreadPoolExecutor(2, thread_name_prefix="policyguard-decode") as pool,
            ThreadPoolExecutor(number, thread_name_prefix="policyguard-judge") as judges,
        ):
            ahead: deque[Future[list[Verdict]]] = deque()
            try:
                while True:
                    while len(ahead) < 2 * number:
                        batch = [self._draw(item, pool) for item in islice(source, size)]
                        if not batch:
                            break
                        ahead.append(judges.submit(work, batch))
                    if not ahead:
                        return
                    for verdict in ahead.popleft().result():
                        done += 1
                        if progress is not None:
                            progress(done, total)
                        yield verdict
            finally:
                for waiting in ahead:
                    waiting.cancel()

    async def acheck_many(
        self,
        images: Iterable[object] | AsyncIterable[object],
        *,
        explain: bool | None = None,
        progress: Progress | None = None,
    ) -> AsyncIterator[Verdict]:
        """``check_many`` for event loops; takes plain and asynchronous iterables."""
        size = max(1, self.backend.preferred_batch)
        total = len(images) if isinstance(images, Sequence) else None
        done = 0
        async for opened in self._adraw(images, size):
            for verdict in await self._ajudge(opened, explain=explain):
                done += 1
                if progress is not None:
                    progress(done, total)
                yield verdict

    def _open(self, source: object) -> Opened:
        from policyguard.images import decode, describe

        started = perf_counter()
        sample = any(policy.frames == "sample" for policy in self.policies)
        try:
            image: Image | Failure = decode(source, frames="sample" if sample else "all")
        except ImageError as error:
            image = Failure(FailureKind.UNSCANNABLE, str(error).replace("\n  hint: ", "; "))
        return Opened(describe(source), image, perf_counter() - started)

    def _draw(self, source: object, pool: Executor) -> Future[Opened]:
        """Open ``source`` in ``pool``; what its owner may change meanwhile is opened before this returns."""
        from concurrent.futures import Future

        from policyguard.images import is_settled

        if is_settled(source):
            return pool.submit(self._open, source)
        opened: Future[Opened] = Future()
        opened.set_result(self._open(source))
        return opened

    async def _adraw(
        self, images: Iterable[object] | AsyncIterable[object], size: int
    ) -> AsyncIterator[list[Opened]]:
        """Batches of opened images; see ``_draw``."""
        import asyncio

        from policyguard.images import is_settled

        batch: list[asyncio.Task[Opened]] = []
        try:
            async for image in _each(images):
                batch.append(asyncio.create_task(asyncio.to_thread(self._open, image)))
                if not is_settled(image):
                    await batch[-1]
                if len(batch) == size:
                    yield await asyncio.gather(*batch)
                    batch = []
            if batch:
                yield await asyncio.gather(*batch)
        finally:
            for waiting in batch:  # the caller, or its source, stopped midway
                waiting.cancel()

    def _reading(self, explain: bool | None) -> Reading:
        return Reading.EXPLAIN if (self.explain if explain is None else explain) else Reading.FAST

    def _judge(self, opened: Sequence[Opened], *, explain: bool | None) -> list[Verdict]:
        started, reading = perf_counter(), self._reading(explain)
        rounds = judge(opened, self.policies, reading)
        try:
            requests = next(rounds)
            while True:
                try:
                    results: Sequence[Assessment | Failure] = self.backend.assess(requests)
                except Exception as error:
                    results = failures(error, len(requests))
                requests = rounds.send(results)
        except StopIteration as done:
            return self._verdicts(opened, done.value, reading, perf_counter() - started)

    async def _ajudge(self, opened: Sequence[Opened], *, explain: bool | None) -> list[Verdict]:
        started, reading = perf_counter(), self._reading(explain)
        rounds = judge(opened, self.policies, reading)
        try:
            requests = next(rounds)
            while True:
                try:
                    results: Sequence[Assessment | Failure] = await self.backend.aassess(requests)
                except Exception as error:
                    results = failures(error, len(requests))
                requests = rounds.send(results)
        except StopIteration as done:
            return self._verdicts(opened, done.value, reading, perf_counter() - started)

    def _verdicts(
        self, opened: Sequence[Opened], decisions: Sequence[Decision], reading: Reading, seconds: float
    ) -> list[Verdict]:
        frames = sum(len(item.image.frames) for item in opened if not isinstance(item.image, Failure))
        share = seconds / max(1, frames)
        return [
            self._verdict(item, decision, reading, share)
            for item, decision in zip(opened, decisions, strict=True)
        ]

    def _verdict(self, item: Opened, decision: Decision, reading: Reading, share: float) -> Verdict:
        image = None if isinstance(item.image, Failure) else item.image
        frames = len(image.frames) if image else 0
        model_seconds = share * frames
        evidence = Evidence(
            policies=tuple(_named(policy) for policy in self.policies),
            model=self.backend.model,
            reading=reading,
            image_sha256=image.sha256 if image else None,
            size=image.size if image else None,
            frames=frames,
            label_mass=decision.label_mass,
            scoring=decision.scoring,
            notes=(*(image.notes if image else ()), *decision.notes),
            timings=Timings(item.seconds, model_seconds, item.seconds + model_seconds),
            unexplained=decision.unexplained,
        )
        return Verdict(
            source=item.source,
            outcome=decision.outcome,
            action=decision.action,
            score=decision.score,
            findings=decision.findings,
            rationale=decision.rationale,
            reason=decision.reason,
            evidence=evidence,
            degraded=decision.degraded,
            partial=image.partial if image else False,
        )


def _named(policy: ResolvedPolicy) -> dict[str, Any]:
    """A policy in the evidence: which one, and the reasons for what it weakens."""
    named: dict[str, Any] = {
        "id": policy.id,
        "version": policy.version,
        "fingerprint": policy.fingerprint,
    }
    if policy.weakenings:
        named["weakenings"] = [weakening.to_dict() for weakening in policy.weakenings]
    return named


def _resolve_all(policy: Any) -> tuple[ResolvedPolicy, ...]:
    from policyguard.policy import Policy, ResolvedPolicy, load_policy

    given = list(policy) if isinstance(policy, (list, tuple)) else [policy]
    if not given:
        raise ConfigurationError("a guard needs at least one policy")
    resolved = []
    for item in given:
        if isinstance(item, ResolvedPolicy):
            resolved.append(item)
        else:
            resolved.append((item if isinstance(item, Policy) else load_policy(item)).resolve())
    return tuple(resolved)


def _iterable(images: object) -> None:
    """Raise ConfigurationError for one image where many are expected: a string would be read by letters."""
    if isinstance(images, str | bytes | os.PathLike) or not hasattr(images, "__iter__"):
        raise ConfigurationError(
            f"check_many takes an iterable of images, not a {type(images).__name__}",
            hint="use check for one image, or put it in a list",
        )


async def _each(images: Iterable[object] | AsyncIterable[object]) -> AsyncIterator[object]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
        return
    _iterable(images)
    for image in images:
        yield image
