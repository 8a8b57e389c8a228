"""The recipe for GPU servers holds the flags that the docs promise, on every model, and nothing dangerous."""

from __future__ import annotations

import json
import re
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPE = Path(__file__).parents[3] / "integrations" / "vllm"
COMPOSE: dict[str, Any] = yaml.load((RECIPE / "compose.yaml").read_text(), yaml.SafeLoader)  # noqa: TID251 (not a policy)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EACH = pytest.mark.parametrize("name", SERVICES)


def flags(name: str) -> dict[str, str | None]:
    """The command line of a service, flag -> value; "" is the model."""
    words = shlex.split(re.sub(r"\$\{(\w+):\?[^}]*\}", r"$\1", SERVICES[name]["command"]))
    found: dict[str, str | None] = {"": words[0]}
    for number, word in enumerate(words):
        if word.startswith("--"):
            follows = words[number + 1] if number + 1 < len(words) else "--"
            found[word] = None if follows.startswith("--") else follows
    return found


@EACH
def test_every_model_has_the_flags_that_guards_rely_on(name: str) -> None:
    given = flags(name)
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= given.keys()
    assert json.loads(given["--limit-mm-per-prompt"] or "") == {"image": 1, "video": 0}
    assert given["--generation-config"] == "vllm"
    assert int(given["--max-model-len"] or 0) >= 16384
    assert given["--served-model-name"] == given[""]


@EACH
def test_the_form_of_answers_leaves_no_room_for_endless_blanks(name: str) -> None:
    settings = json.loads(flags(name)["--structured-outputs-config"] or "")
    assert settings["disable_any_whitespace"] is True


@EACH
def test_weights_are_pinned_and_no_code_of_theirs_runs(name: str) -> None:
    given = flags(name)
    assert "--trust-remote-code" not in given
    assert (given["--revision"] or "").endswith("_REVISION")
    assert re.search(r"--revision \$\{\w+:\?", SERVICES[name]["command"]), "compose stops without a revision"


@EACH
def test_scores_stay_raw_and_no_key_stands_on_the_command_line(name: str) -> None:
    assert not {"--logprobs-mode", "--api-key", "--max-logprobs"} & flags(name).keys()
    assert "VLLM_API_KEY" in SERVICES[name]["environment"]
    assert ":?" in SERVICES[name]["environment"]["VLLM_API_KEY"]


@EACH
def test_the_port_is_open_to_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])


@EACH
def test_each_is_started_by_its_own_profile(name: str) -> None:
    assert SERVICES[name]["profiles"] == [name]
    assert f"`{name}`" in (RECIPE / "README.md").read_text()


def test_the_image_is_the_version_that_the_tests_run() -> None:
    version = re.search(r"^version=(\S+)", (RECIPE / "setup_cpu.sh").read_text(), re.MULTILINE)
    assert version is not None
    assert {service["image"] for service in SERVICES.values()} == {f"vllm/vllm-openai:v{version[1]}"}


@pytest.mark.parametrize("script", ["setup_cpu.sh", "serve_cpu.sh"])
def test_the_scripts_can_be_run(script: str) -> None:
    assert (RECIPE / script).stat().st_mode & stat.S_IXUSR
    text = (RECIPE / script).read_text()
    assert text.startswith("#!/usr/bin/env bash")
    assert "set -euo pipefail" in text
