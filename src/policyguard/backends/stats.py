"""What a guard has done so far, in numbers: ``GuardStats``, and the counters behind it.

A count costs a lock and an addition, next to nothing beside a forward pass.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from threading import Lock
from time import perf_counter
from types import MappingProxyType
from typing import Any
from weakref import WeakSet

__all__ = ["Counters", "GuardStats", "news"]

_log = logging.getLogger("policyguard.backends")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardStats:
    """What a guard has done since it was built; see docs/observability.md.

    Args:
        images, cached: verdicts that this guard gave, and those of them for which no model was asked. All
            else but ``decode`` and ``judge`` is its backend's, and so of all guards that share that.
        seconds: by stage, summed over threads: ``decode``, and ``judge`` for calls of the backend. A model
            in this process adds ``prepare`` (resize, tokenise), ``wait`` (for its turn), ``model`` and
            ``read`` (scores out of logits). What follows ``tokens_in`` is counted for such models only.
        requests: sent to servers and services about images, each try counted, also those that find out what a
            server can do; with those of shadows that share the backend. Else 0.
        tokens_in, tokens_out: of the prompts and answers of those requests, as the server counts them in each
            answer; what a model thinks is in ``tokens_out``.
        passes: forward passes over prompts; the steps in which an explanation is decoded do not count.
        batch_sizes: how many passes had how many frames.
        tokens_computed: text and image tokens that went through the model, without padding.
        tokens_reused: tokens of policies that did not, as their KV prefix was there.
        tokens_padding: what batches of unequal frames were filled up with.
        prefix_hits, prefix_misses: passes that found the policy's prefix, and those that computed it.
        looks: frames that went through the vision tower; ``looks_reused``: frames of passes that did not, as
            what is seen of them was there.
        explained_there, explained_in_full: explanations decoded from where the rating was read, and those for
            which the whole prompt was read again.
        in_full: what is not used again, and why.
        device, dtype, threads: where, in which numbers and with how many CPU threads it computes; empty or
            ``None`` until it has loaded. Why: ``dtype_reason``, ``threads_reason``.
        replicas: processes that run the model; 0 where it runs in this one.
        fallbacks: what went another way than it should, each said once, such as a batch that did not fit.
        stages: of several guards in a row, the numbers of each by its name; they are summed up above.
    """

    images: int = 0
    cached: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    passes: int = 0
    batch_sizes: Mapping[int, int] = field(default_factory=dict)
    tokens_computed: int = 0
    tokens_reused: int = 0
    tokens_padding: int = 0
    prefix_hits: int = 0
    prefix_misses: int = 0
    looks: int = 0
    looks_reused: int = 0
    explained_there: int = 0
    explained_in_full: int = 0
    in_full: tuple[str, ...] = ()
    device: str = ""
    dtype: str = ""
    dtype_reason: str = ""
    threads: int | None = None
    threads_reason: str = ""
    replicas: int = 0
    fallbacks: tuple[str, ...] = ()
    stages: Mapping[str, GuardStats] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """How often a model looked at a frame: once in each pass."""
        return sum(size * count for size, count in self.batch_sizes.items())

    @property
    def padding_share(self) -> float:
        """Share of padding among all that went through the model, in [0, 1]."""
        return self.tokens_padding / max(1, self.tokens_computed + self.tokens_padding)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON takes it; keys of ``batch_sizes`` are texts."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "frames": self.frames,
            "padding_share": self.padding_share,
            "seconds": dict(self.seconds),
            "batch_sizes": {str(size): count for size, count in sorted(self.batch_sizes.items())},
            **{name: list(getattr(self, name)) for name in _TEXTS},
            "stages": {name: stats.to_dict() for name, stats in self.stages.items()},
        }

    def since(self, before: GuardStats) -> GuardStats:
        """What was counted after ``before``, an earlier state of the same counts."""
        counts = {name: getattr(self, name) - getattr(before, name) for name in _COUNTS}
        counts |= {name: getattr(self, name) for name in _SAID}
        return GuardStats(
            seconds={stage: took - before.seconds.get(stage, 0.0) for stage, took in self.seconds.items()},
            batch_sizes=Counter(self.batch_sizes) - Counter(before.batch_sizes),
            **{name: getattr(self, name)[len(getattr(before, name)) :] for name in _TEXTS},
            **counts,
        )

    @classmethod
    def together(cls, parts: Sequence[GuardStats]) -> GuardStats:
        """The sums of ``parts``; what is no number is that of the first part that has it."""
        values: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in _COUNTS}
        for name in _SUMS:
            sums: Counter[Any] = Counter()
            for part in parts:
                sums.update(getattr(part, name))
            values[name] = MappingProxyType(dict(sums))
        for name in _SAID:
            values[name] = next((said for part in parts if (said := getattr(part, name))), _DEFAULTS[name])
        for name in _TEXTS:
            values[name] = tuple(dict.fromkeys(text for part in parts for text in getattr(part, name)))
        return cls(**values)


_SUMS = ("seconds", "batch_sizes")
_TEXTS = ("fallbacks", "in_full")
_PLAIN = [item.name for item in fields(GuardStats) if item.name not in (*_SUMS, *_TEXTS, "stages")]
_DEFAULTS: Mapping[str, Any] = {item.name: item.default for item in fields(GuardStats)}
_COUNTS = [name for name in _PLAIN if _DEFAULTS[name] == 0 and name != "threads"]
_SAID = [name for name in _PLAIN if name not in _COUNTS]


_LIVE: WeakSet[Counters] = WeakSet()


def news() -> list[tuple[str, GuardStats]]:
    """For each model in this process, its name and what it counted since the last call of this."""
    return [(counters.model or "", told) for counters in list(_LIVE) if (told := counters.news()).passes]


class Counters:
    """Counts what ``GuardStats`` shows, of one model named ``model`` in telemetry. Thread-safe."""

    def __init__(self, model: str | None = None) -> None:
        self.model = model
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._seconds: dict[str, float] = {}
        self._set: dict[str, Any] = {}
        self._fallbacks: dict[str, None] = {}
        self._in_full: dict[str, None] = {}
        self._told = GuardStats()
        if model is not None:
            _LIVE.add(self)

    def add(self, *, batch: int | None = None, **counts: int) -> None:
        """Count up fields of ``GuardStats``; ``batch``: a forward pass over so many frames."""
        with self._lock:
            self._counts.update(counts)
            if batch is not None:
                self._sizes[batch] += 1
                self._counts["passes"] += 1

    def spent(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time inside the block, also where it raises."""
        began = perf_counter()
        try:
            yield
        finally:
            self.spent(stage, perf_counter() - began)

    def set(self, **values: Any) -> None:
        """Fields of ``GuardStats`` that are no counts, such as ``device``."""
        with self._lock:
            self._set.update(values)

    def say(self, fallback: str) -> None:
        """Note ``fallback``, and log it as a warning the first time."""
        with self._lock:
            if fallback in self._fallbacks:
                return
            self._fallbacks[fallback] = None
        _log.warning("%s", fallback)

    def note(self, in_full: str) -> None:
        """Note what is computed in full, and why."""
        with self._lock:
            self._in_full[in_full] = None

    def snapshot(self) -> GuardStats:
        with self._lock:
            return self._snapshot()

    def news(self) -> GuardStats:
        """The counts and seconds since the last call of this that came after a forward pass."""
        with self._lock:
            now, before = self._snapshot(), self._told
            if now.passes == before.passes:
                return GuardStats()
            self._told = now
        return now.since(before)

    def absorb(self, news: GuardStats) -> None:
        """Count what another process counted."""
        with self._lock:
            for name in _COUNTS:
                self._counts[name] += getattr(news, name)
            self._sizes.update(news.batch_sizes)
            for stage, seconds in news.seconds.items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds
            self._set.update({name: said for name in _SAID if (said := getattr(news, name))})
            self._in_full.update(dict.fromkeys(news.in_full))
        for fallback in news.fallbacks:
            self.say(fallback)

    def _snapshot(self) -> GuardStats:
        values: dict[str, Any] = {**self._counts, **self._set}
        return GuardStats(
            seconds=MappingProxyType(dict(self._seconds)),
            batch_sizes=MappingProxyType(dict(self._sizes)),
            fallbacks=tuple(self._fallbacks),
            in_full=tuple(self._in_full),
            **values,
        )
