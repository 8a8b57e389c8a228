"""The program as a whole: usage errors, signals, pipes, and what it loads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
import typer

import policyguard
from cli.support import house_rules, picture
from policyguard import Guard, __version__
from policyguard.cli import main
from policyguard.cli.errors import command
from policyguard.cli.options import Format
from policyguard.cli.run import run_check
from policyguard.errors import BackendError, ConfigurationError
from policyguard.runs.exits import ExitCode
from policyguard.runs.job import Job
from policyguard.runs.sources import Source
from policyguard.testing import FakeBackend

Captured = pytest.CaptureFixture[str]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and pipes as on POSIX")

SLOW_RUN = """
import signal, sys, typer
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start with it ignored
sys.path.insert(0, {tests!r})
from cli.support import house_rules, picture
from policyguard import Guard
from policyguard.cli.errors import command
from policyguard.runs.job import Job
from policyguard.cli.options import Format
from policyguard.cli.run import run_check
from policyguard.runs.sources import Source
from policyguard.testing import FakeBackend

data = picture()

@command
def body():
    guard = Guard(house_rules(), backend=FakeBackend(0.1, delay={delay}, preferred_batch=1))
    sources = [Source(f"{{number}}.png", data) for number in range({images})]
    return run_check(Job.of(guard, sources), style=Format({style!r}), stdout=sys.stdout, stderr=sys.stderr)

try:
    body()
except typer.Exit as done:
    sys.exit(done.exit_code)
"""


def slow_run(style: str, stdout: IO[bytes] | int, *, delay: float, images: int) -> subprocess.Popen[bytes]:
    code = SLOW_RUN.format(tests=str(Path(__file__).parents[1]), delay=delay, images=images, style=style)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, env=environment()
    )


def environment() -> dict[str, str]:
    source = str(Path(policyguard.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "COLUMNS": "80"}


def program(*arguments: str, stdout: IO[str] | int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command_line = [sys.executable, "-m", "policyguard", *arguments]
    pipe = subprocess.PIPE
    return subprocess.run(
        command_line, stdout=stdout, stderr=pipe, text=True, env=environment(), timeout=200, check=False
    )


@posix
@pytest.mark.parametrize("style", ["json", "jsonl"])
def test_ctrl_c_ends_in_130_and_leaves_valid_json(style: str, tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    with printed.open("wb") as stdout:
        process = slow_run(style, stdout, delay=0.002, images=20_000)
    while process.poll() is None and not printed.stat().st_size:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    out = printed.read_text()
    verdicts = json.loads(out) if style == "json" else [json.loads(line) for line in out.splitlines()]
    assert ExitCode.INTERRUPTED == process.returncode, err
    assert f"stopped after {len(verdicts)} image".encode() in err
    assert b"Traceback" not in err


@posix
@pytest.mark.parametrize("style", ["text", "json", "jsonl"])
def test_a_reader_that_goes_away_ends_the_run_quietly(style: str) -> None:
    process = slow_run(style, subprocess.PIPE, delay=0.0, images=3000)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=200)
    assert ExitCode.BROKEN_PIPE == process.returncode
    assert b"Traceback" not in err
    assert b"Exception ignored" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_not_a_success() -> None:
    with Path("/dev/full").open("w") as full:
        done = program("policy", "list", stdout=full)
    assert ExitCode.USAGE == done.returncode
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unexpected_error_is_a_short_message_and_no_result(capsys: Captured) -> None:
    @command
    def broken() -> ExitCode:
        raise ZeroDivisionError("[red]oops\x1b[0m")

    with pytest.raises(typer.Exit) as caught:
        broken()
    assert ExitCode.USAGE == caught.value.exit_code
    captured = capsys.readouterr()
    assert r"error: this is a bug in policyguard: ZeroDivisionError: [red]oops\x1b[0m" in captured.err
    assert "policyguard --debug" in captured.err
    assert "Traceback" not in captured.err


class OutOfReach(FakeBackend):
    def warm(self) -> None:
        raise BackendError("the server is down", hint="start it")


def test_a_server_out_of_reach_at_the_start_ends_the_run_before_it_prints(capsys: Captured) -> None:
    @command
    def body() -> ExitCode:
        guard = Guard(house_rules(), backend=OutOfReach())
        sources = [Source("a.png", picture())]
        return run_check(Job.of(guard, sources), style=Format.JSON, stdout=sys.stdout, stderr=sys.stderr)

    with pytest.raises(typer.Exit) as caught:
        body()
    assert ExitCode.USAGE == caught.value.exit_code
    captured = capsys.readouterr()
    assert ("", ["error: the server is down", "  hint: start it"]) == (
        captured.out,
        captured.err.splitlines(),
    )


def test_an_error_of_ours_shows_its_hint_on_the_next_line(capsys: Captured) -> None:
    @command
    def misused() -> ExitCode:
        raise ConfigurationError("this cannot work", hint="do that")

    with pytest.raises(typer.Exit):
        misused()
    assert ["error: this cannot work", "  hint: do that"] == capsys.readouterr().err.splitlines()


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


def test_an_empty_folder_is_named_and_nothing_is_loaded(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert ExitCode.USAGE == main(["check", str(tmp_path), "--policy", "pictosafe/l3"])
    captured = capsys.readouterr()
    assert f"error: no image found in folder '{tmp_path}'" in captured.err
    assert "hint: looked for names ending in .png" in captured.err


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
