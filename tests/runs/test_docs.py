"""docs/ci.md and the program agree."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date
from pathlib import Path

import pytest

from policyguard.cli import main
from policyguard.runs.baseline import read_baseline
from policyguard.runs.project import Settings
from runs.support import POLICY, check_project, pictures

PAGE = Path(__file__).parents[2] / "docs" / "ci.md"


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def test_every_key_of_the_project_file_is_in_the_table_and_no_other() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == set(
        Settings.model_fields
    )


def test_the_project_file_in_the_docs_works(project: Path) -> None:
    text, _ = blocks("toml")
    Settings.model_validate(tomllib.loads(text))
    local = "\n".join(
        line for line in text.splitlines() if not line.startswith(("model", "reports", "cache"))
    )
    (project / "policyguard.toml").write_text(local)
    (project / "policies").mkdir()
    for name in ("base", "avatars", "ads", "brand"):
        (project / "policies" / f"{name}.yaml").write_text(POLICY.format(id=name))
    pictures(project, "a.png", "avatars/b.png", "avatars/drafts/c.png", "ads/x/d.png", "docs/e.png")
    found = {v["source"]: [p["id"] for p in v["evidence"]["policies"]] for v in check_project().verdicts}
    assert {
        "a.png": ["base"],
        "avatars/b.png": ["base", "avatars"],
        "avatars/drafts/c.png": ["base"],
        "ads/x/d.png": ["base", "ads", "brand"],
    } == found


def test_one_policy_in_place_of_another_in_the_docs_works(project: Path) -> None:
    """Where one country allows more, no image is judged under both policies."""
    _, text = blocks("toml")
    (project / "policyguard.toml").write_text(text)
    (project / "policies").mkdir()
    for name in ("shop", "shop-north"):
        (project / "policies" / f"{name}.yaml").write_text(POLICY.format(id=name))
    pictures(project, "feed/a.png", "feed/south/b.png", "feed/north/c.png", "feed/north/x/d.png")
    found = {v["source"]: [p["id"] for p in v["evidence"]["policies"]] for v in check_project().verdicts}
    assert {
        "feed/a.png": ["shop"],
        "feed/south/b.png": ["shop"],
        "feed/north/c.png": ["shop-north"],
        "feed/north/x/d.png": ["shop-north"],
    } == found


def test_the_entry_in_the_docs_is_an_entry(tmp_path: Path) -> None:
    (text,) = blocks("json")
    (tmp_path / "b.jsonl").write_text(json.dumps(json.loads(text) | {"sha256": "0" * 64}))
    known = read_baseline(tmp_path / "b.jsonl", today=date(2027, 6, 30))
    assert ((), False) == (known.problems, known.expired(known.entries[0]))


@pytest.mark.parametrize(
    "line", [line.partition("#")[0] for block in blocks("bash") for line in block.splitlines()]
)
def test_the_options_in_the_docs_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    assert "policyguard" == words[0]
    command = words[1:3] if words[1] == "baseline" else words[1:2]
    assert 0 == main([*command, "--help"])
    page = capsys.readouterr().out
    assert not [word for word in words if word.startswith("--") and word not in page]
