"""GRPO raises balanced accuracy: the cross-policy experiment's own runs, from the committed base (slow).

Not covered: whether the policy is read any better. docs/experiments.md has the AUC, which hardly moves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]  # the fixture trains: 20 minutes of one core

ROOT = Path(__file__).parents[2]
RUN = ROOT / "train" / "experiments" / "cross_policy" / "run.py"
SEEDS = (0, 1)
MARGIN = 0.02
"""Of balanced accuracy, over the warm-up that GRPO starts from; set before these runs were made."""
SAMPLES = 1000


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_gains_on_policies_it_has_not_seen(results: Path, seed: int) -> None:
    """Rewarding right verdicts raises balanced accuracy by the margin."""
    before, after = judged(results, "warm", seed), judged(results, "warm-grpo", seed)
    assert after["balanced_accuracy"] >= before["balanced_accuracy"] + MARGIN, (before, after)


@pytest.mark.parametrize("seed", SEEDS)
def test_grpo_does_not_end_at_one_answer(results: Path, seed: int) -> None:
    """More than half of the safe and more than half of the unsafe scenes are judged right."""
    after = judged(results, "warm-grpo", seed)
    assert min(after["recall_safe"], after["recall_unsafe"]) > 0.5, after
