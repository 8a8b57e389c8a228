"""NudeNet, its real weights, on real photographs. It is AGPL: here only where somebody installed it."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyguard import ConfigurationError, Guard, Outcome
from policyguard.backends.sensors import get_sensor
from policyguard.backends.sensors.nudenet import NudeNet
from policyguard.errors import MissingExtraError
from policyguard.images import decode


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from policyguard.backends.sensors import open_nsfw

    monkeypatch.setattr(open_nsfw, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="nudenet"):
        Guard("modules/sexual", model="nudenet", subset=True)


class TestOnPhotographs:
    photographs = Path()

    @pytest.fixture(autouse=True)
    def _real(self) -> None:
        pytest.importorskip("nudenet")
        data = pytest.importorskip("skimage.data")
        self.photographs = Path(data.__file__).parent

    def test_its_classes_are_those_of_the_package(self) -> None:
        from nudenet import nudenet

        assert set(NudeNet.signals) == set(nudenet.__dict__["__labels"])

    @pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"])
    def test_it_sees_what_the_makers_own_reader_sees(self, name: str) -> None:
        from nudenet import NudeDetector

        path = self.photographs / name
        theirs: dict[str, float] = {}
        for box in NudeDetector().detect(str(path)):
            theirs[box["class"]] = max(theirs.get(box["class"], 0.0), box["score"])
        (ours,) = get_sensor("nudenet").sense(decode(path).frames[:1])
        assert {label: score for label, score in ours.items() if score} == pytest.approx(theirs, abs=1e-6)

    def test_a_face_is_found_and_no_rule_of_the_packaged_policy_is_broken(self) -> None:
        path = self.photographs / "astronaut.png"
        (sensed,) = get_sensor("nudenet").sense(decode(path).frames[:1])
        assert sensed["FACE_FEMALE"] > 0.5
        verdict = Guard("modules/sexual", model="nudenet", subset=True).check(path)
        assert verdict.outcome is Outcome.COMPLIES

    def test_a_class_that_it_does_not_have_is_refused(self) -> None:
        from backends.sensors.test_sensor_backend import policy

        rule = {"id": "r", "title": "R", "unsafe": ["r"], "signals": ["nudenet/BREAST"]}
        with pytest.raises(ConfigurationError, match="no signal 'BREAST'"):
            Guard(policy(rule), model="nudenet")
