"""Shadows: another policy or model, which judges a share of what a guard judges and never acts.

Covered: a shadow delays no answer (its queue is bounded in images and in memory, and what finds it full is
dropped and counted) and fails none (whatever it raises is counted). Its calls to servers have connections,
retries and a circuit breaker of their own.
Not covered: a shadow that shares a model in this process, or the one server, takes of its time.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from policyguard.assessment import Failure
from policyguard.errors import ConfigurationError
from policyguard.outcomes import Outcome
from policyguard.strict.arguments import count, text
from policyguard.verdict import ImageChange, ShadowCheck, ShadowState, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import ThreadPoolExecutor

    from policyguard.checking.rounds import Opened

__all__ = ["Shadow", "ShadowRun", "ShadowStats", "Sink", "cast_shadows"]

_WORKERS = 8
_PIXELS = 64_000_000
"""Pixels that may wait for a shadow (three bytes each). One image that waits alone may have more."""

_log = logging.getLogger("policyguard.shadow")


@dataclass(frozen=True, slots=True)
class Shadow:
    """What judges beside a guard: ``Guard(policy, shadow=Shadow("next.yaml", share=0.1))``.

    ``of``: a policy, or several, judged by the guard's own model; or another ``Guard``, with a model and
    settings of its own, which stays yours to close.
    ``share``: of the images, in (0, 1]. Their SHA-256 decides, so that the same image is in the sample or out
    of it, on every machine.
    ``name``: how it is called in results and telemetry. Default: the ids and versions of its policies.
    ``room``: how many images may wait for it; those that find it full are dropped.
    ``on_compared``: called with each comparison (``before``: the answer that counted, ``after``: the
    shadow's) in a thread of the shadow's. What it raises is logged, and goes no further.

    Raises ConfigurationError for settings that cannot work.
    """

    of: Any
    share: float = 1.0
    name: str | None = None
    room: int = 64
    on_compared: Callable[[ImageChange], None] | None = None

    def __post_init__(self) -> None:
        share: object = self.share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
            raise ConfigurationError(f"share must be above 0 and at most 1, not {share!r}")
        count("room", self.room)
        if self.name is not None:
            text("name", self.name)
        if isinstance(self.of, Shadow):
            raise ConfigurationError("a shadow of a shadow", hint="give a policy or a Guard")
        if self.on_compared is not None and not callable(self.on_compared):
            raise ConfigurationError("on_compared cannot be called", hint="give a function of one comparison")


@dataclass(frozen=True, slots=True)
class ShadowStats:
    """What a shadow did so far, in images.

    Of ``sampled`` images, ``compared`` got a verdict of both, ``dropped`` found no room, ``failed`` got no
    answer of the shadow's model, and the rest still waits. Of the compared ones ``changed`` have another
    outcome or action: ``weaker`` a milder action, ``stronger`` a more severe one. ``rules``: how many
    changes are put down to each rule (see ``ImageChange.rules``).
    """

    name: str
    share: float
    sampled: int = 0
    compared: int = 0
    changed: int = 0
    weaker: int = 0
    stronger: int = 0
    dropped: int = 0
    failed: int = 0
    rules: Mapping[str, int] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"rules": dict(self.rules)}


@runtime_checkable
class Sink(Protocol):
    """What takes in what a guard has judged, and gives what will be known of it."""

    name: str

    def offer(self, item: Opened, verdict: Verdict) -> ShadowCheck | None: ...


@dataclass(frozen=True, slots=True)
class _Job:
    item: Opened
    verdict: Verdict
    check: ShadowCheck
    pixels: int


class ShadowRun:
    """A shadow at work: its queue, its threads, its counts.

    ``judge`` gives its verdict on one image, in up to ``workers`` threads at once; ``closing`` frees what it
    owns.
    """

    def __init__(
        self,
        shadow: Shadow,
        name: str,
        judge: Callable[[Opened], Verdict],
        *,
        workers: int,
        closing: Callable[[], None] | None,
    ) -> None:
        self.name = shadow.name or name
        self._shadow, self._verdict_on, self._closing = shadow, judge, closing
        self._workers = max(1, min(workers, _WORKERS))
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()
        self._queue: deque[_Job] = deque()
        self._pixels = self._busy = 0
        self._closed = self._warned = False
        self._counts: Counter[str] = Counter()
        self._rules: Counter[str] = Counter()

    @property
    def stats(self) -> ShadowStats:
        with self._lock:
            counts, rules = dict(self._counts), dict(sorted(self._rules.items()))
        return ShadowStats(self.name, self._shadow.share, **counts, rules=rules)

    def offer(self, item: Opened, verdict: Verdict) -> ShadowCheck | None:
        """Take ``item`` in, if it is in the sample. Waits for nothing."""
        sha256 = verdict.evidence.image_sha256
        image = item.image
        if sha256 is None or isinstance(image, Failure) or verdict.outcome is Outcome.ERROR:
            return None
        if int(sha256[:13], 16) >= self._shadow.share * 16**13:
            return None
        check = ShadowCheck(self.name)
        # No more than is needed is kept: a frame whose scores are known may not have been decoded yet.
        pixels = image.size[0] * image.size[1] * len(image.frames)
        job = _Job(item, replace(verdict, normalised=None), check, pixels)
        with self._lock:
            self._counts["sampled"] += 1
            full = len(self._queue) >= self._shadow.room or (self._queue and self._pixels + pixels > _PIXELS)
            if taken := not (full or self._closed):
                self._queue.append(job)
                self._pixels += pixels
            if starts := taken and self._busy < self._workers:
                self._busy += 1
        if not taken:
            self._settle(job, "dropped")
        elif starts:
            self._go_on()
        return check

    def close(self) -> None:
        """Drop what waits, let what runs end, and free what it owns."""
        with self._lock:
            self._closed = True
        self._drop_all()
        if self._closing is not None:
            self._closing()  # which ends its calls
        if self._pool is not None:
            self._pool.shutdown()

    def _go_on(self) -> None:
        """One of the workers takes the next image. Each is a task of its own: so the interpreter can end."""
        try:
            with self._lock:
                if self._pool is None:
                    from concurrent.futures import ThreadPoolExecutor

                    self._pool = ThreadPoolExecutor(self._workers, "policyguard-shadow")
                pool = self._pool
            pool.submit(self._work)
        except RuntimeError:  # closed, or the interpreter ends
            with self._lock:
                self._busy -= 1
            self._drop_all()

    def _work(self) -> None:
        with self._lock:
            if not self._queue:
                self._busy -= 1
                return
            job = self._queue.popleft()
            self._pixels -= job.pixels
        self._judge(job)
        del job  # and its pixels
        self._go_on()

    def _judge(self, job: _Job) -> None:
        from policyguard.checking import telemetry

        verdict: Verdict | None = None
        try:
            with telemetry.in_shadow():
                verdict = self._verdict_on(replace(job.item, seconds=0.0, began=monotonic()))
            failure = verdict.reason if verdict.outcome is Outcome.ERROR else None
        except BaseException as error:
            failure = f"{type(error).__name__}: {error}"
        if verdict is None or failure is not None:
            if not self._closed:
                self._warn(failure)
            self._settle(job, "dropped" if self._closed else "failed", verdict)
            return
        change = ImageChange(job.verdict.source, job.verdict, verdict)
        self._settle(job, "judged", verdict, change)
        if self._shadow.on_compared is not None:
            try:
                self._shadow.on_compared(change)
            except Exception:
                _log.warning("on_compared of shadow %r failed", self.name, exc_info=True)

    def _settle(
        self, job: _Job, state: ShadowState, verdict: Verdict | None = None, change: ImageChange | None = None
    ) -> None:
        from policyguard.checking import telemetry

        with self._lock:
            if change is None:
                self._counts[state] += 1
            else:
                self._counts["compared"] += 1
                if change.changed:
                    self._counts["changed"] += 1
                    if change.before.action is not change.after.action:
                        self._counts["weaker" if change.weaker else "stronger"] += 1
                    self._rules.update(change.rules)
        telemetry.compared(self.name, state, change)
        job.check.settle(state, verdict)

    def _drop_all(self) -> None:
        with self._lock:
            left = list(self._queue)
            self._queue.clear()
            self._pixels = 0
        for job in left:
            self._settle(job, "dropped")

    def _warn(self, failure: str | None) -> None:
        with self._lock:
            first, self._warned = not self._warned, True
        level = logging.WARNING if first else logging.DEBUG
        _log.log(level, "shadow %r gave no verdict (the answer is not touched): %s", self.name, failure)


def cast_shadows(shadows: Sequence[Sink], opened: Sequence[Opened], verdicts: list[Verdict]) -> list[Verdict]:
    """``verdicts``, each with what the shadows will make of its image."""
    result = []
    for item, verdict in zip(opened, verdicts, strict=True):
        checks = []
        for shadow in shadows:
            try:
                check = shadow.offer(item, verdict)
            except Exception:
                _log.warning("shadow %r failed to take an image", shadow.name, exc_info=True)
                continue
            if check is not None:
                checks.append(check)
        result.append(replace(verdict, shadows=tuple(checks)) if checks else verdict)
    return result
