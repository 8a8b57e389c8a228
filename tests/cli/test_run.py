"""A run finishes whatever single images do to it, and its output can be relied on wherever it stops."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import IO

import pytest
import typer

from cli.support import Captured, Run, environment, house_rules, picture, program, red
from policyguard import Guard
from policyguard.assessment import Failure, FailureKind
from policyguard.backends.base import AssessmentRequest
from policyguard.cli.errors import command
from policyguard.cli.options import Format
from policyguard.cli.run import run_check
from policyguard.errors import BackendError, ConfigurationError, ModelLoadError
from policyguard.runs.exits import ExitCode, FailOn
from policyguard.runs.job import Job
from policyguard.runs.run import ImageStatus, Stop
from policyguard.runs.sources import Source
from policyguard.testing import FakeBackend
from runs.support import (
    Recorded,
    check_project,
    pictures,
    posix,
    reported,
)
from support.waiting import wait_until


def failing_from(number: int, error: BaseException) -> Callable[[AssessmentRequest], float]:
    calls = count()

    def answer(_: AssessmentRequest) -> float:
        if next(calls) >= number:
            raise error
        return 0.0

    return answer


Check = Callable[..., Run]


def stop_after(number: int, error: BaseException) -> FakeBackend:
    calls = count()

    def answer(_: AssessmentRequest) -> float:
        if next(calls) >= number:
            raise error
        return 0.0

    return FakeBackend(answer, preferred_batch=1)


SLOW_RUN = """
import signal, sys, typer
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell start with it ignored
sys.path.insert(0, {tests!r})
from cli.support import Captured, environment, house_rules, picture, program
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


class OutOfReach(FakeBackend):
    def warm(self) -> None:
        raise BackendError("the server is down", hint="start it")


def test_max_failures_stops_and_names_what_was_not_checked(project: Path) -> None:
    pictures(project, "a.png", "d.png", "e.png")
    pictures(project, "b.png", "c.png", score=255)
    report = Recorded()
    found = reported(report=report, max_failures=2)
    assert ExitCode.BLOCKED == found.code
    assert ["a.png", "b.png", "c.png"] == found.sources
    assert "stopped after 3 images of 5 (max-failures)" in found.err
    assert report.summary is not None
    assert Stop.MAX_FAILURES is report.summary.stopped
    assert ["d.png", "e.png"] == [item.path for item in report.summary.unchecked]


def test_as_many_failures_as_allowed_on_the_last_image_is_no_stop(project: Path) -> None:
    pictures(project, "a.png", score=255)
    assert "stopped" not in check_project(max_failures=1).err


@pytest.mark.parametrize("fail_on", FailOn)
def test_a_run_out_of_time_is_never_a_success(project: Path, fail_on: FailOn) -> None:
    pictures(project, *(f"{number}.png" for number in range(9)))
    release = threading.Event()
    calls = count()

    def stuck(_: AssessmentRequest) -> float:
        if next(calls) >= 2:
            release.wait()
        return 0.0

    report = Recorded()
    try:
        backend = FakeBackend(stuck, preferred_batch=1)
        found = reported(report=report, timeout=1.0, fail_on=fail_on, backend=backend)
    finally:
        release.set()
    assert ExitCode.UNJUDGED == found.code
    assert report.summary is not None
    assert Stop.TIMEOUT is report.summary.stopped
    assert 9 == len(report.images) + len(report.summary.unchecked)
    assert len(report.images) <= 2
    assert "(timeout)" in found.err


def test_ctrl_c_midway_finishes_the_reports_and_names_the_rest(project: Path) -> None:
    pictures(project, "a.png", "b.png", "c.png")
    report = Recorded()
    backend = FakeBackend(failing_from(1, KeyboardInterrupt()), preferred_batch=1)
    with pytest.raises(KeyboardInterrupt):
        reported(report=report, backend=backend)
    assert report.summary is not None
    assert (Stop.INTERRUPT, 130) == (report.summary.stopped, report.summary.exit_code)
    assert (["a.png"], ["b.png", "c.png"]) == (
        [image.path for image in report.images],
        [item.path for item in report.summary.unchecked],
    )


def test_a_set_up_that_turns_out_wrong_finishes_the_reports_too(project: Path) -> None:
    pictures(project, "a.png", "b.png")
    report = Recorded()
    with pytest.raises(ConfigurationError):
        reported(report=report, backend=FakeBackend(ConfigurationError("the key is wrong")))
    assert report.summary is not None
    assert (Stop.ERROR, 2, 2) == (
        report.summary.stopped,
        report.summary.exit_code,
        len(report.summary.unchecked),
    )


def test_the_second_run_asks_the_model_nothing_and_says_so(project: Path) -> None:
    pictures(project, *(f"{number}.png" for number in range(8)))
    pictures(project, "bad.png", score=255)
    first, second = (FakeBackend(red, preferred_batch=1) for _ in range(2))
    cold = check_project(cache="out/scores.sqlite", workers=4, backend=first)
    warm = check_project(cache="out/scores.sqlite", workers=4, backend=second)
    assert (2, 0) == (first.calls, second.calls), "equal images are asked about once"
    assert cold.code == warm.code == ExitCode.BLOCKED
    assert [verdict["action"] for verdict in cold.verdicts] == [
        verdict["action"] for verdict in warm.verdicts
    ]
    assert all(verdict["evidence"]["cached"] for verdict in warm.verdicts)
    assert "9 known from the cache" in warm.err


def test_output_that_cannot_be_written_does_not_stop_the_reports(project: Path) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, os.strerror(28))

    pictures(project, "a.png", "b.png")
    report = Recorded()
    assert ExitCode.USAGE == reported(report=report, stdout=Full()).code
    assert 2 == len(report.images)
    with pytest.raises(OSError, match="No space"):
        check_project(stdout=Full())


def test_a_broken_image_among_thousands_is_one_image_s_fault(project: Path) -> None:
    pictures(project, *(f"{number:04}.png" for number in range(2000)))
    (project / "0777.png").write_bytes(b"nonsense")
    report = Recorded()
    found = reported(report=report, workers=4)
    assert (ExitCode.UNJUDGED, 2000) == (found.code, len(found.verdicts))
    assert ["0777.png"] == [image.path for image in report.images if image.status is ImageStatus.UNJUDGED]


@posix
def test_a_full_disk_under_the_output_ends_in_2(project: Path) -> None:
    pictures(project, "a.png")
    (project / "policyguard.toml").write_text('policy = "pictosafe/l3"\n')
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "policyguard", "check"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert ExitCode.USAGE == done.returncode
    assert b"Traceback" not in done.stderr
    assert b"cannot be written" in done.stderr


@posix
def test_a_real_ctrl_c_in_a_run_of_many_workers_ends_in_130_with_valid_json(project: Path) -> None:
    program = """
import signal, sys, typer
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from cli.support import house_rules, picture
from policyguard import Guard
from policyguard.cli.errors import command
from policyguard.runs.job import Job
from policyguard.cli.options import Format
from policyguard.cli.run import run_check
from policyguard.runs.sources import Source
from policyguard.testing import FakeBackend

@command
def body():
    guard = Guard(house_rules(), backend=FakeBackend(0.1, delay=0.05, preferred_batch=1))
    job = Job.of(guard, [Source(f"{{n}}.png", picture()) for n in range(5000)], workers=4)
    return run_check(job, style=Format.JSONL, stdout=sys.stdout, stderr=sys.stderr)

try:
    body()
except typer.Exit as done:
    sys.exit(done.exit_code)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program.format(tests=str(Path(__file__).parents[1]))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # ``communicate`` would not see what ``readline`` has taken beyond the line
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert ExitCode.INTERRUPTED == process.returncode
    assert [json.loads(line) for line in (first + out).splitlines()]
    assert b"stopped after" in err
    assert b"not checked" in err


def test_a_run_that_cannot_fail_says_so(project: Path) -> None:
    pictures(project, "bad.png", score=255)
    found = check_project(fail_on=FailOn.NEVER)
    assert ExitCode.OK == found.code
    assert "do not fail this run: --fail-on never" in found.err


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_nobody_to_tell_does_not_change_the_exit_code(project: Path, closed: str) -> None:
    pytest.importorskip("torch")
    (project / "broken.png").write_bytes(b"nonsense")
    command = f"'{sys.executable}' -m policyguard check broken.png --policy pictosafe/l3 {closed}"
    assert ExitCode.UNJUDGED == subprocess.run(command, shell=True, check=False).returncode


def test_a_violation_a_pass_and_a_broken_file_are_told_apart(check: Check, images: Path) -> None:
    run = check(images)
    assert ExitCode.BLOCKED == run.code
    broken, safe, unsafe = run.out.splitlines()
    assert "block  unscannable" in broken
    assert "allow  complies     0.000" in safe
    assert "block  violates     1.000  Arms 1.00" in unsafe
    assert "3 images in" in run.err
    assert "with fake: 1 allowed, 0 flagged, 2 blocked; 1 could not be judged" in run.err


def test_a_missing_file_is_one_images_fault_and_the_run_goes_on(check: Check, images: Path) -> None:
    run = check(images / "nowhere.png", images / "safe.png", style=Format.JSON)
    assert ExitCode.UNJUDGED == run.code
    missing, safe = json.loads(run.out)
    assert ("unscannable", "block", str(images / "nowhere.png")) == (
        missing["outcome"],
        missing["action"],
        missing["source"],
    )
    assert "allow" == safe["action"]
    assert f"{images / 'nowhere.png'}: {missing['reason']}" in run.err


def test_a_thousand_files_of_which_ten_are_broken(check: Check, tmp_path: Path) -> None:
    for number in range(1000):
        data = b"not an image" if number % 100 == 7 else picture()
        (tmp_path / f"{number:04}.png").write_bytes(data)
    run = check(tmp_path, style=Format.JSONL)
    verdicts = [json.loads(line) for line in run.out.splitlines()]
    assert [f"{number:04}.png" for number in range(1000)] == [Path(v["source"]).name for v in verdicts]
    assert 990 == sum(verdict["outcome"] == "complies" for verdict in verdicts)
    assert ExitCode.UNJUDGED == run.code
    assert "990 allowed, 0 flagged, 10 blocked; 10 could not be judged" in run.err
    assert all(f"{number:04}.png: " in run.err for number in range(7, 1000, 100))


def test_a_long_list_of_unjudged_images_is_cut_and_counted(check: Check, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    run = check(tmp_path)
    assert 30 == len(run.out.splitlines())
    assert "... and 10 more" in run.err


def test_images_that_a_policy_lets_through_unjudged_are_pointed_out(check: Check, images: Path) -> None:
    lenient = Guard(house_rules(outcomes={"unscannable": "allow"}), backend=FakeBackend(red))
    run = check(images / "broken.png", guard=lenient)
    assert ExitCode.OK == run.code
    assert "1 could not be judged (1 of them not blocked)" in run.err
    assert "(not judged, and not blocked)" in run.out


def test_an_image_that_one_policy_blocks_is_not_said_to_pass_because_another_lets_it_through(
    check: Check, images: Path
) -> None:
    policies = [house_rules(), house_rules(id="lenient", outcomes={"unscannable": "flag"})]
    run = check(images / "broken.png", guard=Guard(policies, backend=FakeBackend(red)), style=Format.JSONL)
    found = json.loads(run.out)
    assert ("block", False, False) == (found["action"], found["allowed"], found["degraded"])
    assert "not blocked" not in run.out + run.err


def test_fail_on_decides_the_code_and_nothing_else(check: Check, images: Path) -> None:
    runs = [check(images, style=Format.JSONL, fail_on=fail_on) for fail_on in FailOn]
    assert [1, 1, 0] == [run.code for run in runs]
    assert 1 == len({tuple(json.loads(line)["action"] for line in run.out.splitlines()) for run in runs})


def test_json_is_one_list_of_verdicts(check: Check, guard: Guard, images: Path) -> None:
    run = check(images, style=Format.JSON)
    assert 3 == len(json.loads(run.out))
    expected = guard.check(images / "unsafe.png").to_dict()
    found = json.loads(run.out)[2]
    for one in (expected, found):
        del one["evidence"]["timings"]
    assert expected == found


@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("style", Format)
def test_what_is_printed_before_ctrl_c_stays_valid(number: int, style: Format) -> None:
    guard = Guard(house_rules(), backend=stop_after(number, KeyboardInterrupt()))
    run = Run(guard, [Source(f"{i}.png", picture()) for i in range(9)], terminal=False, style=style)
    assert isinstance(run.raised, KeyboardInterrupt)
    assert f"stopped after {number} image" in run.err
    if style is Format.JSON:
        assert number == len(json.loads(run.out))
    elif style is Format.JSONL:
        assert number == len([json.loads(line) for line in run.out.splitlines()])
    else:
        assert number == len(run.out.splitlines())


def test_a_model_that_cannot_be_loaded_prints_no_empty_list() -> None:
    guard = Guard(house_rules(), backend=stop_after(0, ModelLoadError("no such model")))
    run = Run(guard, [Source("a.png", picture())], terminal=False, style=Format.JSON)
    assert isinstance(run.raised, ModelLoadError)
    assert "" == run.out


def test_a_backend_that_fails_blocks_every_image(check: Check, images: Path) -> None:
    failing = Guard(house_rules(), backend=FakeBackend(Failure(FailureKind.ERROR, "the server is down")))
    run = check(images, guard=failing)
    assert ExitCode.UNJUDGED == run.code
    assert "the server is down" in run.out


def test_several_policies_are_told_apart_in_the_findings(check: Check, images: Path) -> None:
    both = Guard([house_rules(), house_rules(id="other")], backend=FakeBackend(red))
    run = check(images / "unsafe.png", guard=both)
    assert "Arms in house 1.00; Arms in other 1.00" in run.out


def test_explaining_shows_the_rationale(check: Check, images: Path) -> None:
    explaining = Guard(house_rules(), backend=FakeBackend(red), explain=True)
    assert "Arms 1.00 - scripted" in check(images / "unsafe.png", guard=explaining).out


def test_an_image_from_standard_input_goes_by_that_name(guard: Guard) -> None:
    run = Run(guard, [Source("<stdin>", picture(255))], terminal=False, style=Format.JSON)
    assert "<stdin>" == json.loads(run.out)[0]["source"]
    assert ExitCode.BLOCKED == run.code


def test_a_terminal_gets_a_table_and_a_bar_that_goes_away(check: Check, images: Path) -> None:
    run = check(images, terminal=True)
    assert "image" in run.out.splitlines()[0]
    assert "\x1b[32mALLOW" in run.out
    assert "2 blocked, 1 not judged" in run.err
    assert "3 images in" in run.err.splitlines()[-1]


def test_a_pipe_gets_neither_colour_nor_bar(check: Check, images: Path) -> None:
    run = check(images)
    assert "\x1b" not in run.out + run.err
    assert "not judged" not in run.err


@posix
@pytest.mark.parametrize("style", ["json", "jsonl"])
def test_ctrl_c_ends_in_130_and_leaves_valid_json(style: str, tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    with printed.open("wb") as stdout:
        process = slow_run(style, stdout, delay=0.002, images=20_000)
    wait_until(lambda: process.poll() is not None or printed.stat().st_size)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
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
    _, err = process.communicate()
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
