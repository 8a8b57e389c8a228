"""Guard: policy + backend + settings; the one door.

A check goes source -> images.decode -> backend.assess -> verdict.decide, once per frame and policy, and
the worst answer wins (see ``checking``). What is wrong with one image becomes an outcome of that image; what
is wrong with the set-up raises.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from policyguard.assessment import Reading
from policyguard.backends.base import require_backend
from policyguard.backends.stats import Counters, GuardStats
from policyguard.checking import Checker
from policyguard.checking.checker import Normalise
from policyguard.checking.rounds import Opened
from policyguard.checking.shadow import Shadow, ShadowRun, ShadowStats, Sink
from policyguard.errors import ConfigurationError
from policyguard.strict.arguments import InOneProcess, count, seconds, switch
from policyguard.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from policyguard.assessment import Failure
    from policyguard.backends import Stage
    from policyguard.backends.base import Backend
    from policyguard.cache import VerdictCache
    from policyguard.dialects import Dialect
    from policyguard.lists import HashList
    from policyguard.policy import Policy, ResolvedPolicy

    PolicyLike: TypeAlias = str | Path | Policy | ResolvedPolicy
    ShadowLike: TypeAlias = "PolicyLike | Guard | Shadow | Sink"

__all__ = ["Guard", "Progress", "Shadow", "ShadowStats"]

Progress = Callable[[int, int | None], None]
"""Called with the number of images done and, where it is known, how many there are."""


class Guard(InOneProcess):
    """Checks images against one policy, or against several that must all allow.

    Args:
        policy: a packaged name (``"pictosafe/l3"``), a path, a ``Policy`` or ``ResolvedPolicy``, or a list.
        model: alias, hub id or local path of a guard model, run in this process. Default: POLICYGUARD_MODEL;
            without one, pico for PictoSafe policies and a ConfigurationError for all others.
        base_url: an OpenAI-compatible server that runs ``model``, or several that all do. Default:
            POLICYGUARD_BASE_URL, separated by commas.
        api_key: for that server; refused where none is named; ``""`` sends none. Default:
            POLICYGUARD_API_KEY.
        backend: a built backend, shared between guards; excludes ``model`` and ``base_url``.
        subset: with a guard that reads no policy (a sensor, see docs/sensors.md), judge by the rules that it
            can look at; the others are ``unchecked``, which leaves an image undecided.
        dialect: the dialect to speak, or its name (see ``dialects.get_dialect``); default: the model's own.
        explain: also read category and rationale (slower: the answer is decoded).
        cache: where scores are kept, so that the same question is asked once: ``"memory"``, the path of a
            file, or a ``VerdictCache``. Default: POLICYGUARD_CACHE, unless a built ``backend`` is given.
        stages: several guards in a row in place of one model: ``Stage``, built backends or names of models.
            See docs/stages.md.
        lists: one or several ``HashList`` of known images, looked up before the model is asked; see
            docs/stages.md. A list that denies names a rule of one of the policies.
        timeout: seconds for one check, with decoding and all retries. An image that is not judged by then is
            an ERROR. A model in this process cannot be interrupted: only checks not yet started are dropped.
        patience: seconds of an outage of its servers for which a check waits, before its image counts as an
            ERROR: for batches. ``timeout`` still ends it. Default: 0.
        shadow: a policy, a ``Guard``, a ``Shadow``, or a list of these, which judge beside this guard and act
            on nothing; see docs/shadow.md. What they make of an image is in ``verdict.shadows``, later.
        local: how ``model`` runs in this process, as ``TransformersBackend`` takes it:
            ``{"dtype": "float32", "max_pixels": 768 * 768}``; see docs/backends.md.
        replicas: processes that run ``model`` here and share the images of a run: a number, or ``"auto"`` for
            one on each GPU. See docs/backends.md. Default: it runs in this process.

    Weights load on first use or in ``warm``. A Guard is thread-safe and a context manager.
    Raises PolicyError for a bad policy and ConfigurationError for settings that cannot work.
    """

    def __init__(
        self,
        policy: PolicyLike | Sequence[PolicyLike],
        *,
        model: str | None = None,
        base_url: str | Sequence[str] | None = None,
        api_key: str | None = None,
        backend: Backend | None = None,
        dialect: str | Dialect | None = None,
        explain: bool = False,
        cache: str | Path | VerdictCache | None = None,
        timeout: float | None = None,
        subset: bool = False,
        patience: float = 0.0,
        shadow: ShadowLike | Sequence[ShadowLike] | None = None,
        stages: Sequence[Stage | Backend | str] | None = None,
        lists: HashList | Sequence[HashList] = (),
        local: Mapping[str, Any] | None = None,
        replicas: int | Literal["auto"] = 1,
    ) -> None:
        if timeout is not None:
            timeout = seconds("timeout", timeout)
        if model is not None and not isinstance(model, str | os.PathLike):
            raise ConfigurationError(
                f"model is of type {type(model).__name__}",
                hint="give an alias, a hub id or a folder; a built backend goes to `backend`",
            )
        self.backend: Backend
        self._counters = Counters()
        self.policies = _resolve_all(policy)
        self.lists = _known(lists, self.policies)
        self.explain = switch("explain", explain)
        self.timeout = timeout
        if stages is not None:
            single = model or base_url or api_key or dialect or subset or local or replicas != 1
            if backend is not None or single:
                raise ConfigurationError(
                    "give either stages or a backend, model, base_url, api_key, dialect, subset, local and "
                    "replicas",
                    hint="each stage has settings of its own: Stage(model=..., base_url=..., subset=...)",
                )
            from policyguard.backends import build_cascade

            self.backend = build_cascade(stages, policies=self.policies, timeout=timeout, patience=patience)
            self._owns_backend = True
            cache = cache or os.environ.get("POLICYGUARD_CACHE") or None
        elif backend is not None:
            if model or base_url or dialect or subset or local or replicas != 1:
                raise ConfigurationError(
                    "give either a backend or model, base_url, dialect, subset, local and replicas, not both",
                    hint="ReplicatedBackend(backend, replicas) runs a backend in several processes",
                )
            require_backend(backend)
            self.backend, self._owns_backend = backend, False
        else:
            from policyguard.backends import build_backend, runs_here

            named = model or os.environ.get("POLICYGUARD_MODEL") or None
            if not runs_here(model):
                if base_url is None:
                    base_url = _addresses(os.environ.get("POLICYGUARD_BASE_URL"))
                if api_key and base_url is None and not runs_here(named):
                    raise ConfigurationError(
                        "api_key is for a server, and no base_url names one",
                        hint="give its address too, such as base_url='https://api.openai.com/v1'",
                    )
                if api_key is None:
                    api_key = os.environ.get("POLICYGUARD_API_KEY") or None
            self.backend = build_backend(
                named,
                base_url=base_url,
                api_key=api_key or None,
                dialect=dialect,
                timeout=timeout,
                policies=self.policies,
                subset=subset,
                patience=patience,
                local=local,
                replicas=replicas,
            )
            self._owns_backend = True
            cache = cache or os.environ.get("POLICYGUARD_CACHE") or None
        if cache is not None:
            from policyguard.backends.cascade import CascadeBackend
            from policyguard.cache import CachedBackend, VerdictCache, open_cache

            store = open_cache(cache)
            if isinstance(self.backend, CascadeBackend):  # with other bands, no stage is asked again
                self.backend = self.backend.each(lambda stage: CachedBackend(stage, store))
            self.backend = CachedBackend(
                self.backend,
                store,
                owns_inner=self._owns_backend,
                owns_cache=not isinstance(cache, VerdictCache),
            )
            self._owns_backend = True
        for resolved in self.policies:
            self.backend.accept(resolved)
            _require_calibrated(resolved, self.backend)
        wanted: Any = shadow if isinstance(shadow, list | tuple) else () if shadow is None else (shadow,)
        ready = [item for item in wanted if isinstance(item, Sink)]  # of a service, which ends them itself
        self._runs = tuple(self._cast(item) for item in wanted if item not in ready)
        self._shadows: tuple[Sink, ...] = (*ready, *self._runs)

    def with_policy(self, policy: PolicyLike | Sequence[PolicyLike]) -> Guard:
        """A guard with another policy and the same backend, cache and lists: nothing is loaded again.

        It has no shadows: they are held against the policy of this one.
        """
        return Guard(
            policy, backend=self.backend, explain=self.explain, timeout=self.timeout, lists=self.lists
        )

    def warm(self) -> Self:
        """Load the model now instead of on the first check."""
        self.backend.warm()
        return self

    def stats(self) -> GuardStats:
        """What this guard and its model did so far, where the time went, and how the model is run.

        Of a guard on a server or a sensor: images, and the seconds of decoding and of calls. See
        docs/observability.md.
        """
        stats = self.backend.stats()
        return replace(GuardStats.together([self._counters.snapshot(), stats]), stages=stats.stages)

    def shadow_stats(self) -> tuple[ShadowStats, ...]:
        """What each shadow did so far."""
        return tuple(run.stats for run in self._runs)

    def close(self) -> None:
        """End the shadows, and free the backend, if this guard built it."""
        for run in self._runs:
            run.close()
        if self._owns_backend:
            self.backend.close()

    def __repr__(self) -> str:
        policies = ", ".join(policy.id for policy in self.policies)
        return f"<Guard {policies} on {type(self.backend).__name__}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def check(self, image: object, *, explain: bool | None = None, normalise: Normalise = False) -> Verdict:
        """Judge one image: a path, bytes, a PIL image, a data URI or a numpy array.

        What is wrong with the image is the verdict's outcome. Raises UsageError when the set-up is wrong.
        Works where an event loop runs, and blocks it; ``acheck`` does not. ``normalise``: the verdict on an
        image that may pass holds what was judged as a plain file (``Verdict.normalised``);
        ``"unless plain"``: it holds one only where viewers may show the image's own file otherwise.
        """
        checker = self._checker(normalise)
        return checker.judge([checker.open(image)], self._reading(explain))[0]

    async def acheck(
        self, image: object, *, explain: bool | None = None, normalise: Normalise = False
    ) -> Verdict:
        """``check``, without blocking the event loop. Cancelling it cancels the request to a server."""
        import asyncio

        checker = self._checker(normalise)
        opened = await asyncio.to_thread(checker.open, image)
        return (await checker.ajudge([opened], self._reading(explain)))[0]

    def judge_failure(self, source: str, failure: Failure, *, sha256: str | None = None) -> Verdict:
        """The verdict on an image that never got here, by the policies' ``outcomes``; no model is asked.

        ``sha256``: of its bytes, where they are known.
        """
        opened = Opened(source, failure, 0.0, monotonic(), sha256=sha256)
        return self._checker().judge([opened], Reading.FAST)[0]

    def check_many(
        self,
        images: Iterable[object],
        *,
        explain: bool | None = None,
        progress: Progress | None = None,
        workers: int | None = None,
        normalise: Normalise = False,
    ) -> Generator[Verdict, None, None]:
        """Judge many images, lazily, in input order.

        ``workers`` backend calls run at the same time, each with a batch as large as the backend likes; the
        default is the backend's own number, and a server is asked about as many frames at once. Images are
        decoded meanwhile; at most two batches per worker are read ahead, and fewer if they are large, so a
        generator of a million images never piles up in memory.
        ``images`` is drawn from in the caller's thread, where a path is read as it is drawn: a generator may
        write its next image over the same file. ``progress`` is called after each verdict.

        What is wrong with one image is its verdict's outcome. A UsageError is raised at first sight, an error
        of ``images`` itself after the verdicts on what came before it. Closing the iterator, or leaving it,
        waits for the calls that run. ``normalise`` as in ``check``.
        """
        from policyguard.checking.threads import in_threads

        _iterable(images)
        return in_threads(
            self._checker(normalise),
            images,
            reading=self._reading(explain),
            workers=self._workers(workers),
            progress=progress,
        )

    def acheck_many(
        self,
        images: Iterable[object] | AsyncIterable[object],
        *,
        explain: bool | None = None,
        progress: Progress | None = None,
        workers: int | None = None,
        ordered: bool = True,
        normalise: Normalise = False,
    ) -> AsyncGenerator[Verdict, None]:
        """``check_many`` for event loops; takes plain and asynchronous iterables.

        ``ordered=False`` gives verdicts as they come. Cancelling whoever iterates, and ``aclose()``, end all
        tasks and requests, and close an asynchronous generator of ``images``; after a ``break`` that happens
        when the iterator is collected, at once inside ``contextlib.aclosing``.
        """
        stream = self._stream(images, explain, progress, workers, normalise, ordered=ordered)
        return _without_places(stream)

    def acheck_as_completed(
        self,
        images: Iterable[object] | AsyncIterable[object],
        *,
        explain: bool | None = None,
        progress: Progress | None = None,
        workers: int | None = None,
        normalise: Normalise = False,
    ) -> AsyncGenerator[tuple[int, Verdict], None]:
        """``acheck_many`` as they come, each verdict with the place of its image, counted from 0."""
        return self._stream(images, explain, progress, workers, normalise, ordered=False)

    def _stream(
        self,
        images: Iterable[object] | AsyncIterable[object],
        explain: bool | None,
        progress: Progress | None,
        workers: int | None,
        normalise: Normalise,
        *,
        ordered: bool,
    ) -> AsyncGenerator[tuple[int, Verdict], None]:
        from policyguard.checking.tasks import in_tasks

        if not isinstance(images, AsyncIterable):
            _iterable(images)
        return in_tasks(
            self._checker(normalise),
            images,
            reading=self._reading(explain),
            workers=self._workers(workers),
            progress=progress,
            ordered=ordered,
        )

    def _checker(self, normalise: Normalise = False) -> Checker:
        return Checker(
            self.policies,
            self.backend,
            self.timeout,
            normalise,
            self._shadows,
            self.lists,
            self._counters,
        )

    def _cast(self, item: ShadowLike) -> ShadowRun:
        shadow = item if isinstance(item, Shadow) else Shadow(item)
        if isinstance(shadow.of, Guard):
            return shadow_run(shadow, shadow.of)
        backend = self.backend.aside()
        guard = Guard(shadow.of, backend=backend, timeout=self.timeout)
        return shadow_run(shadow, guard, None if backend is self.backend else backend.close)

    def _reading(self, explain: bool | None) -> Reading:
        wanted = self.explain if explain is None else switch("explain", explain)
        return Reading.EXPLAIN if wanted else Reading.FAST

    def _workers(self, workers: int | None) -> int:
        if workers is None:
            return max(1, self.backend.preferred_workers)
        workers = count("workers", workers)
        self.backend.make_room(workers)
        return workers


def shadow_run(shadow: Shadow, guard: Guard, closing: Callable[[], None] | None = None) -> ShadowRun:
    """``shadow`` at work, with the policies, model and settings of ``guard``."""
    checker = Checker(guard.policies, guard.backend, guard.timeout)  # without shadows of its own
    reading = Reading.EXPLAIN if guard.explain else Reading.FAST
    return ShadowRun(
        shadow,
        ", ".join(f"{policy.id} {policy.version}" for policy in guard.policies),
        lambda opened: checker.judge([opened], reading)[0],
        workers=guard.backend.preferred_workers,
        closing=closing,
    )


def _resolve_all(policy: Any) -> tuple[ResolvedPolicy, ...]:
    from policyguard.policy import Policy, ResolvedPolicy, load_policy

    policies = list(policy) if isinstance(policy, (list, tuple)) else [policy]
    if not policies:
        raise ConfigurationError("a guard needs at least one policy")
    resolved = []
    for item in policies:
        if isinstance(item, ResolvedPolicy):
            resolved.append(item)
        else:
            resolved.append((item if isinstance(item, Policy) else load_policy(item)).resolve())
    return tuple(resolved)


def _known(lists: Any, policies: tuple[ResolvedPolicy, ...]) -> tuple[HashList, ...]:
    if lists is None or (isinstance(lists, list | tuple) and not lists):
        return ()
    from policyguard.lists import HashList
    from policyguard.policy.resolved import require_rule

    known = tuple(lists) if isinstance(lists, list | tuple) else (lists,)
    for one in known:
        if not isinstance(one, HashList):
            raise ConfigurationError(
                f"lists hold a {type(one).__name__}", hint="HashList.load(FILE, deny='RULE') reads one"
            )
        if one.deny is not None:
            require_rule(policies, one.deny, f"list '{one.name}'")
    return known


def _require_calibrated(policy: ResolvedPolicy, backend: Backend) -> None:
    """Raise ConfigurationError for a calibration that was measured on another model or text."""
    if (calibration := policy.calibration) is None:
        return
    from policyguard.backends.cascade import model_digest

    model = backend.model
    if calibration.model != model_digest(model) or calibration.policy != policy.fingerprint:
        which = f"another text of policy '{policy.id}'"
        if calibration.policy == policy.fingerprint:
            which = f"{calibration.name} under policy '{policy.id}', and this guard is {model.id}"
            which += ", run in another way" if calibration.name == model.id else ""
        raise ConfigurationError(
            f"the policy's calibration is that of {which}",
            hint="measure this one with `policyguard calibrate`, or use the policy without `calibration:`",
        )


def _addresses(text: str | None) -> str | list[str] | None:
    """One address, or the list of those that commas separate. Only commas name none, which is a mistake."""
    if not text:
        return None
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    if not addresses:
        raise ConfigurationError("POLICYGUARD_BASE_URL names no server", hint="name one, or unset it")
    return addresses[0] if len(addresses) == 1 else addresses


def _iterable(images: object) -> None:
    """Raise ConfigurationError for one image where many are expected.

    A string would be read by letters, a file by lines, an array by rows.
    """
    one = (str, bytes, bytearray, memoryview, os.PathLike, Mapping)
    alone = isinstance(images, one) or hasattr(images, "read") or hasattr(images, "shape")
    if alone or not hasattr(images, "__iter__"):
        raise ConfigurationError(
            f"check_many takes an iterable of images, not a {type(images).__name__}",
            hint="use acheck_many for an asynchronous iterable"
            if isinstance(images, AsyncIterable)
            else "use check for one image, or put it in a list; list(...) makes one of a batch in one array",
        )


async def _without_places(
    placed: AsyncGenerator[tuple[int, Verdict], None],
) -> AsyncGenerator[Verdict, None]:
    async with aclosing(placed):
        async for _, verdict in placed:
            yield verdict
