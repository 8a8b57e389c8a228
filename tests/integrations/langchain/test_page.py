"""The code in docs/langchain.md runs; what needs langchain itself runs with the SDKs."""

from __future__ import annotations

import pytest

from integrations.langchain.page import blocks
from support.examples import ROOT


def test_the_page_s_chain_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = [code for code in blocks() if "create_agent" not in code]
    exec(compile(code, "docs/langchain.md", "exec"), {})
