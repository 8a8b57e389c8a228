"""A git repository with images, and the program on PATH as an installed one is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from runs.support import git

ROOT = Path(__file__).parents[3]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """What the scripts see: no settings of this process, and ``policyguard`` on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "policyguard"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m policyguard "$@"\n')
    program.chmod(0o755)
    (tmp_path / "home").mkdir()
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
    }


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An allowed image on main; a blocked one came with the last commit."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    root = tmp_path / "repository"
    (root / "art").mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch=main")
    (root / "policyguard.toml").write_text('policy = "pictosafe/l3"\nmodel = "pico"\n')
    shutil.copy(ROOT / "examples/images/picnic.png", root / "art")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "a picnic")
    shutil.copy(ROOT / "examples/images/armoury.png", root / "art")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "an armoury")
    return root
