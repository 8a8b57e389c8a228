"""Spans, metrics and log lines about checks, for whoever collects them.

OpenTelemetry is reached through its API, and only where the application has imported it: without that there
is nobody to listen, and nothing is imported or paid for. Log lines go to the logger ``policyguard``.

Covered: no image data, no path or address of an image, no rationale and no policy text goes out; of an
error's reason only what comes before its first colon, as servers quote what they were sent. Whatever
fails in here is logged at DEBUG and changes no verdict.
Not covered: names that you chose (of policies, rules, models and servers) go out as they are.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from policyguard.backends.stats import news
from policyguard.outcomes import Outcome
from policyguard.verdict import ImageChange, Verdict

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from policyguard.checking.rounds import Opened
    from policyguard.policy import ResolvedPolicy

__all__ = ["observed", "watching"]

Attributes = dict[str, str | bool | int | float | list[str]]

_NAME = "policyguard"
_LONGEST_WORD = 24
_LONGEST_REASON = 120
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

_log = logging.getLogger(_NAME)
_log.addHandler(logging.NullHandler())
_building = threading.Lock()
_watched: ContextVar[bool] = ContextVar("policyguard_watched", default=False)
_shadow: ContextVar[bool] = ContextVar("policyguard_shadow", default=False)


@contextmanager
def watching(watched: bool) -> Iterator[None]:
    """Mark the checks inside the block as ones that stop nothing, if ``watched``."""
    before = _watched.set(watched)
    try:
        yield
    finally:
        _watched.reset(before)


@contextmanager
def in_shadow() -> Iterator[None]:
    """Mark the checks inside the block as those of a shadow, which act on nothing."""
    before = _shadow.set(True)
    try:
        yield
    finally:
        _shadow.reset(before)


def compared(shadow: str, state: str, change: ImageChange | None) -> None:
    """Count what became of one image that a shadow was to judge."""
    result = state if change is None else "differs" if change.changed else "agrees"
    _guarded(_count_shadow, shadow, result)


@contextmanager
def observed(opened: Sequence[Opened], policies: Sequence[ResolvedPolicy]) -> Iterator[list[Verdict]]:
    """Observe the judging of ``opened`` inside the block, which puts the verdicts into the list it gets.

    There is one span per image, from when its decoding began. That of a single image is current inside the
    block; where several are judged at once the caller's span stays current.
    """
    spans: list[Span] = []
    try:
        spans.extend(_started(opened, policies))
    except Exception:
        _log.debug("spans cannot be started", exc_info=True)
    report: list[Verdict] = []
    with _current(spans):
        try:
            yield report
        except BaseException as error:
            _guarded(_abandon, spans, error)
            raise
        _guarded(_describe, spans, report)
        _guarded(_count, report)
        _guarded(_count_models)
        _guarded(_write, report)


def _started(opened: Sequence[Opened], policies: Sequence[ResolvedPolicy]) -> Iterator[Span]:
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    tracer = _tracer(trace.get_tracer_provider())
    now, clock = time.time_ns(), time.monotonic()
    attributes = _policies([policy.id for policy in policies], [policy.fingerprint for policy in policies])
    for item in opened:
        start = now - round((clock - item.began) * 1e9)
        yield tracer.start_span("policyguard.check", start_time=start, attributes=attributes)


def _current(spans: Sequence[Span]) -> AbstractContextManager[Any]:
    if len(spans) != 1:
        return nullcontext()
    from opentelemetry.trace import use_span

    return use_span(spans[0], record_exception=False, set_status_on_exception=False)


def _abandon(spans: Sequence[Span], error: BaseException) -> None:
    """End the spans of checks that give no verdict: a usage error, or a caller who went away."""
    for span in spans:
        span.set_attribute("error.type", type(error).__name__)
        if isinstance(error, Exception):
            span.set_status(_error(), type(error).__name__)
        span.end()


def _describe(spans: Sequence[Span], verdicts: Sequence[Verdict]) -> None:
    for span, verdict in zip(spans, verdicts, strict=False):
        if span.is_recording():
            span.set_attributes(_attributes(verdict))
            if verdict.outcome is Outcome.ERROR:
                span.set_status(_error(), _public_reason(verdict.reason))
    for span in spans:
        span.end()


def _error() -> Any:
    from opentelemetry.trace import StatusCode

    return StatusCode.ERROR


def _count(verdicts: Sequence[Verdict]) -> None:
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return
    instruments = _instruments(metrics.get_meter_provider())
    for verdict in verdicts:
        evidence = verdict.evidence
        attributes: dict[str, str | bool] = {
            "policyguard.policy.id": ",".join(str(policy["id"]) for policy in evidence.policies),
            "policyguard.model.id": evidence.model.id,
            "policyguard.reading": evidence.reading.value,
            "policyguard.outcome": verdict.outcome.value,
            "policyguard.cached": verdict.cached,
        }
        instruments.check_seconds.record(evidence.timings.total, attributes)
        if evidence.frames:
            instruments.model_seconds.record(evidence.timings.model, attributes)
        attributes |= {
            "policyguard.action": verdict.action.value,
            "policyguard.degraded": verdict.degraded,
            "policyguard.watched": _watched.get(),
            "policyguard.shadow": _shadow.get(),
        }
        instruments.checks.add(1, attributes)


def _count_models() -> None:
    """What the models in this process did since the last check, whoever asked them."""
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return
    instruments = _instruments(metrics.get_meter_provider())
    for model, stats in news():
        names = {
            "policyguard.model.id": model,
            "policyguard.device": stats.device,
            "policyguard.model.dtype": stats.dtype,
        }
        instruments.passes.add(stats.passes, names)
        for kind in ("computed", "reused", "padding"):
            instruments.tokens.add(getattr(stats, f"tokens_{kind}"), names | {"policyguard.tokens": kind})
        for stage, seconds in stats.seconds.items():
            instruments.stage_seconds.add(seconds, names | {"policyguard.stage": stage})
        for found, count in (("hit", stats.prefix_hits), ("miss", stats.prefix_misses)):
            instruments.prefixes.add(count, names | {"policyguard.prefix": found})
        instruments.fallbacks.add(len(stats.fallbacks), names)


def _count_shadow(shadow: str, result: str) -> None:
    metrics = sys.modules.get("opentelemetry.metrics")
    if metrics is not None:
        attributes = {"policyguard.shadow.name": shadow, "policyguard.shadow.result": result}
        _instruments(metrics.get_meter_provider()).shadows.add(1, attributes)


def _write(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        level = logging.WARNING if verdict.degraded else logging.DEBUG
        if not _log.isEnabledFor(level):
            continue
        evidence = verdict.evidence
        line = (
            "%s: outcome=%s action=%s score=%s policy=%s model=%s reading=%s image=%s frames=%d seconds=%.3f"
        )
        _log.log(
            level,
            line + (" reason=%r" if verdict.outcome is Outcome.ERROR else "%s"),
            ("passed without being judged" if verdict.degraded else "checked")
            + (" (watched: nothing is stopped)" if _watched.get() else "")
            + (" (a shadow)" if _shadow.get() else ""),
            verdict.outcome.value,
            verdict.action.value,
            "-" if verdict.score is None else f"{verdict.score:.3f}",
            ",".join(str(policy["id"]) for policy in evidence.policies),
            evidence.model.id,
            evidence.reading.value,
            (evidence.image_sha256 or "-")[:12],
            evidence.frames,
            evidence.timings.total,
            _public_reason(verdict.reason) if verdict.outcome is Outcome.ERROR else "",
        )


def _policies(ids: Sequence[str], fingerprints: Sequence[str]) -> Attributes:
    return {
        "policyguard.policy.id": ",".join(ids),
        "policyguard.policy.fingerprint": ",".join(fingerprints),
    }


def _attributes(verdict: Verdict) -> Attributes:
    evidence, model = verdict.evidence, verdict.evidence.model
    width, height = evidence.size or (None, None)
    known = {
        "policyguard.model.id": model.id,
        "policyguard.model.revision": model.revision,
        "policyguard.model.dtype": model.dtype,
        "policyguard.backend": model.backend,
        "policyguard.dialect": f"{model.dialect}/{model.dialect_version}",
        "policyguard.reading": evidence.reading.value,
        "policyguard.outcome": verdict.outcome.value,
        "policyguard.action": verdict.action.value,
        "policyguard.score": verdict.score,
        "policyguard.label_mass": evidence.label_mass,
        "policyguard.rules": [finding.rule for finding in verdict.findings if finding.violates],
        "policyguard.stages": list(evidence.stages) or None,
        "policyguard.lists": [hit["list"] for hit in evidence.known] or None,
        "policyguard.cached": verdict.cached,
        "policyguard.degraded": verdict.degraded,
        "policyguard.partial": verdict.partial,
        "policyguard.watched": _watched.get(),
        "policyguard.shadow": _shadow.get(),
        "policyguard.image.sha256": evidence.image_sha256,
        "policyguard.image.width": width,
        "policyguard.image.height": height,
        "policyguard.image.frames": evidence.frames,
        "policyguard.decode.seconds": evidence.timings.decode,
        "policyguard.model.seconds": evidence.timings.model,
    }
    return {name: value for name, value in known.items() if value is not None}


def _public_reason(reason: str | None) -> str:
    """What comes before a colon in the first line of ``reason``, without what may be a key or an address.

    After it come the words of a server or a library, and those may hold anything, in pieces of any size.
    """
    line = next(iter((reason or "").splitlines()), "")[:4096].partition(": ")[0]
    words = [
        "..."
        if len(word) > _LONGEST_WORD or "://" in word or "@" in word or "data:" in word.lower()
        else word
        for word in line.split()
    ]
    return " ".join(words)[:_LONGEST_REASON]


class _Instruments(NamedTuple):
    checks: Counter
    check_seconds: Histogram
    model_seconds: Histogram
    shadows: Counter
    passes: Counter
    tokens: Counter
    stage_seconds: Counter
    prefixes: Counter
    fallbacks: Counter


def _tracer(provider: TracerProvider) -> Tracer:
    with _building:
        return _build_tracer(provider)


@lru_cache(maxsize=1)
def _build_tracer(provider: TracerProvider) -> Tracer:
    from policyguard._version import __version__

    return provider.get_tracer(_NAME, __version__)


def _instruments(provider: MeterProvider) -> _Instruments:
    with _building:
        return _build_instruments(provider)


@lru_cache(maxsize=1)
def _build_instruments(provider: MeterProvider) -> _Instruments:
    from policyguard._version import __version__

    meter = provider.get_meter(_NAME, __version__)

    def histogram(name: str, about: str) -> Histogram:
        return meter.create_histogram(name, "s", about, explicit_bucket_boundaries_advisory=_SECONDS)

    return _Instruments(
        meter.create_counter("policyguard.checks", "{check}", "Images that got a verdict."),
        histogram("policyguard.check.duration", "Decoding and judging one image."),
        histogram("policyguard.model.duration", "What one image took of the backend's time."),
        meter.create_counter("policyguard.shadows", "{check}", "Images that a shadow was to judge."),
        meter.create_counter(
            "policyguard.local.passes", "{pass}", "Forward passes of a model in this process."
        ),
        meter.create_counter(
            "policyguard.local.tokens", "{token}", "Tokens computed, reused, and of padding."
        ),
        meter.create_counter("policyguard.local.seconds", "s", "Where the time of a model's checks goes."),
        meter.create_counter(
            "policyguard.local.prefixes", "{pass}", "Passes by whether the prefix was there."
        ),
        meter.create_counter("policyguard.local.fallbacks", "{fallback}", "What went another way."),
    )


def _guarded(work: Any, *arguments: Any) -> None:
    try:
        work(*arguments)
    except Exception:
        _log.debug("%s failed", work.__name__, exc_info=True)
