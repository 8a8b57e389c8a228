"""What is told about checks: one span each, counters, log lines, and nothing that is somebody's."""

from __future__ import annotations

import asyncio
import base64
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from policyguard import ConfigurationError, Guard, Outcome
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.checking.telemetry import watching
from policyguard.testing import FakeBackend
from support.guards import AsyncWatched, Watched, png, policy, shade

WAYS = ["check", "acheck", "check_many", "check_many in workers", "acheck_many", "acheck_as_completed"]


class Collected:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def spans(self) -> list[ReadableSpan]:
        found = self.exporter.get_finished_spans()
        return [span for span in found if span.name == "policyguard.check"]

    def span(self) -> ReadableSpan:
        (span,) = self.spans()
        return span

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        every = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
        return [point for metric in every if metric.name == name for point in metric.data.data_points]

    def text(self) -> str:
        data = self.reader.get_metrics_data()
        return "".join(span.to_json() for span in self.spans()) + (data.to_json() if data else "")


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Collected:
    found = Collected()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", found.tracers)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", found.meters)
    return found


def checked(guard: Guard, images: Sequence[Any], way: str) -> None:
    async def collect() -> None:
        if way == "acheck":
            for image in images:
                await guard.acheck(image)
        else:
            stream: Any = guard.acheck_many if way == "acheck_many" else guard.acheck_as_completed
            async for _ in stream(images, workers=3):
                pass

    if way == "check":
        for image in images:
            guard.check(image)
    elif way.startswith("check_many"):
        list(guard.check_many(images, workers=3 if "workers" in way else None))
    else:
        asyncio.run(collect())


def test_a_span_names_policy_model_outcome_and_timings(collected: Collected) -> None:
    resolved = policy().resolve()
    verdict = Guard(resolved, backend=FakeBackend(0.9)).check(png(5))
    attributes = dict(collected.span().attributes or {})
    expected = {
        "policyguard.policy.id": "p",
        "policyguard.policy.fingerprint": resolved.fingerprint,
        "policyguard.model.id": "fake",
        "policyguard.outcome": "violates",
        "policyguard.action": "block",
        "policyguard.score": 0.9,
        "policyguard.rules": ("arms",),
        "policyguard.cached": False,
        "policyguard.degraded": False,
        "policyguard.partial": False,
        "policyguard.reading": "fast",
        "policyguard.image.sha256": verdict.evidence.image_sha256,
        "policyguard.image.width": 8,
        "policyguard.image.height": 8,
        "policyguard.image.frames": 1,
        "policyguard.model.seconds": verdict.evidence.timings.model,
    }
    assert expected == {name: attributes.get(name) for name in expected}
    documented = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    assert not [name for name in attributes if f"`{name}`" not in documented]


@pytest.mark.parametrize(
    ("answer", "image", "status"),
    [
        (0.9, png(), StatusCode.UNSET),
        (0.1, png(), StatusCode.UNSET),
        (0.1, b"broken", StatusCode.UNSET),
        (Assessment(Rating.UNDECIDED, 0.5, 1.0), png(), StatusCode.UNSET),
        (Failure(FailureKind.REFUSED, "no"), png(), StatusCode.UNSET),
        (Failure(FailureKind.ERROR, "server down"), png(), StatusCode.ERROR),
        (RuntimeError("gone"), png(), StatusCode.ERROR),
    ],
    ids=["blocked", "allowed", "unscannable", "undecided", "refused", "error", "exception"],
)
def test_only_what_failed_is_an_error_of_the_span(
    collected: Collected, answer: Any, image: bytes, status: StatusCode
) -> None:
    verdict = Guard(policy(), backend=FakeBackend(answer)).check(image)
    span = collected.span()
    assert (status, verdict.outcome) == (
        span.status.status_code,
        (span.attributes or {})["policyguard.outcome"],
    )
    assert (status is StatusCode.ERROR) == bool(span.status.description)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_every_image_has_a_span_with_its_own_times_under_the_caller_s(
    collected: Collected, way: str, batch: int
) -> None:
    guard = Guard(policy(), backend=FakeBackend(lambda r: shade(r) / 255, preferred_batch=batch, delay=0.01))
    with collected.tracers.get_tracer("app").start_as_current_span("request") as request:
        checked(guard, [png(n) for n in range(10)], way)
    spans = collected.spans()
    assert {n / 255 for n in range(10)} == {(span.attributes or {})["policyguard.score"] for span in spans}
    assert len(spans) == 10
    parent = request.get_span_context()
    assert {(parent.trace_id, parent.span_id)} == {
        (span.context.trace_id, span.parent.span_id) for span in spans if span.context and span.parent
    }
    for span in spans:
        assert span.start_time
        assert span.end_time
        took = (span.end_time - span.start_time) / 1e9
        timings = (span.attributes or {})["policyguard.decode.seconds"]
        assert isinstance(timings, float)
        assert took >= 0.01 + timings - 0.005


@pytest.mark.parametrize("way", WAYS)
def test_what_a_backend_calls_for_one_image_is_inside_its_span(collected: Collected, way: str) -> None:
    tracer = collected.tracers.get_tracer("http client")

    def answer(request: AssessmentRequest) -> float:
        with tracer.start_as_current_span(f"POST {shade(request)}"):
            return shade(request) / 255

    checked(Guard(policy(), backend=FakeBackend(answer, preferred_batch=1)), [png(n) for n in range(6)], way)
    checks = {span.context.span_id: span for span in collected.spans() if span.context}
    calls = [span for span in collected.exporter.get_finished_spans() if span.name.startswith("POST")]
    assert len(calls) == 6
    for call in calls:
        assert call.parent
        score = (checks[call.parent.span_id].attributes or {})["policyguard.score"]
        assert score == int(call.name.split()[1]) / 255


def test_a_usage_error_and_a_cancelled_check_end_their_spans(collected: Collected) -> None:
    with pytest.raises(ConfigurationError):
        Guard(policy(), backend=FakeBackend(ConfigurationError("wrong key sk-secret"))).check(png())
    span = collected.span()
    assert (StatusCode.ERROR, "ConfigurationError") == (
        span.status.status_code,
        (span.attributes or {})["error.type"],
    )
    assert "secret" not in span.to_json()
    collected.exporter.clear()

    async def cancelled() -> None:
        asked, for_ever = asyncio.Event(), asyncio.Event()

        async def hang(_: Any) -> None:
            asked.set()
            await for_ever.wait()

        check = asyncio.create_task(Guard(policy(), backend=AsyncWatched(hang)).acheck(png()))
        await asked.wait()
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check

    asyncio.run(cancelled())
    assert (StatusCode.UNSET, "CancelledError") == (
        collected.span().status.status_code,
        (collected.span().attributes or {})["error.type"],
    )


@pytest.mark.parametrize("way", WAYS)
def test_checks_are_counted_by_outcome_and_timed_in_seconds(collected: Collected, way: str) -> None:
    checked(Guard(policy(), backend=Watched()), [png(10), png(200), png(210), b"broken"], way)
    counted = {
        (point.attributes["policyguard.outcome"], point.attributes["policyguard.action"]): point.value
        for point in collected.points("policyguard.checks")
    }
    assert {("complies", "allow"): 1, ("violates", "block"): 2, ("unscannable", "block"): 1} == counted
    durations = collected.points("policyguard.check.duration")
    assert sum(point.count for point in durations) == 4
    assert min(durations[0].explicit_bounds) < 0.01
    assert sum(point.count for point in collected.points("policyguard.model.duration")) == 3


def test_no_image_no_path_no_words_and_no_key_gets_out(
    collected: Collected, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    encoded = base64.b64encode(png(77)).decode()
    path = tmp_path / "jane-doe-passport.png"
    path.write_bytes(png(77))
    said = "401 for http://bob:hunter2@gpu:8000/v1 bob:hunter2@gpu Bearer sk-proj-0123456789abcdefghij "
    pieces = " ".join(encoded[start : start + 20] for start in range(0, len(encoded), 20))
    answers: list[Assessment | Failure] = [
        Assessment(Rating.UNSAFE, 0.9, 1.0, rationale="a private rationale"),
        Failure(FailureKind.ERROR, f"{said}\ndata:image/png;base64,{encoded} {encoded}"),
        Failure(FailureKind.ERROR, f"data:a,b {encoded} {encoded[:25]}"),
        Failure(FailureKind.ERROR, f"gpu:8000 cannot answer now (HTTP 503): {pieces}"),
    ]
    lenient = policy(outcomes={"error": "allow", "unscannable": "flag"})
    guard = Guard(lenient, backend=FakeBackend().enqueue(*answers))
    with caplog.at_level(logging.DEBUG, "policyguard"):
        for image in (
            path,
            f"data:image/png;base64,{encoded}",
            encoded,
            "https://bob:hunter2@cdn/a.png",
            path,
            path,
        ):
            guard.check(image)
    told = collected.text() + caplog.text
    assert len(collected.spans()) == 6
    private = [
        encoded[:20],
        encoded[20:40],
        "passport",
        "rationale",
        "hunter2",
        "sk-proj",
        "data:",
        "cdn",
        "weapons",
    ]
    assert not [word for word in private if word in told]
    assert "gpu:8000 cannot answer now (HTTP 503)" in told
    assert "401 for ..." in told  # what is left says what went wrong


def test_each_check_is_one_debug_line_and_a_degraded_one_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeBackend().enqueue(0.9, Failure(FailureKind.ERROR, "server down"))
    guard = Guard(policy(outcomes={"error": "allow"}), backend=backend)
    with caplog.at_level(logging.DEBUG, "policyguard"):
        for _ in range(2):
            guard.check(png())
    first, second = caplog.records
    assert (logging.DEBUG, logging.WARNING) == (first.levelno, second.levelno)
    assert "outcome=violates action=block score=0.900 policy=p model=fake" in first.getMessage()
    assert "without being judged: outcome=error action=allow" in second.getMessage()
    assert "server down" in second.getMessage()


class Broken(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise RuntimeError("the collector is broken")

    def on_end(self, span: Any) -> None:
        raise RuntimeError("the collector is broken")


@pytest.mark.parametrize("place", ["start", "end"])
def test_whatever_fails_in_collecting_changes_no_verdict(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    tracers = TracerProvider()
    broken = Broken()
    if place == "end":
        monkeypatch.setattr(Broken, "on_start", SpanProcessor.on_start)
    tracers.add_span_processor(broken)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", tracers)
    guard = Guard(policy(), backend=FakeBackend().enqueue(0.9, 0.1))
    assert [Outcome.VIOLATES, Outcome.COMPLIES] == [guard.check(png()).outcome for _ in range(2)]


def test_an_application_without_opentelemetry_never_imports_it_and_hears_nothing() -> None:
    code = (
        "import sys\n"
        "from policyguard import Guard\n"
        "from policyguard.assessment import Failure, FailureKind\n"
        "from policyguard.testing import FakeBackend\n"
        "from policyguard.policy import parse_policy\n"
        "rules = [{'id': 'r', 'title': 'R', 'unsafe': ['weapons']}]\n"
        "house = parse_policy({'id': 'p', 'version': '1.0.0', 'title': 'P', 'rules': rules,\n"
        "    'outcomes': {'error': 'allow'}})\n"
        "from PIL import Image\n"
        "guard = Guard(house, backend=FakeBackend(Failure(FailureKind.ERROR, 'down')))\n"
        "assert guard.check(Image.new('RGB', (8, 8))).degraded\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def test_the_api_without_an_sdk_is_enough() -> None:
    code = (
        "from opentelemetry import metrics, trace\n"
        "from policyguard import Guard\n"
        "from policyguard.testing import FakeBackend\n"
        "from PIL import Image\n"
        "verdict = Guard('safeedit/l3', backend=FakeBackend(0.9)).check(Image.new('RGB', (8, 8)))\n"
        "import sys; print(verdict.outcome, [n for n in sys.modules if n.startswith('opentelemetry.sdk')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, "violates []\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("way", WAYS)
def test_checks_that_stop_nothing_are_marked_so(
    collected: Collected, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    guard = Guard(policy(), backend=FakeBackend(0.9))
    with caplog.at_level(logging.DEBUG, "policyguard"):
        with watching(True):
            checked(guard, [png(5), png(6)], way)
        checked(guard, [png(7)], way)
    marks = [dict(span.attributes or {})["policyguard.watched"] for span in collected.spans()]
    assert [True, True, False] == marks
    counted = {
        point.attributes["policyguard.watched"]: point.value
        for point in collected.points("policyguard.checks")
    }
    assert {True: 2, False: 1} == counted
    assert [True, True, False] == ["(watched" in record.getMessage() for record in caplog.records]


def test_the_checks_of_shadows_are_marked_and_counted_by_what_became_of_them(collected: Collected) -> None:
    strict = policy(id="strict", defaults={"threshold": 0.2})
    with Guard(policy(), backend=Watched(), shadow=strict) as guard:
        for image in (png(5), png(90)):  # the second violates under the shadow alone
            guard.check(image).shadows[0].wait()
        guard.close()
        guard.check(png(6))
    spans = [dict(span.attributes or {}) for span in collected.spans()]
    marked = {(span["policyguard.policy.id"], span["policyguard.shadow"]) for span in spans}
    assert marked == {("p", False), ("strict", True)}
    assert all(span.parent is None for span in collected.spans())
    results = {
        point.attributes["policyguard.shadow.result"]: point.value
        for point in collected.points("policyguard.shadows")
    }
    assert results == {"agrees": 1, "differs": 1, "dropped": 1}
    checks = {
        point.attributes["policyguard.shadow"]: point.value
        for point in collected.points("policyguard.checks")
    }
    assert sum(point.value for point in collected.points("policyguard.checks")) == 5
    assert set(checks) == {True, False}


def test_what_a_local_model_did_goes_out_as_metrics_once(collected: Collected) -> None:
    from policyguard.backends.stats import Counters

    counters = Counters("tiny")
    counters.set(device="cpu", dtype="float32")
    guard = Guard(policy(), backend=FakeBackend(0.1))
    for _ in range(2):
        counters.add(batch=4, tokens_computed=10, tokens_reused=5, prefix_hits=1)
        counters.spent("model", 0.5)
        guard.check(png())
    found = {point.value for point in collected.points("policyguard.local.passes")}
    assert found == {2}
    (point,) = [
        point
        for point in collected.points("policyguard.local.tokens")
        if point.attributes["policyguard.tokens"] == "reused"
    ]
    assert point.value == 10
    assert point.attributes["policyguard.model.id"] == "tiny"
    (seconds,) = collected.points("policyguard.local.seconds")
    assert seconds.value == 1.0
