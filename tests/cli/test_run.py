"""A run finishes whatever single images do to it, and its output can be relied on wherever it stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from cli.support import Run, house_rules, picture, red
from policyguard import Guard
from policyguard.assessment import Failure, FailureKind
from policyguard.backends.base import AssessmentRequest
from policyguard.cli.options import Format
from policyguard.errors import ModelLoadError
from policyguard.runs.exits import ExitCode, FailOn
from policyguard.runs.sources import Source
from policyguard.testing import FakeBackend

Check = Callable[..., Run]


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


def stop_after(number: int, error: BaseException) -> FakeBackend:
    calls = count()

    def answer(_: AssessmentRequest) -> float:
        if next(calls) >= number:
            raise error
        return 0.0

    return FakeBackend(answer, preferred_batch=1)


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
