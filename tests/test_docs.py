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
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("integrations/**/*.md"),
        *ROOT.glob("policies/*.md"),
        *ROOT.glob("train/**/*.md"),
    ]
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


TOUR = ROOT / "docs" / "tour.md"


@pytest.mark.parametrize("number", range(len(blocks(TOUR, "python"))))
def test_the_tour_s_python_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("POLICYGUARD_MODEL", raising=False)
    code = compile(blocks(TOUR, "python")[number], "tour.md", "exec")
    exec(code, {})


def test_the_readme_s_ways_to_judge_a_photograph_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a server of ours in place of theirs, and a tiny model in place of the one that is fetched."""
    from PIL import Image

    from backends.remote.server import ToyServer
    from support.tiny_models import build_tiny_model

    model = build_tiny_model(tmp_path / "model", "qwen3_vl", context=1 << 16)
    Image.new("RGB", (64, 64), (7, 90, 200)).save(tmp_path / "photo.jpg")
    section = (ROOT / "README.md").read_text().partition("## Judge a photograph")[2].partition("\n## ")[0]
    ways = re.findall(r"^```py\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert len(ways) == 3
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLICYGUARD_API_KEY", "sk-1")
    with ToyServer() as server:
        for code in ways:
            assert len([line for line in code.splitlines() if line]) <= 5
            server.context = 1 << 16
            server.model = re.search(r'model": ?"([^"]+)|model="([^"]+)', code).expand(r"\1\2")  # type: ignore[union-attr]
            here = re.sub(r'"https?://[^"]+"', repr(server.url), code)
            exec(here.replace('"qwen3-vl-4b"', repr(str(model))), {})
        assert len(server.bodies()) >= 2


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


def test_the_tour_s_policy_is_a_policy(tmp_path: Path) -> None:
    from policyguard.policy import load_policy

    (text,) = blocks(TOUR, "yaml")
    path = tmp_path / "house.yaml"
    path.write_text(text)
    assert load_policy(path).resolve().rules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]
