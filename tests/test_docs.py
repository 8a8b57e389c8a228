"""What the documents say is run: code blocks execute, links lead somewhere, nothing speaks of one machine."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("integrations/**/*.md"),
        *ROOT.glob("policies/*.md"),
        *ROOT.glob("train/**/*.md"),
    ]
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "README.md", "python"))))
def test_the_readme_s_python_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("POLICYGUARD_MODEL", raising=False)
    code = compile(blocks(ROOT / "README.md", "python")[number], "README.md", "exec")
    exec(code, {})


def test_the_backend_in_the_contributors_guide_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    exec(compile(block, "CONTRIBUTING.md", "exec"), {})


def test_every_module_on_the_page_of_public_ones_exists_and_no_other_is_shown_to_users() -> None:
    listed = (ROOT / "docs/public-api.md").read_text()
    public = set(re.findall(r"^\| `(policyguard[\w.]*)` \|", listed, re.MULTILINE))
    for name in public:
        import_module(name)
    imported = re.compile(r"^\s*from (policyguard[\w.]*) import ([\w, ]+)", re.MULTILINE)
    for page in set(PAGES) - set(ROOT.glob("train/**/*.md")):
        for module, names in imported.findall("".join(blocks(page, "python"))):
            modules = {module, *(f"{module}.{name.strip()}" for name in names.split(","))}
            assert modules & public, (page, module)


def test_the_readme_s_policy_is_a_policy(tmp_path: Path) -> None:
    from policyguard.policy import load_policy

    (text,) = blocks(ROOT / "README.md", "yaml")
    path = tmp_path / "house.yaml"
    path.write_text(text)
    assert load_policy(path).resolve().rules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]
