from __future__ import annotations

from collections.abc import Iterator

import pytest

from backends.remote.server import ToyServer


@pytest.fixture(scope="module")
def _running() -> Iterator[ToyServer]:
    with ToyServer() as running:
        yield running


@pytest.fixture
def server(_running: ToyServer) -> Iterator[ToyServer]:
    yield _running
    _running.reset()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MODEL", "BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"POLICYGUARD_{name}", raising=False)
