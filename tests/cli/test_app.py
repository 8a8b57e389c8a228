"""The program as a whole: usage errors, and what it loads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.help_docs import tree
from cli.support import Captured, environment, picture, program
from policyguard import __version__
from policyguard.cli import main
from policyguard.runs.exits import ExitCode


def test_a_value_outside_a_closed_set_is_refused_in_plain_words(capsys: Captured) -> None:
    assert ExitCode.USAGE == main(["models", "--format", "xml"])
    said = capsys.readouterr().err
    assert "Invalid value for '--format'" in said
    assert "Value error" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check"], "PATH"),
        (["check", "--policy", "pictosafe/l3"], "PATH"),
        (["check", "a.png"], "--policy"),
        (["check", "a.png", "--policy", "pictosafe/l3", "--format", "xml"], "xml"),
        (["check", "a.png", "--policy", "pictosafe/l3", "--fail-on", "always"], "always"),
        (["check", "a.png", "--policy", "nowhere/l3"], "nowhere/l3"),
        (["check", "a.png", "--policy", "nowhere.yaml"], "nowhere.yaml"),
        (["check", "a.png", "--policy", "safeedit/l3"], "needs a guard model"),
        (["check", "a.png", "--policy", "pictosafe/l3", "--model", "./nowhere"], "nowhere"),
        (["check", "a.png", "--policy", "pictosafe/l3", "--dialect", "klingon"], "klingon"),
        (["check", "--polcy", "x"], "--polcy"),
        (["policy", "show"], "POLICY"),
        (["policy", "lint"], "POLICY"),
        (["chek"], "chek"),
        (["bench", "pictosafe", "make"], "FOLDER"),
    ],
)
def test_mistakes_in_the_command_end_in_2_and_print_no_data(
    arguments: list[str], said: str, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(picture())
    assert ExitCode.USAGE == main(arguments)
    captured = capsys.readouterr()
    assert said in captured.err
    assert "" == captured.out
    assert "Traceback" not in captured.err


def test_version_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys\nfrom policyguard.cli import main\n"
        "assert main([sys.argv[1]]) == 0\nprint(*sys.modules, file=sys.stderr)"
    )
    for flag in ("--version", "--help"):
        done = subprocess.run(
            [sys.executable, "-c", code, flag], capture_output=True, text=True, env=environment(), check=True
        )
        assert not {"torch", "transformers", "PIL", "numpy", "pydantic", "yaml", "httpx", "rich"} & set(
            done.stderr.split()
        )


def test_the_module_runs_as_the_program() -> None:
    done = program("--version")
    assert (0, f"policyguard {__version__}\n") == (done.returncode, done.stdout)


@pytest.mark.parametrize("command", [name for name in tree() if name != "policyguard check"])
def test_h_prints_help_and_no_sentence_of_a_list_is_cut(command: str, capsys: Captured) -> None:
    assert ExitCode.OK == main([*command.split()[1:], "-h"])
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")]


@pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
@pytest.mark.parametrize(
    ("late", "code"),
    [
        ("threading.Thread(target=stop_and_stay).start()", ExitCode.INTERRUPTED),
        ("atexit.register(stop)", ExitCode.USAGE),
        ("kept = Gone()", ExitCode.USAGE),
    ],
    ids=["while a thread is waited for", "at exit", "in Python's last moments"],
)
def test_a_ctrl_c_after_the_end_does_not_end_the_program_by_the_signal(late: str, code: ExitCode) -> None:
    script = f"""
import atexit, os, signal, sys, threading
from policyguard.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)

def stop(kill=os.kill, process=os.getpid(), number=signal.SIGINT):
    kill(process, number)

def stop_and_stay():
    threading.main_thread().join()
    while True:  # one may come just before the wait begins, and is then seen after it
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        threading.Event().wait(0.05)

class Gone:
    def __del__(self, stop=stop):
        stop()

{late}
sys.argv = ["policyguard", "check", "a.png"]
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("policyguard po", ["policy"]),
        ("policyguard check --base-", ["--base-url"]),
        ("policyguard check --policy pictosafe/l", [f"pictosafe/l{level}" for level in range(1, 6)]),
        ("policyguard policy show pictosafe/l3", ["pictosafe/l3"]),
        ("policyguard check --policy ./mine", []),
    ],
)
def test_bash_completes_commands_options_and_packaged_policies(
    typed: str, offered: list[str], tmp_path: Path
) -> None:
    script = f"""
        eval "$(policyguard --show-completion)"
        COMP_WORDS=({typed}) COMP_CWORD={len(typed.split()) - 1}
        _policyguard_completion policyguard
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    (tmp_path / "policyguard").write_text(f'#!/bin/sh\nexec {sys.executable} -m policyguard "$@"\n')
    (tmp_path / "policyguard").chmod(0o755)
    within = environment() | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SHELL": "/bin/bash"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=within)
    assert done.stdout.split() == offered
