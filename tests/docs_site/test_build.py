"""What docs/build.py makes of the pages, before Zensical does the rest (`make docs`)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_of_the_docs_has_its_place_in_the_index(build: ModuleType) -> None:
    named = json.dumps(build.navigation([]))
    pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert not {page for page in pages if f'"{page}"' not in named}


def test_links_lead_to_pages_of_the_site_and_others_become_words(build: ModuleType) -> None:
    text = build.for_site(ROOT / "docs" / "tour.md")
    assert "[examples/policy-repo](../examples/policy-repo/README.md)" in text  # from a folder to its page
    assert "](../train/pico/README.md)" in text
    assert "pictograms keep their\nmakers' licences (src/policyguard/pictosafe/assets)" in text


def test_a_link_that_leads_nowhere_is_left_for_the_build_to_find(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) and `[b](code.md)`", encoding="utf-8")
    monkeypatch.setattr(build, "DOCS", tmp_path)
    assert "[a](gone.md) and `[b](code.md)`" == build.for_site(page)
