"""A guard on a FakeBackend, images for it, and a way to check them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.support import Run, house_rules, picture, red
from policyguard import Guard
from policyguard.runs.search import collect
from policyguard.testing import FakeBackend


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "POLICYGUARD_MODEL",
        "POLICYGUARD_BASE_URL",
        "POLICYGUARD_API_KEY",
        "POLICYGUARD_DEBUG",
        "NO_COLOR",
    ):
        monkeypatch.delenv(name, raising=False)
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
