"""``policyguard models``."""

from __future__ import annotations

import json

import pytest

from cli.support import Captured
from policyguard.backends.published import MEASURES, SYSTEMS
from policyguard.backends.registry import known_models, resolve_model
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


def test_models_says_how_much_is_downloaded(capsys: Captured) -> None:
    names = ("qwen3-vl-4b", "open-nsfw", "pico")
    assert [resolve_model(name).gigabytes for name in names] == [8.0, 0.02, None]
    assert ExitCode.OK == main(["models", "--format", "json"])
    listed = {model["id"]: model["gigabytes"] for model in json.loads(capsys.readouterr().out)}
    assert listed["Qwen/Qwen3-VL-8B-Instruct"] == 16.0


def test_models_speed_estimates_seconds_per_photo_of_this_machine(capsys: Captured) -> None:
    pytest.importorskip("torch")
    assert ExitCode.OK == main(["models", "--speed", "--format", "json"])
    seconds = {model["id"]: model["seconds"] for model in json.loads(capsys.readouterr().out)}
    assert seconds["Qwen/Qwen3-VL-8B-Instruct"] == pytest.approx(2 * seconds["Qwen/Qwen3-VL-4B-Instruct"])
    assert seconds["pico"] is None
    assert ExitCode.OK == main(["models", "--speed"])
    printed = capsys.readouterr()
    assert "s/photo" in printed.err


def test_models_published_says_of_each_system_whether_it_works_and_where_its_figures_stand(
    capsys: Captured,
) -> None:
    assert ExitCode.OK == main(["models", "--published"])
    captured = capsys.readouterr()
    assert [system.name.split()[0] for system in SYSTEMS] == [
        line.split()[0] for line in captured.out.splitlines()
    ]
    assert "arXiv 2606.22873" in captured.err
    assert ExitCode.OK == main(["models", "--published", "--format", "json"])
    told = json.loads(capsys.readouterr().out)
    assert told["measures"] == MEASURES
    assert {system["state"] for system in told["systems"]} == {
        "works",
        "works with your wording",
        "not possible",
    }
