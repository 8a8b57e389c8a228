"""``policyguard quickstart`` prints commands that work on the machine it looked at."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from PIL import Image

from backends.remote.server import ToyServer
from cli.support import Captured
from policyguard.backends.registry import resolve_model
from policyguard.cli import main
from policyguard.cli.quickstart import MODELS, SERVICES, Machine, Server, entering, look, ways
from policyguard.runs.exits import ExitCode

ALL = frozenset({"transformers", "remote", "open-nsfw"})


def commands(machine: Machine) -> list[str]:
    return [command for way in ways(machine) for command in way.commands]


def run(command: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """Run one printed ``policyguard`` command on an image of that name."""
    Image.new("RGB", (64, 64), (7, 90, 200)).save(folder / "photo.jpg")
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(command)
    assert program == "policyguard"
    return main(arguments)


def test_a_server_on_this_machine_is_found_and_its_command_judges_an_image(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Captured
) -> None:
    with ToyServer() as server:
        server.model, server.context = "qwen3-vl:4b", 1 << 16
        machine = look({}, {server.url: "Ollama", "http://127.0.0.1:9/v1": "vLLM"})
        assert [(it.kind, it.models) for it in machine.servers] == [("Ollama", ("qwen3-vl:4b",))]
        assert run(ways(machine)[0].commands[-1], monkeypatch, tmp_path) == ExitCode.OK
        assert len(server.bodies()) >= 1
    assert "photo.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("key", SERVICES)
def test_a_key_in_the_environment_is_taken_from_there_and_its_command_judges_an_image(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At the service's address, which a server here stands in for."""
    name, url, model = SERVICES[key]
    machine = look({key: "sk-secret"}, {})
    assert machine.keys == (key,)
    (way,) = [way for way in ways(machine) if way.title.startswith(name)]
    *_, export, check = way.commands
    assert export == f'export POLICYGUARD_API_KEY="${key}"'
    assert "sk-secret" not in "".join(way.commands)
    assert f"--base-url {url} --model {model}" in check
    monkeypatch.setenv("POLICYGUARD_API_KEY", "sk-secret")
    with ToyServer() as server:
        server.model, server.api_key, server.context = model, "sk-secret", 1 << 16
        assert run(check.replace(url, server.url), monkeypatch, tmp_path) == ExitCode.OK


def test_a_program_that_the_shell_does_not_find_is_entered_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    programs = tmp_path / "an env" / "bin"
    programs.mkdir(parents=True)
    for name in ("activate", "python", "policyguard"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr("sys.executable", str(programs / "python"))
    monkeypatch.setattr("sys.prefix", str(programs.parent))
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert entering() == ". 'an env/bin/activate'"
    assert main(["quickstart"]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines.index(". 'an env/bin/activate'") < min(
        number for number, line in enumerate(lines) if line.startswith("policyguard ")
    )
    monkeypatch.setenv("PATH", str(programs))
    assert entering() == ""
    monkeypatch.setenv("PATH", "/usr/bin")
    (programs / "activate").unlink()
    assert entering() == ""


def test_without_anything_the_sensor_and_the_toy_are_left() -> None:
    assert [command.split()[0] for command in commands(Machine(has=ALL))] == ["policyguard", "policyguard"]
    assert "open-nsfw" in commands(Machine(has=ALL))[0]
    assert "pictosafe/l3" in commands(Machine(has=ALL))[-1]


def test_what_is_not_installed_is_installed_first() -> None:
    first = ways(Machine(keys=("OPENAI_API_KEY",)))[0].commands
    assert first[0].startswith("pip install '")
    assert "[remote]" in first[0]
    assert len(ways(Machine(keys=("OPENAI_API_KEY",), has=ALL))[0].commands) == len(first) - 1


@pytest.mark.parametrize(("memory", "model"), [(141, "qwen3-vl-8b"), (12, "qwen3-vl-4b"), (8, "qwen3-vl-2b")])
def test_a_gpu_gets_the_largest_model_that_fits(memory: int, model: str) -> None:
    assert commands(Machine(gpu="GPU", gpu_memory=memory, has=ALL))[0].endswith(f"--model {model}")
    assert {name for _, name in MODELS} <= {alias for m in MODELS for alias in resolve_model(m[1]).aliases}


def test_a_small_gpu_and_little_memory_get_no_model_that_does_not_fit() -> None:
    for machine in (Machine(gpu="GPU", gpu_memory=2, memory=4, has=ALL), Machine(memory=4, has=ALL)):
        assert not [command for command in commands(machine) if "qwen3-vl" in command]


def test_ollama_without_a_model_that_sees_is_told_which_to_pull_and_others_are_left_out() -> None:
    blind = Machine(
        servers=(Server("Ollama", "http://127.0.0.1:11434/v1", ("llama3.2:3b",)),),
        has=ALL,
    )
    assert commands(blind)[0] == "ollama pull qwen3-vl:2b"
    blind = Machine(servers=(Server("vLLM", "http://127.0.0.1:8000/v1", ("Qwen/Qwen3-8B",)),), has=ALL)
    assert not [command for command in commands(blind) if "8000" in command]


def test_the_program_prints_lines_that_a_shell_takes_and_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    assert main(["quickstart", "my photo.jpg", "--policy", "house rules.yaml"]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert "sk-very-secret" not in printed
    assert "OPENAI_API_KEY" in printed
    for line in printed.splitlines():
        if line and not line.startswith("#"):
            assert shlex.split(line)[0] in ("policyguard", "export", "pip", "ollama", ".")
    assert "'my photo.jpg' --policy 'house rules.yaml'" in printed
    python = "\n".join(line[5:] for line in printed.splitlines() if line.startswith("#    "))
    compile(python[python.index("from policyguard") :], "quickstart", "exec")


def test_who_has_no_key_is_told_where_one_goes(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    for key in SERVICES:
        monkeypatch.delenv(key, raising=False)
    assert main(["quickstart", "my photo.jpg"]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert all(key in shown for key in (*SERVICES, "POLICYGUARD_API_KEY"))
    assert "policyguard check 'my photo.jpg' --policy safeedit/l3 --base-url https://" in shown
    monkeypatch.setenv("GEMINI_API_KEY", "sk-1")
    assert main(["quickstart"]) == ExitCode.OK
    assert "OPENAI_API_KEY" not in capsys.readouterr().out
