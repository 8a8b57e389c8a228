"""Runs over many images: one order, one exit code, and nothing lost however they end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from runs.support import Checked, check, pictures
from cli.support import red
from policyguard.backends.base import AssessmentRequest
from policyguard.cli import main
from policyguard.errors import ConfigurationError, UsageError
from policyguard.runs.engine import OutOfTime, until
from policyguard.runs.exits import ExitCode, FailOn
from policyguard.runs.reports.registry import Reports
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary, Stop
from policyguard.testing import FakeBackend

posix = pytest.mark.skipif(os.name == "nt", reason="devices and signals as on POSIX")


class Recorded:
    """A report that remembers what it was told; ``fails`` names the call that ends in ``error``."""

    def __init__(self, fails: str = "", error: Exception | None = None) -> None:
        self.run: RunInfo | None = None
        self.images: list[CheckedImage] = []
        self.summary: RunSummary | None = None
        self._fails = fails
        self._error = error or OSError(28, os.strerror(28))

    def begin(self, run: RunInfo) -> None:
        self.run = run
        self._write("begin")

    def add(self, image: CheckedImage) -> None:
        self.images.append(image)
        self._write("add")

    def finish(self, summary: RunSummary) -> None:
        self._write("finish")
        self.summary = summary

    def _write(self, call: str) -> None:
        if call == self._fails:
            raise self._error


def reported(*paths: str, report: Recorded, **options: object) -> Checked:
    return check(*paths, reports=Reports({"recorded": report}), **options)  # type: ignore[arg-type]


def failing_from(number: int, error: BaseException) -> Callable[[AssessmentRequest], float]:
    calls = count()

    def answer(_: AssessmentRequest) -> float:
        if next(calls) >= number:
            raise error
        return 0.0

    return answer


def test_a_report_gets_paths_from_the_root_with_status_and_policies(project: Path) -> None:
    pictures(project, "art/good.png")
    pictures(project, "art/bad.png", score=255)
    (project / "art" / "broken.png").write_bytes(b"\x89PNG")
    report = Recorded()
    assert ExitCode.BLOCKED == reported("art", report=report).code
    assert [
        ("art/bad.png", ImageStatus.FAILED, ("house",)),
        ("art/broken.png", ImageStatus.UNJUDGED, ("house",)),
        ("art/good.png", ImageStatus.PASSED, ("house",)),
    ] == [(image.path, image.status, image.policies) for image in report.images]
    assert report.run is not None
    assert report.summary is not None
    assert (3, project, "house.yaml") == (report.run.images, report.run.root, report.run.policies[0].file)
    assert {"passed": 1, "flagged": 0, "failed": 1, "unjudged": 1, "accepted": 0} == report.summary.counts
    assert (1, None, ()) == (report.summary.exit_code, report.summary.stopped, report.summary.unchecked)


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_the_order_is_the_same_whatever_the_workers_and_the_time_each_image_takes(
    project: Path, workers: int
) -> None:
    names = [f"{number:03}.png" for number in range(60)]
    for number, name in enumerate(names):
        pictures(project, name, score=number)

    def slow(request: AssessmentRequest) -> float:
        return float(request.frame.getpixel((0, 0))[0]) / 255  # type: ignore[index]

    class Jittery(FakeBackend):
        def assess(self, requests):  # type: ignore[no-untyped-def]
            time.sleep(0.001 * (hash(requests[0].frame.tobytes()) % 7))
            return super().assess(requests)

    found = check(workers=workers, backend=Jittery(slow, preferred_batch=1))
    assert names == found.sources
    assert [number / 255 for number in range(60)] == [verdict["score"] for verdict in found.verdicts]


def test_patterns_are_expanded_here(project: Path) -> None:
    pictures(project, "a.png", "art/b.png", "art/x/c.png", "art/x/d.webp", ".hidden/e.png")
    assert ["art/b.png", "art/x/c.png"] == check("art/**/*.png").sources
    assert ["a.png"] == check("*.png").sources
    assert ["art/b.png", "art/x/c.png", "art/x/d.webp"] == check("art/*").sources
    assert ["a.png", "art/b.png"] == check("[a-b].png", "art/?.png").sources
    assert ["a.png", "art/b.png"] == check("a.png", "a*.png", "art/b.png", "a.png").sources


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(project: Path) -> None:
    pictures(project, "a[1].png", "a1.png")
    assert ["a[1].png"] == check("a[1].png").sources


def test_a_pattern_with_an_ending_of_its_own_finds_files_that_a_folder_would_pass_over(project: Path) -> None:
    pictures(project, "in/a.upload", "in/b.txt")
    assert ["in/a.upload"] == check("in/*.upload").sources


@pytest.mark.parametrize("path", ["nothing/*.png", "*.gif", "empty"])
def test_an_empty_match_is_a_mistake_unless_it_is_allowed(project: Path, path: str) -> None:
    (project / "empty").mkdir()
    pictures(project, "a.png")
    with pytest.raises(UsageError, match=r"no image (found|matches)"):
        check(path)
    assert ExitCode.OK == check(path, allow_empty=True).code


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
    assert "stopped" not in check(max_failures=1).err


@pytest.mark.parametrize("fail_on", FailOn)
def test_a_run_out_of_time_is_never_a_success(project: Path, fail_on: FailOn) -> None:
    pictures(project, *(f"{number}.png" for number in range(9)))
    release = threading.Event()
    calls = count()

    def stuck(_: AssessmentRequest) -> float:
        if next(calls) >= 2:
            release.wait(60)
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


def test_until_hands_on_items_errors_and_the_end() -> None:
    later = time.monotonic() + 60
    assert list(range(100)) == list(until(later, iter(range(100))))
    with pytest.raises(OutOfTime):
        list(until(time.monotonic() - 1, iter(range(3))))

    def broken():  # type: ignore[no-untyped-def]
        yield 1
        raise ConfigurationError("the key is wrong")

    items = until(later, broken())
    assert 1 == next(items)
    with pytest.raises(ConfigurationError, match="the key is wrong"):
        next(items)


def test_until_closes_what_it_reads_when_its_reader_leaves() -> None:
    closed = threading.Event()

    def endless():  # type: ignore[no-untyped-def]
        try:
            yield from count()
        finally:
            closed.set()

    items = until(time.monotonic() + 60, endless())
    assert 0 == next(items)
    items.close()  # type: ignore[attr-defined]
    assert closed.wait(30)


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


@pytest.mark.parametrize("call", ["begin", "add", "finish"])
def test_a_report_on_a_full_disk_is_one_line_and_everything_else_is_done(
    project: Path, call: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "a.png", "b.png", "c.png")
    full, fine = Recorded(fails=call), Recorded()
    found = check(reports=Reports({"junit=x": full, "sarif=y": fine}))
    assert (ExitCode.USAGE, 3) == (found.code, len(found.verdicts))
    assert ["error: the report junit=x cannot be written: No space left on device"] == (
        capsys.readouterr().err.splitlines()
    )
    assert 3 == len(fine.images)
    assert fine.summary is not None


@pytest.mark.parametrize("call", ["begin", "add", "finish"])
@pytest.mark.parametrize("error", [KeyError("rule"), TypeError("None"), BrokenPipeError(32, "Broken pipe")])
def test_a_bug_in_one_report_stops_neither_the_run_nor_the_others(
    project: Path, call: str, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "a.png")
    pictures(project, "b.png", score=255)
    fine = Recorded()
    found = check(reports=Reports({"junit=x": Recorded(call, error), "sarif=y": fine}))
    assert (ExitCode.USAGE, 2, 2) == (found.code, len(found.verdicts), len(fine.images))
    assert fine.summary is not None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the report junit=x cannot be written: ")
    assert isinstance(error, OSError) is ("this is a bug in policyguard" not in line)


def test_the_second_run_asks_the_model_nothing_and_says_so(project: Path) -> None:
    pictures(project, *(f"{number}.png" for number in range(8)))
    pictures(project, "bad.png", score=255)
    first, second = (FakeBackend(red, preferred_batch=1) for _ in range(2))
    cold = check(cache="out/scores.sqlite", workers=4, backend=first)
    warm = check(cache="out/scores.sqlite", workers=4, backend=second)
    assert (2, 0) == (first.calls, second.calls), "equal images are asked about once"
    assert cold.code == warm.code == ExitCode.BLOCKED
    assert [verdict["action"] for verdict in cold.verdicts] == [
        verdict["action"] for verdict in warm.verdicts
    ]
    assert all(verdict["evidence"]["cached"] for verdict in warm.verdicts)
    assert "9 known from the cache" in warm.err


def test_workers_judge_at_once(project: Path) -> None:
    pictures(project, *(f"{number}.png" for number in range(4)))
    met = threading.Barrier(4, timeout=60)  # passed by four together, or by none

    class Together(FakeBackend):
        def assess(self, requests):  # type: ignore[no-untyped-def]
            met.wait()
            return super().assess(requests)

    assert ExitCode.OK == check(workers=4, backend=Together(0.1, preferred_batch=1)).code


def test_reasons_do_not_repeat_the_name_of_their_image(project: Path) -> None:
    (project / "broken.png").write_bytes(b"nonsense")
    (verdict,) = check().verdicts
    assert not verdict["reason"].startswith("broken.png")
    assert [verdict["reason"]] == verdict["evidence"]["unexplained"]


def test_output_that_cannot_be_written_does_not_stop_the_reports(project: Path) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, os.strerror(28))

    pictures(project, "a.png", "b.png")
    report = Recorded()
    assert ExitCode.USAGE == reported(report=report, stdout=Full()).code
    assert 2 == len(report.images)
    with pytest.raises(OSError, match="No space"):
        check(stdout=Full())


def test_a_broken_image_among_thousands_is_one_image_s_fault(project: Path) -> None:
    pictures(project, *(f"{number:04}.png" for number in range(2000)))
    (project / "0777.png").write_bytes(b"nonsense")
    report = Recorded()
    found = reported(report=report, workers=4)
    assert (ExitCode.UNJUDGED, 2000) == (found.code, len(found.verdicts))
    assert ["0777.png"] == [image.path for image in report.images if image.status is ImageStatus.UNJUDGED]


def test_a_log_gets_plain_lines_while_a_long_run_goes_on() -> None:
    from policyguard.cli.progress import log_lines

    log = io.StringIO()
    tell = log_lines(log, 3, every=0.0)
    for done in (1, 2, 3):
        tell(done, "0 blocked, 0 not judged")
    assert ["1 of 3 images: 0 blocked, 0 not judged", "2 of 3 images: 0 blocked, 0 not judged"] == (
        log.getvalue().splitlines()
    )


def test_a_long_run_prints_lines_in_a_terminal_too() -> None:
    from cli.support import Terminal
    from policyguard.cli.options import Format
    from policyguard.cli.output import open_writer

    stream = Terminal()
    open_writer(Format.TEXT, stream, [], count=100_000)
    assert "Lines" in type(open_writer(Format.TEXT, stream, [], count=100_000)).__name__


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
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert ExitCode.INTERRUPTED == process.returncode
    assert [json.loads(line) for line in (first + out).splitlines()]
    assert b"stopped after" in err
    assert b"not checked" in err


def test_the_exit_code_of_an_empty_command_is_2(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ExitCode.USAGE == main(["check"])
    assert "no image found" in capsys.readouterr().err
