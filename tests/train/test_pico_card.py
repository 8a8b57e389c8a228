"""pico's card is written from figures, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import card

SCORE = {"balanced": 0.5, "recall": 0.25, "specificity": 0.75, "undecided": 0.0}
LEVEL = {"unsafe share": 0.5, "accuracy": 0.9, "f1 unsafe": 0.8, "macro f1": 0.85}
REPORT = {
    "count": 123,
    "seed": 1,
    "torch": "2.13.0",
    "levels": {f"l{n}": LEVEL for n in range(1, 6)},
    "suites": {"fresh": SCORE, "edit pairs": SCORE | {"both right": 0.125}},
    "styles": {"noto, 96 px": SCORE},
    "explanations": {"names exact": 0.5},
    "lengths": {"1 to 12": SCORE},
    "attacks": {"mirrored": {"right": 0.9, "missed": 0.0625, "undecided": 0.01}},
    "outside": {"synthetic/blank": 1.0, "sklearn/china.jpg": 0.5, "glyphs/flags": 0.25},
}


def write(folder: Path, *, done: bool = True, start: str | None = None) -> list[str]:
    (folder / "report.json").write_text(json.dumps(REPORT))
    budgets = {"vision": "42", "text": "42" if start is None else "0", "joint": "42"}
    schedule = {"seed": 7, "budgets": budgets} | ({} if start is None else {"from": {"sha256": start}})
    (folder / "schedule.json").write_text(json.dumps(schedule))
    for stage in (stage for stage, budget in budgets.items() if budget != "0"):
        last = {"done": done, "steps": 42, "minutes": 3.4}
        (folder / f"{stage}.jsonl").write_text(json.dumps({"step": 1}) + "\n" + json.dumps(last) + "\n")
    return [str(folder / "report.json"), "--run", str(folder), "--out", str(folder / "README.md")]


def test_every_figure_finds_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["card.py", *write(tmp_path)])
    card.main()
    text = (tmp_path / "README.md").read_text()
    assert "{" not in text.partition("## Training")[2]
    for line in (
        "--out runs/pico` from random weights, seed 7",
        "123 samples",
        "| vision | 42 | 3 |",
        "| pictosafe/l2 | 0.500 | 0.900 | 0.800 | 0.850 |",
        "macro F1: **0.850**",
        "| edit pairs | 0.500 | 0.250 | 0.750 | 0.000 | 0.125 |",
        "| **all synthetic** | **1.000** |",
        "| **all glyphs** | **0.250** |",
        "| **all photographs held out** | **0.500** |",
        "| mirrored | 0.900 | 0.062 | 0.010 |",
        "(30 of them, the benchmark's",
        "| 1 to 12 | 0.500 | 0.250 | 0.750 | 0.000 |",
    ):
        assert line in text


def test_an_unfinished_run_has_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["card.py", *write(tmp_path, done=False)])
    with pytest.raises(SystemExit, match="ends before the stage was done"):
        card.main()
    assert not (tmp_path / "README.md").exists()


def test_a_run_that_went_on_says_from_which_weights_and_by_which_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["card.py", *write(tmp_path, start="0f" * 32)])
    card.main()
    text = (tmp_path / "README.md").read_text()
    assert "--from MODEL --vision 42 --text 0 --joint 42` from the weights of an earlier release" in text
    assert "0f" * 32 in text
    assert "| vision | 42 | 3 |" in text
    assert "| text |" not in text
