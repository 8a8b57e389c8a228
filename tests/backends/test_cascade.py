"""Guards in a row: who decides what, and that nothing passes that no stage may let pass."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.remote.server import Scene, ToyServer
from backends.sensors.test_sensor_backend import Shades
from policyguard import Action, ConfigurationError, Guard, Outcome, Policy
from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Rating
from policyguard.authoring import band_of, compare_on, measure_band
from policyguard.backends import AssessmentRequest, CascadeBackend, MeasuredBand, Stage
from policyguard.backends.cascade import model_digest
from policyguard.backends.sensors import SensorBackend
from policyguard.cache import MemoryCache
from policyguard.policy.schema import Calibration
from policyguard.testing import FakeBackend
from support.examples import example
from support.guards import Watched, picture, png, policy, shade


class Named(FakeBackend):
    """A fake whose identity has a name, as two models have two."""

    def __init__(self, name: str, answer: Any = 0.0, **more: Any) -> None:
        super().__init__(answer, **more)
        self.name = name

    @property
    def model(self) -> ModelIdentity:
        return replace(super().model, id=self.name)


def by_shade(request: AssessmentRequest) -> float:
    return shade(request) / 255


def cheap(answer: Any = by_shade) -> Named:
    return Named("cheap", answer)


def strong(answer: Any = by_shade) -> Named:
    return Named("strong", answer)


POLICY = policy().resolve()


def measured(backend: FakeBackend, **more: Any) -> MeasuredBand:
    facts: dict[str, Any] = {"low": 0.2, "high": 0.8, "miss": 0.004, "confidence": 0.95}
    facts |= {"unsafe": 700, "safe": 700, "model": model_digest(backend.model), "policy": POLICY.fingerprint}
    return MeasuredBand(**facts | more)


def trusted(backend: FakeBackend, **more: Any) -> Stage:
    return Stage(backend=backend, band=measured(backend, **more), misses=0.005)


# Who decides


@pytest.mark.parametrize(
    ("level", "outcome", "stage"),
    [
        (250, Outcome.VIOLATES, "cheap"),
        (100, Outcome.COMPLIES, "strong"),
        (150, Outcome.VIOLATES, "strong"),
        (10, Outcome.COMPLIES, "cheap"),
    ],
)
def test_outside_the_band_the_cheap_stage_decides_and_inside_the_strong_one(
    level: int, outcome: Outcome, stage: str
) -> None:
    first, second = cheap(), strong()
    verdict = Guard(POLICY, stages=[trusted(first), second]).check(picture(level))
    assert (verdict.outcome, verdict.evidence.stages) == (outcome, (stage,))
    assert len(second.requests) == (stage == "strong")
    assert verdict.to_dict()["evidence"]["stages"] == [stage]


@pytest.mark.parametrize(
    "stage",
    [
        lambda first: Stage(backend=first, band=(0, 0.8)),
        lambda first: Stage(backend=first, band=measured(first)),
        lambda first: Stage(backend=first, band=measured(first, model="another"), misses=0.005),
        lambda first: Stage(backend=first, band=measured(first, policy="another"), misses=0.005),
        lambda first: Stage(backend=first, band=measured(first, low=0.0, miss=0.0), misses=0.005),
    ],
    ids=["not measured", "no miss rate allowed", "another model", "another policy", "not carried"],
)
def test_without_a_measurement_of_this_model_and_policy_nothing_is_safe_unasked(
    stage: Callable[[FakeBackend], Stage],
) -> None:
    first, second = cheap(0.0), strong(0.9)
    guard = Guard(POLICY, stages=[stage(first), second])
    assert guard.check(picture()).outcome is Outcome.VIOLATES
    assert len(second.requests) == 1


def test_a_violation_needs_no_measurement() -> None:
    second = strong(0.0)
    guard = Guard(POLICY, stages=[Stage(backend=cheap(0.9), band=(0, 0.8)), second])
    assert guard.check(picture()).outcome is Outcome.VIOLATES
    assert not second.requests


@pytest.mark.parametrize(
    "answer",
    [
        Failure(FailureKind.ERROR, "down"),
        Failure(FailureKind.REFUSED, "declined"),
        RuntimeError("broken"),
        Assessment(Rating.UNDECIDED, p_unsafe=0.0),
        Assessment(Rating.SAFE),
        Assessment(Rating.UNSAFE),
        Assessment(Rating.SAFE, p_unsafe=float("nan")),
        Assessment(Rating.SAFE, p_unsafe=0.01, rule_scores={"arms": 0.0}, label_mass=0.01),
        Assessment(Rating.SAFE, p_unsafe=0.01, rule_scores={"arms": 0.01}, unchecked=("arms",)),
        Assessment(Rating.SAFE, p_unsafe=0.01, rule_scores={"arms": 0.01}, blind_below=0.3),
    ],
    ids=str,
)
def test_what_the_cheap_stage_cannot_say_goes_to_the_strong_one(answer: Any) -> None:
    verdict = Guard(POLICY, stages=[trusted(cheap(answer)), strong(0.9)]).check(picture())
    assert (verdict.outcome, verdict.evidence.stages) == (Outcome.VIOLATES, ("strong",))


@pytest.mark.parametrize("answer", [Failure(FailureKind.ERROR, "down"), RuntimeError("down")])
def test_an_error_of_the_strong_stage_is_an_error(answer: Any) -> None:
    verdict = Guard(POLICY, stages=[trusted(cheap(0.5)), strong(answer)]).check(picture())
    assert verdict.outcome is Outcome.ERROR
    assert not verdict.allowed
    assert "down" in (verdict.reason or "")


def test_a_wrong_set_up_of_the_cheap_stage_is_raised() -> None:
    guard = Guard(POLICY, stages=[trusted(cheap(ConfigurationError("no such model"))), strong()])
    with pytest.raises(ConfigurationError, match="no such model"):
        guard.check(picture())


def test_a_score_over_the_band_that_does_not_violate_goes_on() -> None:
    """A threshold above the band's high end would make a violation of the cheap stage a pass."""
    lenient = policy(defaults={"threshold": 0.95}).resolve()
    second = strong(0.99)
    verdict = Guard(lenient, stages=[trusted(cheap(0.9)), second]).check(picture())
    assert (verdict.outcome, verdict.evidence.stages) == (Outcome.VIOLATES, ("strong",))


def test_a_rule_of_its_own_threshold_below_the_band_is_no_pass() -> None:
    rules = [{"id": "arms", "title": "Arms", "unsafe": ["weapons"], "threshold": 0.05}]
    strict = policy(rules=rules).resolve()
    verdict = Guard(strict, stages=[trusted(cheap(0.1)), strong(0.99)]).check(picture())
    assert verdict.evidence.stages == ("strong",)


def test_a_mild_violation_of_the_cheap_stage_hides_no_severe_one() -> None:
    rules = [
        {"id": "mild", "title": "Mild", "unsafe": ["a"], "action": "flag"},
        {"id": "severe", "title": "Severe", "unsafe": ["b"]},
    ]
    first = Named("cheap", 0.99, rules={"mild": 1.0})
    second = Named("strong", 0.99, rules={"severe": 1.0})
    verdict = Guard(policy(rules=rules), stages=[Stage(backend=first, band=(0, 0.8)), second]).check(
        picture()
    )
    assert verdict.action is Action.BLOCK


def test_three_stages_narrow_an_image_down() -> None:
    first, second, third = cheap(0.5), Named("middle", 0.5), strong(0.1)
    stages = [trusted(first), Stage(backend=second, band=(0, 0.9)), third]
    assert Guard(POLICY, stages=stages).check(picture()).evidence.stages == ("strong",)
    assert (len(first.requests), len(second.requests), len(third.requests)) == (1, 1, 1)


def test_batches_keep_their_order_and_the_strong_stage_gets_one_batch_of_the_rest() -> None:
    first, second = Named("cheap", by_shade, preferred_batch=16), strong()
    guard = Guard(POLICY, stages=[trusted(first), second])
    levels = [250, 10, 120, 5, 140, 130, 255, 0]
    verdicts = list(guard.check_many([picture(level) for level in levels]))
    assert [round((verdict.score or 0) * 255) for verdict in verdicts] == levels
    assert (first.calls, second.calls) == (1, 1)
    assert [shade(request) for request in second.requests] == [120, 140, 130]
    assert isinstance(guard.backend, CascadeBackend)
    assert guard.backend.asked == [8, 3]


def test_an_event_loop_gets_the_same_verdicts() -> None:
    guard = Guard(POLICY, stages=[trusted(cheap()), strong()])

    async def all_of() -> list[Any]:
        return [verdict async for verdict in guard.acheck_many([picture(n) for n in (250, 120, 5)])]

    verdicts = asyncio.run(all_of())
    assert [verdict.evidence.stages for verdict in verdicts] == [("cheap",), ("strong",), ("cheap",)]


def test_the_strong_stage_is_not_asked_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("policyguard.backends.cascade.monotonic", lambda: now[0])
    second = strong(0.0)
    backend = CascadeBackend([trusted(cheap(0.5)), Stage(backend=second)])
    request = AssessmentRequest(picture(), POLICY, deadline=1.0)
    assert isinstance(backend.assess([request])[0], Assessment)
    now[0] = 2.0
    (late,) = backend.assess([request])
    assert late == Failure(FailureKind.ERROR, "did not finish in time", retryable=True)
    assert len(second.requests) == 1


def test_explained_checks_have_the_words_of_the_stage_that_decided() -> None:
    verdict = Guard(POLICY, stages=[trusted(cheap(0.5)), strong(0.9)], explain=True).check(picture())
    assert (verdict.rationale, verdict.evidence.reading) == ("scripted", "explain")


def test_stages_are_warmed_and_only_what_the_guard_built_is_closed() -> None:
    warmed: list[str] = []
    first, second = cheap(), strong()
    first.warm = lambda: warmed.append("cheap")  # type: ignore[method-assign]
    second.warm = lambda: warmed.append("strong")  # type: ignore[method-assign]
    with Guard(POLICY, stages=[trusted(first), second]) as guard:
        guard.warm()
    assert warmed == ["cheap", "strong"]
    assert not first.closed
    with Guard("pictosafe/l3", stages=[Stage(model="pico", band=(0, 0.9)), "pico"]) as guard:
        pass
    with pytest.raises(ConfigurationError, match="closed"):
        guard.check(picture())


class Connected(Named):
    """A fake that keeps connections: work aside gets others."""

    def aside(self) -> Connected:
        return Connected(self.name, self.answer)


def test_shadows_of_stages_ask_beside_the_live_ones_and_close_what_is_theirs() -> None:
    first, second = cheap(), Connected("strong")
    live = CascadeBackend([trusted(first), Stage(backend=second)])
    beside = live.aside()
    assert beside is not live
    assert [stage.built is mine for stage, mine in zip(beside.stages, (first, second), strict=True)] == [
        True,
        False,
    ]
    assert beside.model == live.model
    beside.close()
    assert not first.closed
    assert not second.closed
    assert (twin := CascadeBackend([trusted(first), Stage(backend=strong())])).aside() is twin


def test_a_strong_stage_on_a_server_gets_only_what_the_cheap_one_leaves_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLICYGUARD_API_KEY", "sk-mine")
    with ToyServer() as server:
        server.default = Scene(unsafe=0.9)
        far = Stage(model=server.model, base_url=server.url)
        with Guard(POLICY, stages=[trusted(cheap()), far]) as guard:
            verdicts = guard.check_many([picture(level) for level in (250, 120, 5)])
            assert [v.evidence.stages for v in verdicts] == [("cheap",), (server.model,), ("cheap",)]

            async def alone() -> Any:
                return await guard.acheck(picture(130))

            assert asyncio.run(alone()).outcome is Outcome.VIOLATES
            before = len(server.bodies())
            server.fault = lambda handler, honest: handler.send_json(200, honest | {"model": "another"})
            assert guard.check(picture(131)).outcome is Outcome.ERROR
            assert guard.check(picture(1)).outcome is Outcome.COMPLIES
            assert len(server.bodies()) == before + 1


# Rules


def two_rules(**more: Any) -> Policy:
    return policy(
        rules=[
            {"id": "red", "title": "Red", "unsafe": ["red"], "signals": ["shades/red"]},
            {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
        ],
        **more,
    )


def test_a_sensor_decides_on_its_rule_and_a_model_on_the_others() -> None:
    second = strong(0.1)
    stages = [Stage(backend=SensorBackend(Shades()), rules=("red",)), second]
    guard = Guard(two_rules(), stages=stages)
    bad, good = guard.check(picture(250)), guard.check(picture(3))
    assert (bad.outcome, [f.rule for f in bad.findings]) == (Outcome.VIOLATES, ["red"])
    assert (good.outcome, good.evidence.stages) == (Outcome.COMPLIES, ("shades", "strong"))
    assert good.evidence.unchecked == ()
    assert {rule.id for request in second.requests for rule in request.policy.rules} == {"arms"}
    second.answer = 0.9
    assert [f.rule for f in guard.check(picture(3)).findings] == ["arms"]


def test_a_signal_that_the_sensor_leaves_out_is_unchecked_and_does_not_comply() -> None:
    stages = [Stage(backend=SensorBackend(Shades(leaves_out=["red"])), rules=("red",)), strong(0.0)]
    verdict = Guard(two_rules(), stages=stages).check(picture(3))
    assert (verdict.outcome, verdict.evidence.unchecked) == (Outcome.UNDECIDED, ("red",))


def test_a_failing_sensor_without_a_band_is_an_error_of_its_rule() -> None:
    stages = [Stage(backend=SensorBackend(Shades(red=float("nan"))), rules=("red",)), strong(0.0)]
    assert Guard(two_rules(), stages=stages).check(picture(3)).outcome is Outcome.ERROR


def test_a_sensor_over_the_whole_policy_leaves_what_it_does_not_look_at_to_the_next() -> None:
    sensor = SensorBackend(Shades(), subset=True)
    stages = [Stage(backend=sensor, band=(0, 0.9)), strong(0.0)]
    guard = Guard(two_rules(), stages=stages)
    assert guard.check(picture(250)).evidence.stages == ("shades",)
    assert (guard.check(picture(3)).outcome, guard.check(picture(3)).evidence.stages) == (
        Outcome.COMPLIES,
        ("strong",),
    )


def test_a_sensor_that_cannot_read_an_exception_is_refused_unless_its_stage_says_subset() -> None:
    rules = [
        {"id": "red", "title": "Red", "unsafe": ["red"], "safe": ["wine"], "signals": ["shades/red"]},
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
    ]
    for subset in (False, True):
        stages = [Stage(backend=SensorBackend(Shades(), subset=subset), rules=("red",)), strong()]
        if subset:
            assert Guard(policy(rules=rules), stages=stages).check(picture(3)).outcome is Outcome.COMPLIES
        else:
            with pytest.raises(ConfigurationError, match="exceptions of red"):
                Guard(policy(rules=rules), stages=stages)


def test_a_whole_policy_that_reaches_a_stage_of_some_rules_is_an_error_and_no_pass() -> None:
    backend = CascadeBackend(
        [Stage(backend=SensorBackend(Shades()), rules=("red",)), Stage(backend=strong())]
    )
    (result,) = backend.assess([AssessmentRequest(picture(), two_rules().resolve())])
    assert isinstance(result, Failure)
    assert "parts" in result.reason


# The cache


def test_another_stage_or_band_reuses_no_verdict_and_the_same_ones_do() -> None:
    store = MemoryCache()
    second = strong(0.1)
    image = png(250)

    def verdict(*stages: Any) -> Any:
        return Guard(POLICY, stages=stages, cache=store).check(image)

    wide = Stage(backend=cheap(), band=(0, 0.8))
    narrow = Stage(backend=cheap(), band=(0, 0.99))
    assert verdict(wide, second).outcome is Outcome.VIOLATES
    again = verdict(wide, second)
    assert (again.outcome, again.cached, again.evidence.stages) == (Outcome.VIOLATES, True, ("cheap",))
    assert verdict(narrow, second).outcome is Outcome.COMPLIES
    assert len(second.requests) == 1
    assert verdict(narrow, Named("other", 0.9)).outcome is Outcome.VIOLATES
    assert verdict(narrow, second).cached


def test_with_another_band_no_stage_is_asked_again() -> None:
    store, first, second = MemoryCache(), cheap(0.5), strong(0.1)
    for high in (0.8, 0.9):
        Guard(POLICY, stages=[Stage(backend=first, band=(0, high)), second], cache=store).check(png(9))
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_a_score_of_the_cheap_stage_is_no_pass_under_a_later_threshold() -> None:
    """The cheap stage's 0.9 decided under 0.5; under 0.95 the strong stage has to be asked."""
    store = MemoryCache()
    stages = [Stage(backend=cheap(0.9), band=(0, 0.8)), strong(0.99)]
    image = png(1)
    assert Guard(POLICY, stages=stages, cache=store).check(image).outcome is Outcome.VIOLATES
    raised = policy(defaults={"threshold": 0.95})
    verdict = Guard(raised, stages=stages, cache=store).check(image)
    assert (verdict.outcome, verdict.evidence.stages) == (Outcome.VIOLATES, ("strong",))


def test_policy_diff_asks_the_strong_stage_where_a_threshold_passes_the_cheap_score(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    backend = CascadeBackend([Stage(backend=cheap(0.9), band=(0, 0.8)), Stage(backend=strong(0.99))])
    raised = policy(defaults={"threshold": 0.95})
    result = compare_on(policy(), raised, [tmp_path / "a.png"], backend=backend)
    assert [image.after.outcome for image in result.images] == [Outcome.VIOLATES]


# Set-up


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Stage(backend=cheap(), band=(0.2, 0.8)), "nothing says how much it misses"),
        (lambda: Stage(backend=cheap(), band=(0, 0.8), misses=0.01), "needs a measured band"),
        (lambda: Stage(backend=cheap(), band=measured(cheap()), misses=0.001), "may miss|to miss up to"),
        (lambda: Stage(backend=cheap(), band=(0.9, 0.1)), "lies above"),
        (lambda: Stage(backend=cheap(), band=(0, 1.5)), "high end"),
        (lambda: Stage(backend=cheap(), band=(0, True)), "high end"),
        (lambda: Stage(backend=cheap(), band=(0.1,)), "low and a high"),
        (lambda: Stage(backend=cheap(), band=7), "type int"),
        (lambda: Stage(backend=cheap(), misses=2), "share between"),
        (lambda: Stage(backend=cheap(), misses="0.1"), "share between"),  # type: ignore[arg-type]
        (Stage, "either a model"),
        (lambda: Stage(model="pico", backend=cheap()), "either a model"),
        (lambda: Stage(backend=cheap(), rules="arms"), "list of ids"),
        (lambda: Guard(POLICY, stages=[Stage(backend=cheap()), strong()]), "never be asked"),
        (lambda: Guard(POLICY, stages=[trusted(cheap())]), "last stage"),
        (lambda: Guard(POLICY, stages=[]), "no stage"),
        (lambda: Guard(POLICY, stages="pico"), "must be a list"),
        (lambda: Guard(POLICY, stages=[strong()], model="pico"), "either stages"),
        (lambda: Guard(POLICY, stages=[strong()], api_key="k"), "either stages"),
        (lambda: Guard(POLICY, stages=[7]), "not a backend"),
        (
            lambda: Guard(POLICY, stages=[Stage(backend=cheap(), rules=("amrs",)), strong()]),
            "no rule 'amrs'(.|\n)*mean 'arms'",
        ),
        (lambda: Guard(two_rules(), stages=[Stage(backend=cheap(), rules=("red",))]), "no stage decides"),
        (lambda: CascadeBackend([Stage(backend=CascadeBackend([Stage(backend=strong())]))]), "one list"),
        (lambda: CascadeBackend([Stage(model="pico")]), "no backend yet"),
        (
            lambda: Guard(POLICY, stages=[Stage(model="m", base_url="http://[::1]:9", key_variable="NOPE")]),
            "NOPE is not set",
        ),
    ],
)
def test_stages_that_cannot_work_are_refused(make: Callable[[], object], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()


def test_a_key_of_the_environment_goes_to_one_server_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLICYGUARD_API_KEY", "sk-mine")

    def keys(*urls: str) -> list[bool]:
        stages = [Stage(model="m", base_url=url, band=(0, 0.9)) for url in urls]
        guard = Guard(POLICY, stages=[*stages, strong()])
        assert isinstance(guard.backend, CascadeBackend)
        return [stage.built.cache_scope != "" for stage in guard.backend.stages[:-1]]

    assert keys("http://127.0.0.1:9/v1") == [True]
    assert keys("http://127.0.0.1:9/v1", "http://127.0.0.1:8/v1") == [False, False]


def test_a_policy_that_one_stage_does_not_take_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError, match="world"):
        Guard(POLICY, stages=[trusted(cheap()), "pico"])


def test_two_stages_of_one_name_are_told_apart() -> None:
    backend = CascadeBackend([Stage(backend=Watched(), band=(0, 0.9)), Stage(backend=Watched())])
    assert [stage.title for stage in backend.stages] == ["fake #1", "fake #2"]
    assert "key-of-mine" not in repr(Stage(model="m", api_key="key-of-mine"))


# Measuring


def test_a_measured_band_survives_its_file_and_nothing_else_does(tmp_path: Path) -> None:
    band, file = measured(cheap(), high=None), tmp_path / "band.json"
    band.save(file)
    assert MeasuredBand.load(file) == band
    assert Stage(backend=cheap(), band=file, misses=0.005).band == band
    content = json.loads(file.read_text())
    for change in (
        {"low": "0.2"},
        {"low": -1},
        {"unsafe": 0.5},
        {"policyguard_band": 2},
        {"extra": 1},
        {"low": None},
        {"high": True},
    ):
        file.write_text(json.dumps(content | change))
        with pytest.raises(ConfigurationError):
            MeasuredBand.load(file)
    for text in ("", "[]", "{", '{"policyguard_band": 1}'):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match="not a measured band"):
            MeasuredBand.load(file)
    with pytest.raises(ConfigurationError, match="no band file"):
        MeasuredBand.load(tmp_path / "absent.json")


def band(unsafe: list[float | None], safe: list[float | None], **more: Any) -> MeasuredBand:
    labels = [True] * len(unsafe) + [False] * len(safe)
    return band_of([*unsafe, *safe], labels, model=cheap().model, policy=POLICY, **more)


def test_the_low_end_lets_as_many_unsafe_images_below_as_the_bound_allows() -> None:
    """5 of 1,000 is what Clopper and Pearson bound at 0.0105 (one-sided, 95%), 4 at 0.0091."""
    scores: list[float | None] = [number / 1000 for number in range(1000)]
    result = band(scores, scores, misses=0.01, false_alarms=0.01)
    assert result.low == 0.004
    assert result.miss == pytest.approx(0.00913, abs=1e-5)
    assert sum(score is not None and score >= (result.high or 2) for score in scores) <= 4
    assert (result.unsafe, result.safe) == (1000, 1000)


def test_a_sample_that_is_too_small_says_how_many_are_missing() -> None:
    """ln(0.05) / ln(0.995) is 597.6."""
    with pytest.raises(ConfigurationError, match=r"200 unsafe images(.|\n)*about 398 more"):
        band([0.9] * 200, [0.1] * 1000)
    with pytest.raises(ConfigurationError, match=r"10 safe images"):
        band([0.9] * 600, [0.1] * 10)
    assert band([0.9] * 600, [0.1] * 10, false_alarms=None).high is None
    assert band([0.9] * 3, [0.1] * 400, misses=None).low == 0.0


def test_a_band_is_one_of_the_model_s_own_scores() -> None:
    facts = {"model": "0" * 64, "policy": POLICY.fingerprint, "slope": 2.0, "name": "m", "data": "0" * 64}
    scaled = replace(POLICY, calibration=Calibration(**facts, images=9))
    with pytest.raises(ConfigurationError, match="holds a calibration"):
        band_of([0.5], [True], model=cheap().model, policy=scaled)
    assert measured(cheap()).fits(cheap().model, POLICY)
    assert not measured(cheap()).fits(cheap().model, scaled)


def test_what_had_no_score_is_neither_missed_nor_an_alarm() -> None:
    result = band([None] * 600, [None] * 400)
    assert (result.low, result.high) == (0.5, 0.5) or result.low <= (result.high or 1.0)


def test_classes_that_lie_apart_leave_no_band() -> None:
    result = band([0.9] * 700, [0.1] * 700)
    assert result.low == result.high
    assert 0.1 < result.low < 0.9


def test_measuring_a_guard_gives_a_band_for_its_model_and_policy() -> None:
    first = cheap()
    labels = [number >= 40 for number in range(255)] * 3
    images = [picture(number) for number in range(255)] * 3
    result = measure_band(Guard(POLICY, backend=first), images, labels, misses=0.01, false_alarms=None)
    assert 0.15 <= result.low <= 0.17
    assert result.fits(first.model, POLICY)
    assert not result.fits(strong().model, POLICY)
    stages = [Stage(backend=first, band=result, misses=0.01), strong(0.9)]
    assert Guard(POLICY, stages=stages).check(picture(10)).evidence.stages == ("cheap",)
    with pytest.raises(ConfigurationError, match="one model under one policy"):
        measure_band(Guard(POLICY, stages=stages), images, labels)


def test_a_band_of_a_sensor_counts_for_its_rules_and_signals_alone() -> None:
    sensor = SensorBackend(Shades(), subset=True)
    images, labels = [picture(number) for number in range(200)], [number >= 50 for number in range(200)]
    result = measure_band(
        Guard(two_rules(), backend=sensor), images, labels, rules=["red"], misses=0.05, false_alarms=None
    )
    assert 45 / 255 < result.low < 55 / 255
    second = strong(0.0)
    stages = [Stage(backend=sensor, rules=("red",), band=result, misses=0.05), second]
    assert Guard(two_rules(), stages=stages).check(picture(10)).evidence.stages == ("shades", "strong")
    assert {rule.id for request in second.requests for rule in request.policy.rules} == {"arms"}
    other = two_rules().model_dump(mode="json")
    other["rules"][0]["signals"] = ["shades/red", "shades/blue"]
    assert Guard(policy(rules=other["rules"]), stages=stages).check(picture(10)).evidence.stages == (
        "strong",
    )
    with pytest.raises(ConfigurationError, match="no rule 'rad'"):
        measure_band(Guard(two_rules(), backend=sensor), images, labels, rules=["rad"])


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_weakened_pico_saves_half_the_calls_of_pico_and_keeps_its_recall() -> None:
    pytest.importorskip("torch")
    figures = example("cascade", "benchmarks").measure(2000, 0.1, 0.005, 0)
    cascade, alone, _ = figures.recall
    assert cascade >= alone - 0.005
    assert figures.calls <= 0.5


@pytest.mark.parametrize("scores", [[1.5], [float("nan")], [0.1, 0.2]])
def test_scores_that_are_none_are_refused(scores: list[float | None]) -> None:
    with pytest.raises(ConfigurationError):
        band_of(scores, [True], model=cheap().model, policy=POLICY)


def test_the_promise_holds_on_fresh_images() -> None:
    """In at least 95% of samples the share below the low end stays within the rate that was allowed."""
    import random

    random.seed(7)
    kept = 0
    for _ in range(200):
        sample: list[float | None] = [random.betavariate(3, 1) for _ in range(800)]
        low = band(sample, [0.5], misses=0.01, false_alarms=None).low
        kept += low**3 <= 0.01  # the distribution function of Beta(3, 1)
    assert kept >= 186
