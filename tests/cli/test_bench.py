"""``policyguard bench``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import Captured
from policyguard.cli import main
from policyguard.cli.bench import HELD_OUT, PAIRS, SCENES
from policyguard.pictosafe import Sizes
from policyguard.runs.exits import ExitCode

SMALL = ["--scenes", "3", "--pairs", "1", "--held-out", "1"]


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


@pytest.mark.parametrize("wrong", [["--scenes", "1"], ["--pairs", "-1"], ["--scale", "0"]])
def test_sizes_that_cannot_work_are_usage_errors(wrong: list[str], tmp_path: Path) -> None:
    assert ExitCode.USAGE == main(["bench", "pictosafe", "make", str(tmp_path / "data"), *wrong])


def test_run_writes_a_page_beside_its_figures(tmp_path: Path, capsys: Captured) -> None:
    pytest.importorskip("torch")
    page = tmp_path / "pico.html"
    few = ["--scenes", "2", "--pairs", "0", "--held-out", "0"]
    assert ExitCode.OK == main(["bench", "pictosafe", "run", *few, "--html", str(page), "--thumbnails"])
    printed = capsys.readouterr()
    assert "guard: pico" in printed.out
    assert f"wrote {page}" in printed.err
    assert "PictoSafe: pico" in page.read_text(encoding="utf-8")


def test_thumbnails_without_a_page_are_a_mistake_before_anything_is_judged(capsys: Captured) -> None:
    assert ExitCode.USAGE == main(["bench", "pictosafe", "run", "--thumbnails"])
    assert "--thumbnails goes with --html" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_told_before_anything_is_judged(
    tmp_path: Path, capsys: Captured
) -> None:
    page = tmp_path / "photo.png" / "page.html"
    page.parent.touch()
    assert ExitCode.USAGE == main(["bench", "pictosafe", "run", "--html", str(page)])
    printed = capsys.readouterr()
    assert "cannot be written" in printed.err
    assert not printed.out
