"""``policyguard policy``: list, schema, and the forms of show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.support import GOOD, Captured
from policyguard.cli import main
from policyguard.policy import load_policy, packaged_policies


def test_show_as_json_holds_the_policy_and_what_follows_from_it(good: str, capsys: Captured) -> None:
    assert 0 == main(["policy", "show", good, "--format", "json"])
    shown = json.loads(capsys.readouterr().out)
    resolved = load_policy(good).resolve()
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


def test_a_parameter_is_given_on_the_command_line(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "age.yaml"
    file.write_text(
        GOOD.replace("[weapons]", '["weapons, for those under {{ age }}"]') + "parameters: {age: 18}\n"
    )
    assert 0 == main(["policy", "show", str(file), "--set", "age=16"])
    assert "for those under 16" in capsys.readouterr().out
    assert 2 == main(["policy", "show", str(file), "--set", "age"])
    assert "--set takes NAME=VALUE" in capsys.readouterr().err


def test_schema_is_json_schema_of_the_file(capsys: Captured) -> None:
    assert 0 == main(["policy", "schema"])
    schema = json.loads(capsys.readouterr().out)
    assert {"id", "version", "title", "rules", "extends"} <= set(schema["properties"])
