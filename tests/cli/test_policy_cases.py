"""``policyguard policy test``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import Captured
from policyguard.assessment import Failure, FailureKind
from policyguard.cli import main
from policyguard.testing import FakeBackend

CASES = """\
policies: {house: good.yaml}
images:
  - image: images/unsafe.png
    expect: {house: EXPECTED}
"""


@pytest.mark.parametrize(
    ("expected", "code", "said"),
    [
        ("violates", 0, "1 passed"),
        ("complies", 1, "expected outcome complies, found violates (findings arms)"),
        ("{outcome: complies, xfail: later}", 0, "1 failing as known"),
        ("{outcome: violates, xfail: later}", 1, "this holds now: delete `xfail:` (later)"),
        ("sometimes", 2, "expected complies,"),
    ],
)
def test_test_says_what_does_not_hold_and_ends_accordingly(
    expected: str, code: int, said: str, tmp_path: Path, good: str, images: Path, guarded: FakeBackend,
    capsys: Captured,
) -> None:  # fmt: skip
    file, report = tmp_path / "cases.yaml", tmp_path / "report.xml"
    file.write_text(CASES.replace("EXPECTED", expected))
    assert code == main(["policy", "test", str(file), "--junit", str(report)])
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    assert report.exists() == (code != 2)


def test_test_as_json_holds_every_result(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    file = tmp_path / "cases.yaml"
    file.write_text(CASES.replace("EXPECTED", "violates"))
    assert 0 == main(["policy", "test", str(file), "-f", "json"])
    report = json.loads(capsys.readouterr().out)
    assert (True, "passed", ["arms"]) == (
        report["passed"],
        report["results"][0]["status"],
        report["results"][0]["found"][0]["findings"],
    )


def test_a_model_that_fails_ends_in_3(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    guarded.answer = Failure(FailureKind.ERROR, "the server is down")
    file = tmp_path / "cases.yaml"
    file.write_text(CASES.replace("EXPECTED", "violates"))
    assert 3 == main(["policy", "test", str(file)])
    assert "the server is down" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [("test", "cases.yaml"), ("diff", "good.yaml", "good.yaml", "--on", "images/safe.png")]
)
def test_the_model_is_the_one_that_check_takes(
    command: tuple[str, ...], tmp_path: Path, good: str, images: Path, guarded: FakeBackend,
    monkeypatch: pytest.MonkeyPatch, capsys: Captured,
) -> None:  # fmt: skip
    """The project file's model and server; named ones take their place, and stages are built as stages."""
    asked: list[tuple[object, ...]] = []

    def build(model: str | None, **options: object) -> FakeBackend:
        asked.append((model, options["base_url"], options["dialect"], options["subset"], options["local"]))
        return guarded

    monkeypatch.setattr("policyguard.backends.build_backend", build)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases.yaml").write_text(CASES.replace("EXPECTED", "violates"))
    file = tmp_path / "policyguard.toml"
    file.write_text('model = "qwen"\nbase_url = "http://gpu/v1"\ndialect = "instruct"\nsubset = true\n')
    for more in ((), ("--model", "other"), ("--config", "none.toml")):
        main(["policy", *command, *more])
    assert "none.toml" in capsys.readouterr().err
    assert asked == [(model, "http://gpu/v1", "instruct", True, {}) for model in ("qwen", "other")]
    file.write_text('[[stages]]\nmodel = "open-nsfw"\nband = "gone.json"\n[[stages]]\nmodel = "qwen"\n')
    assert 2 == main(["policy", *command])
    assert "policyguard.toml, stage 1: there is no band file" in capsys.readouterr().err
