"""``policyguard check`` in a project."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from cli.support import Captured
from policyguard.cli import main
from policyguard.runs.exits import ExitCode
from runs.support import pictures


def test_the_exit_code_of_an_empty_command_is_2(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ExitCode.USAGE == main(["check"])
    assert "no image found" in capsys.readouterr().err


def test_show_config_prints_toml_with_where_each_value_is_from(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ExitCode.OK == main(["check", "--show-config", "--workers", "4"])
    out = capsys.readouterr().out
    assert 'policy = ["./base.yaml"]  # policyguard.toml' in out
    assert "workers = 4  # --workers" in out
    assert 'fail_on = "block"  # default' in out
    assert {"policy", "policies", "workers", "fail_on"} <= set(tomllib.loads(out))


def test_plain_check_does_the_right_thing(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Path(__file__).parents[2] / "examples" / "images"
    (project / "policyguard.toml").write_text('policy = "pictosafe/l3"\nexclude = ["other/"]\n')
    for name in ("armoury.png", "picnic.png"):
        (project / name).write_bytes((examples / name).read_bytes())
    pictures(project, "other/a.png")
    assert ExitCode.BLOCKED == main(["check", "--format", "json"])
    captured = capsys.readouterr()
    found = {verdict["source"]: verdict["action"] for verdict in json.loads(captured.out)}
    assert {"armoury.png": "block", "picnic.png": "allow"} == found
    assert ExitCode.BLOCKED == main(["check", "--format", "json", "--replicas", "2"])
    again = capsys.readouterr()
    assert found == {verdict["source"]: verdict["action"] for verdict in json.loads(again.out)}
    assert "1 image (other/a.png) ignored by" in captured.err


def test_show_config_names_policies_that_cannot_be_used(
    several: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (several / "avatars.yaml").unlink()
    (several / "ads.yaml").write_text("nonsense")
    assert ExitCode.USAGE == main(["check", "--show-config"])
    captured = capsys.readouterr()
    assert "[[policies]]" in captured.out
    assert "'./avatars.yaml' of policyguard.toml cannot be used" in captured.err
    assert "'./ads.yaml' of policyguard.toml cannot be used" in captured.err


def test_an_empty_folder_is_named_and_nothing_is_loaded(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert ExitCode.USAGE == main(["check", str(tmp_path), "--policy", "pictosafe/l3"])
    captured = capsys.readouterr()
    assert f"error: no image found in folder '{tmp_path}'" in captured.err
    assert "hint: looked for names ending in .png" in captured.err


def test_only_blocked_images_are_printed_and_all_are_reported(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = Path(__file__).parents[2] / "examples" / "images"
    for name in ("armoury.png", "picnic.png"):
        (project / name).write_bytes((examples / name).read_bytes())
    command = ["check", ".", "--policy", "pictosafe/l3", "--format", "jsonl", "--report", "json=out.json"]
    assert ExitCode.BLOCKED == main([*command, "--only-blocked"])
    captured = capsys.readouterr()
    assert ["armoury.png"] == [json.loads(line)["source"] for line in captured.out.splitlines()]
    assert "2 images in" in captured.err
    assert {"armoury.png", "picnic.png"} == {
        image["path"] for image in json.loads(Path("out.json").read_text())["images"]
    }


def test_quiet_leaves_out_the_summary_and_keeps_verdicts_notes_and_the_exit_code(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "a.png")
    assert ExitCode.UNJUDGED == main(["check", "a.png", "gone.png", "--policy", "pictosafe/l3", "--quiet"])
    captured = capsys.readouterr()
    assert "gone.png" in captured.out
    assert "note: not there: 1 image (gone.png)\n" == captured.err


def test_a_mistyped_name_is_told_before_the_model_is_loaded(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", "gone.png", "--policy", "pictosafe/l3", "--base-url", "http://127.0.0.1:1/v1"]
    assert ExitCode.USAGE == main([*command, "--model", "none"])
    lines = capsys.readouterr().err.splitlines()
    assert "note: not there: 1 image (gone.png)" == lines[0]
