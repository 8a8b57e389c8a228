"""docs/http.md runs, against the loopback provider."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from integrations.http.upstream import Upstream

openai = pytest.importorskip("openai")
pytest.importorskip("torch")
pytestmark = pytest.mark.sdk

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()


def test_the_page_s_python_runs(
    provider: Upstream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url + "/v1")
    code, *_ = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    family = "httpx2" if int(openai.__version__.split(".")[0]) >= 3 else "httpx"
    code = code.replace("guarded_client(guard)", f"guarded_client(guard, {family=})")  # SDKs may differ here
    exec(compile(code, "http.md", "exec"), {})
    assert "policyguard_unjudged" == capsys.readouterr().out.strip()  # pico does not know such a picture
    assert 1 == provider.calls
