"""``policyguard policy``: policies can be read, and every mistake in them has a place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policyguard import Policy
from policyguard.cli import main
from policyguard.policy import packaged_policies

GOOD = """\
id: house
version: 1.0.0
title: House rules
description: What our shop shows.
owner: The shop
licence: CC-BY-4.0
rules:
  - id: arms
    title: Arms
    unsafe: [weapons]
    safe: [toys]
    threshold: 0.6
    action: flag
"""
BAD = """\
id: house
version: one
title: House rules
rules:
  - title: Arms
    unsafe: [weapons]
    tresholds: 0.6
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


def test_show_says_what_the_rules_are(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good])
    out = capsys.readouterr().out
    for words in (
        "house 1.0.0: House rules",
        "What our shop shows.",
        "A. Arms (arms, threshold 0.6, action flag)",
        "must not show - weapons",
        "may show      - toys",
        "undecided: block",
        "owner         The shop",
    ):
        assert words in out
    assert Policy.load(good).resolve().fingerprint in out


def test_show_as_json_holds_the_policy_and_what_follows_from_it(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good, "--format", "json"])
    shown = json.loads(capsys.readouterr().out)
    resolved = Policy.load(good).resolve()
    assert ("house", "arms", 0.6) == (shown["id"], shown["rules"][0]["id"], shown["rules"][0]["threshold"])
    assert (resolved.fingerprint, resolved.text) == (shown["fingerprint"], shown["text"])
    assert "block" == shown["outcomes"]["error"]


def test_show_as_yaml_is_the_file_itself(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good, "-f", "yaml"])
    assert GOOD == capsys.readouterr().out


def test_a_policy_that_does_not_exist_is_a_usage_error(capsys: Captured) -> None:
    assert 2 == main(["policy", "show", "nowhere/l3"])
    captured = capsys.readouterr()
    assert "" == captured.out
    assert "error: nowhere/l3" in captured.err
    assert "hint:" in captured.err


def test_lint_gives_every_mistake_its_place(tmp_path: Path, good: str, capsys: Captured) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(BAD)
    assert 2 == main(["policy", "lint", good, str(bad)])
    captured = capsys.readouterr()
    assert f"{bad}:2:10: error: version:" in captured.out
    assert f"{bad}:7:5: error: rules[0].tresholds" in captured.out
    assert good not in captured.out
    assert "2 policies: errors 3, warnings 0" in captured.err


def test_lint_doubts_what_may_be_used_and_is_incomplete(tmp_path: Path, capsys: Captured) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text(
        "id: house\nversion: 1.0.0\ntitle: House rules\nrules:\n"
        "  - id: arms\n    title: Arms\n    description: Weapons of all kinds.\n"
    )
    assert 0 == main(["policy", "lint", str(bare)])
    captured = capsys.readouterr()
    assert f"{bare}:5:5: warning: rule 'arms' gives no example under `unsafe:`" in captured.out
    assert f"{bare}:5:5: warning: rule 'arms' gives no example under `safe:`" in captured.out
    assert "no `owner:`" in captured.out
    assert "no `licence:`" in captured.out
    assert "1 policy: errors 0, warnings 4" in captured.err


def test_lint_names_a_missing_file_and_goes_on(tmp_path: Path, good: str, capsys: Captured) -> None:
    assert 2 == main(["policy", "lint", str(tmp_path / "nowhere.yaml"), good])
    assert "nowhere.yaml: error: there is no such file" in capsys.readouterr().out


def test_list_names_every_packaged_policy_and_its_world(capsys: Captured) -> None:
    assert 0 == main(["policy", "list", "--format", "json"])
    assert list(packaged_policies()) == [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert 0 == main(["policy", "list"])
    lines = capsys.readouterr().out.splitlines()
    assert list(packaged_policies()) == [line.split()[0] for line in lines]


@pytest.mark.parametrize("name", packaged_policies())
def test_every_packaged_policy_can_be_shown_and_has_no_error(name: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", name])
    assert 0 == main(["policy", "lint", name])
    assert ": error:" not in capsys.readouterr().out
