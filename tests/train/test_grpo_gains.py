"""GRPO raises balanced accuracy: the cross-policy experiment's committed results, and its runs made anew from
the committed base (slow).

Not covered: whether the policy is read any better. docs/experiments.md has the AUC, which does not rise. Most
of the mean is the gain of the seed whose warm-up called nearly all unsafe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN = ROOT / "train" / "experiments" / "cross_policy" / "run.py"
SEEDS = (0, 1, 2)
MARGIN = 0.02
"""Of balanced accuracy, over the warm-up that GRPO starts from. It was set for each of seeds 0 and 1, before
any run."""
MISSED = pytest.mark.xfail(strict=True, reason="1.6 points under the stricter reward of today")
SAMPLES = 1000
ANEW = pytest.param(
    "made anew",
    marks=[pytest.mark.slow, pytest.mark.timeout(4 * 3600)],  # trains: half an hour of one core
)


@pytest.fixture(scope="module", params=["committed", ANEW])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "committed":
        return RUN.parent / "results"
    pytest.importorskip("trl")
    folder = tmp_path_factory.mktemp("experiment")
    options = ["--work", str(folder / "work"), "--results", str(folder / "results")]
    chosen = ["--only", "warm", "warm-grpo", "--seeds", *map(str, SEEDS)]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(RUN), *options, *chosen], check=True, env=alone)
    return folder / "results"


def judged(results: Path, run: str, seed: int) -> dict[str, Any]:
    """The figures on random policies that no stage has seen."""
    found: dict[str, Any] = json.loads((results / f"{run}-seed{seed}.json").read_text())["safety"]["random"]
    assert found["n"] >= SAMPLES
    return found


def gain(results: Path, seed: int) -> float:
    before, after = (judged(results, run, seed)["balanced_accuracy"] for run in ("warm", "warm-grpo"))
    return float(after - before)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=MISSED)])
def test_grpo_gains_on_policies_it_has_not_seen(results: Path, seed: int) -> None:
    """Rewarding right verdicts raises balanced accuracy by the margin."""
    assert gain(results, seed) >= MARGIN


def test_grpo_gains_in_the_mean_of_all_seeds(results: Path) -> None:
    assert mean(gain(results, seed) for seed in SEEDS) >= MARGIN


@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_does_not_end_at_one_answer(results: Path, seed: int) -> None:
    """More than half of the safe and more than half of the unsafe scenes are judged right."""
    after = judged(results, "warm-grpo", seed)
    assert min(after["recall_safe"], after["recall_unsafe"]) > 0.5, after
