"""General ability: the command for lmms-eval, and its results, read in the form that it writes.

lmms-eval itself is the far end: a package of its name that writes what its ``EvaluationTracker`` writes.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from policyguard.cli import main
from policyguard.errors import ConfigurationError
from policyguard.runs.exits import ExitCode
from policyguard.train.general import command, read

Captured = pytest.CaptureFixture[str]
STAND_IN = """
import json, os, sys
from pathlib import Path

told = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = Path(sys.argv[sys.argv.index("--output_path") + 1]) / "org__guard"
out.mkdir(parents=True, exist_ok=True)
print("asked", *sys.argv[1:])
print("key", os.environ["OPENAI_API_KEY"])
results = json.loads(os.environ["RESULTS"])
if results is None:
    sys.exit(int(os.environ.get("CODE", "0")))
(out / "20261130_101500_results.json").write_text(json.dumps(results))
(out / "20261130_101500_samples_mmmu_val.jsonl").write_text(os.environ.get("SAMPLES", ""))
"""


def results(**changes: Any) -> dict[str, Any]:
    """SafeGuard-VL's row of its base model, table 4, as lmms-eval would write it."""
    figures = {
        "mmmu_val": {
            "alias": "mmmu_val",
            "mmmu_acc,none": 0.45,
            "mmmu_acc_stderr,none": "N/A",
            "samples": 900,
        },
        "realworldqa": {"alias": "realworldqa", "exact_match,none": 0.685, "exact_match_stderr,none": 0.01},
        "blink": {"blink_acc,none": 0.5466, "blink_acc_stderr,none": "N/A", "alias": "blink"},
        "blink_counting": {"alias": " - blink_counting", "blink_acc,none": 0.9},
        "mmt_val": {"alias": "mmt_val", "accuracy,none": 59.55, "accuracy_stderr,none": "N/A"},
    }
    counts = {
        "mmmu_val": 900,
        "realworldqa": 765,
        "blink_counting": 120,
        "blink_jigsaw": 150,
        "mmt_val": 3127,
    }
    return {
        "results": figures | changes,
        "n-samples": {
            name: {"original": count, "effective": count}
            for name, count in (counts | {"mmt_val": 3127}).items()
        },
        "config": {"model": "async_openai"},
    }


def written(folder: Path, told: Any, name: str = "20261130_101500_results.json") -> Path:
    (folder / name).write_text(json.dumps(told))
    return folder / name


def test_the_average_is_the_paper_s_mean_of_four_whatever_lmms_eval_counts_in(tmp_path: Path) -> None:
    found = read(written(tmp_path, results()))
    wanted = {"mmmu": 0.45, "realworldqa": 0.685, "blink": 0.5466, "mmt": 0.5955}
    assert found.figures == pytest.approx(wanted, abs=1e-12)
    assert round(100 * found.average, 2) == 56.93  # printed there as 56.92
    assert found.samples == {"mmmu": 900, "realworldqa": 765, "blink": 270, "mmt": 3127}
    assert found.failed == 0


def test_a_group_without_a_figure_is_the_plain_mean_of_its_tasks(tmp_path: Path) -> None:
    told = results(
        realworldqa={"exact_match,none": 0.5, "exact_match_stderr,none": float("nan")},
        blink={" ": " ", "alias": "blink"},
        blink_jigsaw={"blink_acc,none": 0.5},
    )
    assert read(written(tmp_path, told)).figures["blink"] == 0.7


def test_an_older_version_s_filter_is_read_and_two_without_a_plain_one_are_not(tmp_path: Path) -> None:
    one = {"exact_match,flexible-extract": 0.5}
    assert read(written(tmp_path, results(realworldqa=one))).figures["realworldqa"] == 0.5
    two = one | {"exact_match,strict": 0.4}
    with pytest.raises(ConfigurationError, match="has no exact_match of realworldqa"):
        read(written(tmp_path, results(realworldqa=two)))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (results(mmt_val={"alias": "mmt_val"}), "has no accuracy of mmt_val"),
        (results(mmmu_val={"mmmu_acc,none": 45.0}), "is 45, and not from 0 to 1"),
        ({"overall": 1}, "has no results"),
        ([], "has no results"),
        (results(mmmu_val={"mmmu_acc,none": float("nan")}), "is nan, and not from 0 to 1"),
    ],
)
def test_results_that_are_not_whole_are_refused(told: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read(written(tmp_path, told))


def test_the_latest_results_of_a_folder_are_read_and_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        read(tmp_path)
    inner = tmp_path / "org__guard"
    inner.mkdir()
    written(inner, results())
    assert read(tmp_path).file.parent == inner


def test_the_command_is_lmms_eval_s_for_a_server_and_for_a_model_here(tmp_path: Path) -> None:
    served = command("guard", out=tmp_path, base_url="http://gpu:8000/v1", limit=8)
    assert shlex.join(served) == (
        "python -m lmms_eval --model async_openai "
        "--model_args model_version=guard,base_url=http://gpu:8000/v1 "
        "--tasks mmmu_val,realworldqa,blink,mmt_val --batch_size 1 --log_samples "
        f"--output_path {tmp_path} --limit 8"
    )
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    here = command(str(tmp_path), out=tmp_path, model_args=["max_pixels=1000"])
    assert here[3:7] == ["--model", "qwen3_vl", "--model_args", f"pretrained={tmp_path},max_pixels=1000"]
    for name in ("safeguard-vl", "qwenguard-7b", "Qwen/Qwen2.5-VL-7B-Instruct"):
        assert command(name, out=tmp_path)[4] == "qwen2_5_vl"
    with pytest.raises(ConfigurationError, match="which class of lmms-eval runs pico"):
        command("pico", out=tmp_path)
    assert command("pico", out=tmp_path, lmms_model="qwen3_vl")[4] == "qwen3_vl"
    with pytest.raises(ConfigurationError, match="cannot be an argument"):
        command("a,b", out=tmp_path, base_url="http://gpu:8000/v1")


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The Python of an environment that has something called lmms_eval."""
    package = tmp_path / "site" / "lmms_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={package.parent} exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return program


def test_a_run_prints_the_average_beside_the_published_and_sends_no_key_of_another_service(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESULTS", json.dumps(results()))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody")
    asked = ["bench", "general", "--model", "guard", "--base-url", "http://gpu:8000/v1"]
    asked += ["--python", str(environment), "--out", str(tmp_path / "out")]
    assert main([*asked, "--published", "SafeGuard-VL-RL"]) == ExitCode.OK
    out, err = capfd.readouterr()
    assert "average       56.93%" in out
    assert "SafeGuard-VL-RL  average" in out
    assert "key EMPTY" in err
    failed = '{"doc_id": 0, "filtered_resps": "[LMMS_EVAL_REQUEST_FAILED after 5 retries] refused"}\n'
    monkeypatch.setenv("SAMPLES", failed * 2 + '{"doc_id": 2, "filtered_resps": "A"}\n')
    assert main([*asked, "--json", "--out", str(tmp_path / "again")]) == ExitCode.UNJUDGED
    out, err = capfd.readouterr()
    assert json.loads(out)["failed"] == 2
    assert "2 requests failed" in err
    assert main(["bench", "general", "--results", str(tmp_path / "out")]) == ExitCode.OK


@pytest.mark.parametrize(("code", "says"), [("0", "wrote no results"), ("3", "exit code 3")])
def test_a_run_that_leaves_no_results_is_an_error_also_where_results_lay_before(
    code: str,
    says: str,
    environment: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    written(tmp_path, results())
    monkeypatch.setenv("RESULTS", "null")
    monkeypatch.setenv("CODE", code)
    asked = ["bench", "general", "--model", "qwen3-vl-4b", "--python", str(environment)]
    assert main([*asked, "--out", str(tmp_path)]) == ExitCode.USAGE
    assert says in capfd.readouterr().err


def test_an_environment_without_lmms_eval_is_told_how_to_make_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["bench", "general", "--model", "qwen3-vl-4b", "--out", str(tmp_path / "out")]
    for python, says in ((sys.executable, "has no lmms_eval"), ("/nowhere/python", "cannot be run")):
        assert main([*asked, "--python", python]) == ExitCode.USAGE
        err = capfd.readouterr().err
        assert says in err
        assert "pip install 'lmms_eval==0.7.3'" in err
    assert main([*asked, "--dry-run"]) == ExitCode.OK
    assert capfd.readouterr().out.startswith("python -m lmms_eval --model qwen3_vl ")
    assert main(["bench", "general", "--dry-run"]) == ExitCode.USAGE
