"""``policyguard doctor`` on a model that runs here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policyguard.cli import main

pytest.importorskip("torch")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["doctor", *arguments])
    out, err = capsys.readouterr()
    return int(code), out, err


def test_it_says_in_which_numbers_and_with_how_many_threads_a_model_runs_and_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "--model", "pico", "--format", "json")
    assert code == 0
    found = json.loads(out)
    says = {remark["check"]: remark["says"] for remark in found["remarks"]}
    assert set(says) == {"model", "answer", "device", "numbers", "threads", "policy"}
    assert "float" in says["numbers"].partition(":")[0]
    assert all(says[name].partition(": ")[2] for name in ("numbers", "threads"))
    assert found["speed"]["readings"] == 5


def test_a_model_that_cannot_run_is_an_error_with_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "--model", str(tmp_path))
    assert code == 2
    assert "hint:" in err


def test_a_policy_that_the_model_must_not_be_asked_about_is_a_problem(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "--model", "pico", "--policy", "safeedit/l3")
    assert code == 2
    assert "pico" in out


def test_without_a_model_and_a_server_it_asks_which(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys)
    assert code == 2
    assert "--model alone is a model to run here" in err
