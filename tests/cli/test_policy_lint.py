"""``policyguard policy lint``: every mistake in a policy has a place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import GOOD, Captured
from policyguard.cli import main

BAD = """\
id: house
version: one
title: House rules
rules:
  - title: Arms
    unsafe: [weapons]
    tresholds: 0.6
"""


def test_lint_gives_every_mistake_its_place(tmp_path: Path, good: str, capsys: Captured) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    assert 2 == main(["policy", "lint", good, str(bad)])
    captured = capsys.readouterr()
    assert f"{bad}:2:10: error: version:" in captured.out
    assert f"{bad}:7:5: error: rules[0].tresholds" in captured.out
    assert good not in captured.out
    assert "2 policies: errors 3, warnings 0, infos 0" in captured.err


def test_lint_doubts_what_may_be_used_and_is_incomplete(tmp_path: Path, capsys: Captured) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text(
        "id: house\nversion: 1.0.0\ntitle: House rules\nrules:\n"
        "  - id: arms\n    title: Arms\n    description: Weapons of all kinds.\n"
    )
    assert 0 == main(["policy", "lint", str(bare)])
    captured = capsys.readouterr()
    assert f"{bare}:5:5: warning: rules.arms: rule 'arms' gives no example under `unsafe:`" in captured.out
    assert f"{bare}:5:5: info: rules.arms: rule 'arms' gives no example under `safe:`" in captured.out
    assert "no `owner:`" in captured.out
    assert "no `licence:`" in captured.out
    assert "1 policy: errors 0, warnings 3, infos 1" in captured.err


def test_lint_names_a_missing_file_and_goes_on(tmp_path: Path, good: str, capsys: Captured) -> None:
    assert 2 == main(["policy", "lint", str(tmp_path / "nowhere.yaml"), good])
    assert "nowhere.yaml: error: there is no such file" in capsys.readouterr().out


@pytest.mark.parametrize(("level", "code"), [("error", 0), ("warning", 1), ("info", 1), ("never", 0)])
def test_lint_fails_from_the_level_that_is_named(tmp_path: Path, level: str, code: int) -> None:
    file = tmp_path / "no_owner.yaml"
    file.write_text(GOOD.replace("owner: The shop\n", ""))
    assert code == main(["policy", "lint", str(file), "--fail-on", level])


def test_a_policy_that_one_model_cannot_take_is_no_broken_file(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "many.yaml"
    rules = "".join(f"  - {{id: r{n}, title: Rule {n}, unsafe: [knives]}}\n" for n in range(9))
    file.write_text(f"id: many\nversion: 1.0.0\ntitle: Many\nworld: pictosafe\nrules:\n{rules}")
    assert 1 == main(["policy", "lint", str(file)])
    assert "pico reads at most 8 rules and policy 'many' has 9 [unreadable]" in capsys.readouterr().out


def test_lint_as_json_holds_level_code_and_place(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "no_owner.yaml"
    file.write_text(GOOD.replace("owner: The shop\n", ""))
    assert 0 == main(["policy", "lint", str(file), "-f", "json", "--budget", "10"])
    report = json.loads(capsys.readouterr().out)
    assert {"no-owner", "too-long"} == {remark["code"] for remark in report["policies"][0]["remarks"]}
    assert {"error": 0, "warning": 2, "info": 0} == report["counts"]
