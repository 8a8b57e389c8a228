"""``policyguard models``."""

from __future__ import annotations

import json

from cli.support import Captured
from policyguard.backends.registry import known_models
from policyguard.cli import main
from policyguard.runs.exits import ExitCode


def test_models_lists_what_is_known_and_how_to_name_others(capsys: Captured) -> None:
    assert ExitCode.OK == main(["models"])
    captured = capsys.readouterr()
    assert [model.id for model in known_models()] == [line.split()[0] for line in captured.out.splitlines()]
    assert "hub id or folder" in captured.err


def test_models_as_json_says_of_each_what_it_is(capsys: Captured) -> None:
    assert ExitCode.OK == main(["models", "--format", "json"])
    pico = json.loads(capsys.readouterr().out)[0]
    assert ("pico", "pico", "pictosafe") == (pico["id"], pico["dialect"], pico["world"])
    assert {"family", "size", "licence", "about"} < set(pico)
