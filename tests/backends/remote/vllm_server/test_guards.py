"""Published guards, by tiny models of their architectures, behind a real server in their own dialects.

What the server's environment has, this one may lack (torchvision), so the models are built, and read in one
process, by its Python: ``python -m support.guard_families``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backends.remote.vllm_server.conftest import CONSTRAIN, serving
from backends.remote.vllm_server.running import ROOT, VENV, RealServer
from backends.remote.vllm_server.support import ask
from backends.transformers.support import picture, policy
from policyguard.assessment import Assessment
from policyguard.backends.remote import RemoteBackend
from policyguard.dialects import get_dialect
from support.guard_families import SERVED, Asked

FRAMES = 2


def log_odds(p: float) -> float:
    return math.log((1e-9 + p) / (1e-9 + 1 - p))


def in_one_process(guard: Asked, folder: Path) -> dict[str, Any]:
    """``score`` and ``rules`` of the first frames, and how far they are from those worked out by hand."""
    command = [
        str(VENV / "bin" / "python"),
        "-m",
        "support.guard_families",
        str(folder),
        str(guard),
        str(FRAMES),
    ]
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, check=False)
    if b"num2words" in done.stderr:
        pytest.skip("the processor of this family needs num2words")
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("guard", SERVED, ids=str)
def test_a_served_guard_scores_in_its_own_dialect_as_in_one_process(guard: Asked, tmp_path: Path) -> None:
    """Wide random weights make bfloat16 coarse: log-odds of some 10 differ by up to 1."""
    here = in_one_process(guard, tmp_path / "model")
    assert here["furthest"] < 1e-5
    flags = ("--structured-outputs-config", CONSTRAIN, "--max-model-len", "4096")
    under = policy(rules=3)
    with (
        serving(RealServer(tmp_path / "model", "guard", tmp_path / "log", *flags)) as server,
        RemoteBackend(server.url, model="guard", dialect=get_dialect(guard.dialect), timeout=600) as remote,
    ):
        for number, (score, rules) in enumerate(here["scores"]):
            (found,) = remote.assess([ask(picture(number), under)])
            assert isinstance(found, Assessment), found
            assert found.p_unsafe is not None
            assert log_odds(found.p_unsafe) == pytest.approx(log_odds(score), abs=1.0)
            for rule, share in (rules or {}).items():
                if found.rule_scores is not None:
                    assert found.rule_scores[rule] == pytest.approx(share, abs=0.2)
