"""``policyguard policy diff``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import GOOD, Captured
from policyguard.cli import main
from policyguard.testing import FakeBackend


def test_diff_names_what_changed_and_why(good: str, layer: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "diff", good, layer])
    out = capsys.readouterr().out
    assert "weakened      safe: + replicas on a wall" in out
    assert "Collectors want to see them." in out
    assert 1 == main(["policy", "diff", good, layer, "--fail-on", "weaker", "-f", "json"])
    assert "weaker" in {change["effect"] for change in json.loads(capsys.readouterr().out)["changes"]}
    assert 0 == main(["policy", "diff", good, good, "--fail-on", "any"])


def test_diff_on_images_shows_those_that_change_and_asks_once(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    milder = tmp_path / "milder.yaml"
    milder.write_text(GOOD.replace("action: flag", "action: allow"))
    page = tmp_path / "page.html"
    arguments = ["policy", "diff", good, str(milder), "--on", str(images), "--html", str(page)]
    assert 0 == main([*arguments, "--thumbnails"])
    captured = capsys.readouterr()
    assert "unsafe.png  flag (violates 1.000)  allow (violates 1.000)" in captured.out
    assert (
        "1 of 3 images change: 1 flag -> allow; 1 could not be judged; 2 judgements by fake, 2 known already"
        in captured.out
    )
    assert 2 == len(guarded.requests)
    assert "could not be judged:\n" in captured.err
    assert f"  {images / 'broken.png'}: " in captured.err
    assert "1 could not be judged" in page.read_text()
    assert f"<li>{images / 'broken.png'}: " in page.read_text()
    assert 1 == page.read_text().count("<img")
    guarded.closed = False  # each run of the program has a model of its own
    assert 1 == main([*arguments, "--fail-on", "weaker"])
    assert "<img" not in page.read_text()


def test_diff_keeps_scores_from_run_to_run_where_asked(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    arguments = [
        "policy",
        "diff",
        good,
        good,
        "--on",
        str(images),
        "--judged",
        str(tmp_path / "judged.sqlite"),
    ]
    assert [0, 0] == [main(arguments), main(arguments)]
    assert 2 == len(guarded.requests)
    assert "0 judgements by fake, 4 known already" in capsys.readouterr().out


def test_diff_refuses_scores_kept_in_another_form_and_leaves_the_file_alone(
    tmp_path: Path, good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    file = tmp_path / "judged.jsonl"
    file.write_text('{"key": "a", "rating": "safe"}\n' * 100)
    before = file.read_bytes()
    assert 2 == main(["policy", "diff", good, good, "--on", str(images), "--judged", str(file)])
    printed = capsys.readouterr().err
    assert f"{file} is not a verdict cache" in printed
    assert "name a new file" in printed
    assert before == file.read_bytes()


@pytest.mark.parametrize("options", [["--html", "x.html"], ["--thumbnails"], ["--judged", "x.jsonl"]])
def test_diff_refuses_options_that_need_images(good: str, options: list[str], capsys: Captured) -> None:
    assert 2 == main(["policy", "diff", good, good, *options])
    assert "go with --on" in capsys.readouterr().err


def test_diff_on_a_path_that_is_not_there_is_a_mistake_and_judges_nothing(
    good: str, images: Path, guarded: FakeBackend, capsys: Captured
) -> None:
    gone = str(images / "nowhere")
    assert 2 == main(["policy", "diff", good, good, "--on", str(images), "--on", gone])
    assert f"there is no '{gone}'" in capsys.readouterr().err
    assert not guarded.requests


def test_diff_fails_over_an_image_that_could_not_be_judged_where_asked(
    good: str, images: Path, guarded: FakeBackend
) -> None:
    assert 3 == main(["policy", "diff", good, good, "--on", str(images), "--fail-on", "weaker"])


def test_diff_says_that_a_changed_policy_kept_its_version(
    tmp_path: Path, good: str, capsys: Captured
) -> None:
    changed = tmp_path / "changed.yaml"
    for version, told in (("1.0.0", True), ("1.1.0", False)):
        text = GOOD.replace("action: flag", "action: block")
        changed.write_text(text.replace("version: 1.0.0", f"version: {version}"))
        assert 0 == main(["policy", "diff", good, str(changed)])
        assert ("raise `version:`" in capsys.readouterr().err) is told
    assert 0 == main(["policy", "diff", good, good])
    assert "raise `version:`" not in capsys.readouterr().err
