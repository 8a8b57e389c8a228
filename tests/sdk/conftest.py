from __future__ import annotations

from collections.abc import Iterator

import pytest

from integrations.http.upstream import Upstream
from sdk.provider import respond


@pytest.fixture
def provider() -> Iterator[Upstream]:
    with Upstream(respond) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
