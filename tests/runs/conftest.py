"""Projects in the current folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs.support import POLICY, TWO, git, pictures


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLICYGUARD_MODEL", "POLICYGUARD_BASE_URL", "POLICYGUARD_API_KEY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with policyguard.toml, that names house.yaml for everything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policyguard.toml").write_text('policy = "./house.yaml"\n')
    (tmp_path / "house.yaml").write_text(POLICY.format(id="house"))
    return tmp_path


@pytest.fixture
def several(project: Path) -> Path:
    """A project with a policy for everything, one for avatars and one for ads."""
    (project / "policyguard.toml").write_text(TWO)
    for name in ("base", "avatars", "ads"):
        (project / f"{name}.yaml").write_text(POLICY.format(id=name))
    return project


@pytest.fixture
def bad(project: Path) -> Path:
    """A project with one image that violates and one that does not."""
    pictures(project, "bad.png", score=255)
    pictures(project, "good.png")
    return project


@pytest.fixture
def repository(project: Path) -> Path:
    """Two images on main, then a branch."""
    git(project, "init", "-q", "-b", "main")
    pictures(project, "old.png", "moved.png", "gone.png", "same.png", "edited.png")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "first")
    git(project, "checkout", "-qb", "work")
    return project
