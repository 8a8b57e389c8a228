from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backends.remote.vllm_server.running import VENV, RealServer
from policyguard.backends.registry import resolve_model

CONSTRAIN = '{"backend": "xgrammar", "disable_any_whitespace": true}'
_running: list[RealServer] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)


@contextmanager
def serving(server: RealServer) -> Iterator[RealServer]:
    """One server at a time: each takes some 3.5 GiB."""
    for other in _running:
        other.kill()
    _running.append(server)
    try:
        yield server.start()
    finally:
        server.kill()
        _running.remove(server)


@pytest.fixture
def pico_server(_pico_server: RealServer) -> RealServer:
    """pico, behind one server for the whole session; started again if a test has killed it."""
    if not _pico_server.running:
        for other in _running:
            other.kill()
        _pico_server.start()
    return _pico_server


@pytest.fixture(scope="session")
def _pico_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    if not (VENV / "bin" / "vllm").exists():
        pytest.fail("there is no .venv-vllm: run `make test-vllm`, which makes it")
    folder = resolve_model("pico").path
    assert folder is not None
    log = tmp_path_factory.mktemp("vllm") / "pico.log"
    with serving(RealServer(folder, "pico", log, "--structured-outputs-config", CONSTRAIN)) as server:
        yield server
