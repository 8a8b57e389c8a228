"""Steps at real geometry with random weights (``benchmarks/train_step.py``), a toy's here, and what reading
weights takes.

``pytest -m gpu tests/train/test_train_step.py`` runs those of 3B and 7B on a GPU, without a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.examples import ROOT, example

torch = pytest.importorskip("torch")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return example("train_step", "benchmarks")


def script(*arguments: str) -> list[dict[str, Any]]:
    bench = ROOT / "benchmarks" / "train_step.py"
    code = f"import runpy, sys; sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(bench.parent)!r}]; "
    code += (
        f"sys.argv = {['train_step.py', *arguments]!r}; runpy.run_path({str(bench)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", ["tiny/sft/lora", "tiny/grpo/full"])
def test_a_toy_takes_its_steps_on_the_cpu(bench: ModuleType, name: str, tmp_path: Path) -> None:
    found = bench.case(name, tmp_path, small=True)
    assert found["case"] == name
    assert found["tokens per second"] > 0
    assert found["estimated"].endswith("iB")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_script_prints_a_line_for_each_case() -> None:
    rows = script("--small")
    assert [row["case"] for row in rows] == [
        f"tiny/{stage}/{mode}" for stage in ("sft", "grpo") for mode in ("lora", "full")
    ]
    assert not [row for row in rows if "refused" in row]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_reading_weights_takes_little_more_than_their_size_and_under_fsdp2_one_rank_reads_them() -> None:
    """Weights that are trained as they lie on the disk are mapped, and count once more where they are copied.
    Trained fully, in float32, each bfloat16 file of half the size is there beside its copy. Anything that
    built the model first and then loaded it, or held a state dict beside it, would take twice the size.
    """
    rows = script("--loading")
    alone = {row["mode"]: row for row in rows if row["rank"] is None}
    assert alone["lora"]["peak"] < 1.3
    assert alone["full"]["peak"] < 1.8
    for mode in ("lora", "full"):
        first, other = sorted((r for r in rows if r["mode"] == mode and r["rank"] is not None), key=rank)
        assert first["peak"] < 1.9
        assert other["peak"] < 0.5


def rank(row: dict[str, Any]) -> int:
    return int(row["rank"])


@pytest.mark.gpu
@pytest.mark.timeout(3600)
@CUDA
@pytest.mark.parametrize("mode", ["lora", "full"])
@pytest.mark.parametrize("stage", ["sft", "grpo"])
@pytest.mark.parametrize("shape", ["3b", "7b"])
def test_steps_at_real_geometry_run_on_a_gpu_within_memory(shape: str, stage: str, mode: str) -> None:
    (row,) = script(f"{shape}/{stage}/{mode}")
    print(json.dumps(row))
    assert "refused" not in row or (shape, mode) == ("7b", "full")
