"""``policyguard train evaluate``, with the packaged guard on pictogram scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import Captured
from policyguard.cli import main
from policyguard.runs.exits import ExitCode
from support.training import pictosafe_rows

GENERAL = {
    "results": {
        "mmmu_val": {"mmmu_acc,none": 0.5},
        "realworldqa": {"exact_match,none": 0.6},
        "blink": {"blink_acc,none": 0.4},
        "mmt_val": {"accuracy,none": 50.0},
    }
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictosafe_rows(tmp_path_factory.mktemp("rows"), scenes=12)


def test_a_guard_is_measured_on_own_rows_in_words_and_in_json(
    rows: Path, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "1_results.json").write_text(json.dumps(GENERAL))
    out, judged = tmp_path / "figures.json", tmp_path / "judged.sqlite"
    options = ["--json", str(out), "--judged", str(judged), "--general", str(tmp_path)]
    assert ExitCode.OK == main(["train", "evaluate", "pico", str(rows), *options])
    said = capsys.readouterr().out
    for words in (
        "guard: pico",
        "rows: 24 of",
        "balanced accuracy",
        "policy pairs, both right",
        "realworldqa",
    ):
        assert words in said, said
    assert "pictosafe/l3" in said  # by policy
    told = json.loads(out.read_text())
    assert told["figures"]["accuracy"]["value"] > 0.8
    assert len(told["rows"]) == 24
    assert told["model"]["dialect"] == "pico"
    assert told["policy_pairs"]["pairs"] > 0
    assert told["general"]["figures"]["mmt"] == 0.5
    assert judged.exists()


def test_few_rows_are_judged_and_a_changed_image_is_named_with_exit_code_3(
    rows: Path, tmp_path: Path, capsys: Captured
) -> None:
    lines = [json.loads(line) for line in rows.read_text().splitlines()][:4]
    lines[0]["sha256"] = "0" * 64
    for line in lines:
        line["image"] = str(rows.parent / line["image"])
    own = tmp_path / "rows.jsonl"
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ExitCode.UNJUDGED == main(["train", "evaluate", "pico", str(own), "--limit", "2"])
    captured = capsys.readouterr()
    assert "rows: 2 of" in captured.out
    assert "the file is not the one that `sha256` names" in captured.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--split", "train"], "no good rows on the side 'train'"),
        (["--general", "nowhere"], "nowhere"),
        (["--json", "."], "--json"),
    ],
)
def test_what_cannot_work_is_said_before_any_model_is_loaded(
    change: list[str], words: str, rows: Path, capsys: Captured
) -> None:
    assert ExitCode.USAGE == main(["train", "evaluate", "pico", str(rows), *change])
    assert words in capsys.readouterr().err
