"""``policyguard models`` and ``policyguard bench``: thin doors to what has tests of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.text import Text

from cli.support import Terminal
from policyguard.backends.registry import known_models
from policyguard.cli import main
from policyguard.cli.bench import HELD_OUT, PAIRS, SCENES
from policyguard.cli.output import print_table
from policyguard.pictosafe import Sizes
from policyguard.runs.exits import ExitCode

Captured = pytest.CaptureFixture[str]
SMALL = ["--scenes", "3", "--pairs", "1", "--held-out", "1"]


def test_models_lists_what_is_known_and_how_to_name_others(capsys: Captured) -> None:
    assert ExitCode.OK == main(["models"])
    captured = capsys.readouterr()
    assert [model.id for model in known_models()] == [line.split()[0] for line in captured.out.splitlines()]
    assert "hub id or folder" in captured.err


def test_models_as_json_says_of_each_what_it_is(capsys: Captured) -> None:
    assert ExitCode.OK == main(["models", "--format", "json"])
    pico = json.loads(capsys.readouterr().out)[0]
    assert ("pico", "pico", "pictosafe") == (pico["id"], pico["dialect"], pico["world"])
    assert {"family", "size", "licence", "about"} < set(pico)


def test_make_writes_a_data_set_and_prints_where_its_manifest_is(tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "data"
    assert ExitCode.OK == main(["bench", "pictosafe", "make", str(folder), *SMALL, "--seed", "7"])
    manifest = Path(capsys.readouterr().out.strip())
    assert folder / "manifest.json" == manifest
    written = json.loads(manifest.read_text())
    assert (7, 3) == (written["seed"], written["sizes"]["scenes"])


def test_make_leaves_a_folder_alone_that_is_there_already(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "mine.txt").touch()
    assert ExitCode.USAGE == main(["bench", "pictosafe", "make", str(tmp_path), *SMALL])
    assert f"error: {tmp_path} is there already" in capsys.readouterr().err


def test_the_sizes_in_the_help_are_those_of_the_benchmark() -> None:
    assert Sizes() == Sizes(SCENES, PAIRS, HELD_OUT)


def test_a_data_set_settles_its_sizes_itself(tmp_path: Path, capsys: Captured) -> None:
    wrong = ["--data", str(tmp_path), "--held-out", "300"]
    assert ExitCode.USAGE == main(["bench", "pictosafe", "run", *wrong])
    assert "leave out --held-out" in capsys.readouterr().err


def test_names_are_whole_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    print_table(("id", "family", "about"), [(name, "Qwen2.5-VL", "many words " * 9)], stream)
    plain = Text.from_ansi(stream.getvalue()).plain
    assert name in plain
    assert max(map(len, plain.splitlines())) <= 80


def test_a_value_outside_a_closed_set_is_refused_in_plain_words(capsys: Captured) -> None:
    assert ExitCode.USAGE == main(["models", "--format", "xml"])
    said = capsys.readouterr().err
    assert "Invalid value for '--format'" in said
    assert "Value error" not in said


@pytest.mark.parametrize("wrong", [["--scenes", "1"], ["--pairs", "-1"], ["--scale", "0"]])
def test_sizes_that_cannot_work_are_usage_errors(wrong: list[str], tmp_path: Path) -> None:
    assert ExitCode.USAGE == main(["bench", "pictosafe", "make", str(tmp_path / "data"), *wrong])
