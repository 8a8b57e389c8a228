"""A guard on a FakeBackend, images for it, and a way to check them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import GOOD, LAYER, Run, house_rules, picture, red
from policyguard import Guard
from policyguard.runs.search import collect
from policyguard.testing import FakeBackend
from runs.conftest import bad, project, several

__all__ = ["bad", "check", "good", "guard", "guarded", "images", "layer", "project", "several"]


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "POLICYGUARD_MODEL",
        "POLICYGUARD_BASE_URL",
        "POLICYGUARD_API_KEY",
        "POLICYGUARD_DEBUG",
        "NO_COLOR",
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture
def guard() -> Guard:
    return Guard(house_rules(), backend=FakeBackend(red))


@pytest.fixture
def check(guard: Guard) -> Callable[..., Run]:
    """Check the named paths with ``guard``, or with another one."""

    def run(*paths: str | Path, guard: Guard = guard, terminal: bool = False, **options: Any) -> Run:
        sources, _ = collect([str(path) for path in paths])
        return Run(guard, sources, terminal=terminal, **options)

    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with a safe, an unsafe and a broken picture."""
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.png").write_bytes(picture()[:30])
    (folder / "safe.png").write_bytes(picture(0))
    (folder / "unsafe.png").write_bytes(picture(255))
    return folder


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def layer(tmp_path: Path, good: str) -> str:
    path = tmp_path / "shop.yaml"
    path.write_text(LAYER)
    return str(path)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A backend that goes by the red of a picture, in the place of a model."""
    backend = FakeBackend(red)
    monkeypatch.setattr("policyguard.backends.build_backend", lambda *_, **__: backend)
    return backend
