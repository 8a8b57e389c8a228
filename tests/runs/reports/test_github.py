"""Workflow commands and the job summary: limits kept, and no name or answer that is a command."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyguard.runs.run import ImageStatus
from runs.reports.support import every_kind, finding, image, logged, many, stopped


def commands(lines: list[str]) -> list[tuple[str, dict[str, str], str]]:
    """Read lines as GitHub's runner does: ``::name key=value,...::message`` at the start of a line.

    An older form, ``##[name]``, is found anywhere in a line that is not a command of the new form.
    """
    found = []
    for line in lines:
        match = re.match(r"\s*::([^ :]+)(?: (.*?))?::(.*)$", line, re.DOTALL)
        if match is None:
            assert "##[" not in line
            continue
        name, given_, message = match.groups()
        values = dict(part.split("=", 1) for part in (given_ or "").split(",") if part)
        found.append((name, {key: _back(value) for key, value in values.items()}, _back(message)))
    return found


def _back(text: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_what_fails_is_an_error_what_is_flagged_a_warning_and_the_numbers_a_notice() -> None:
    found = commands(logged(every_kind()))
    assert [
        ("error", "art/gun.png"),
        ("error", "art/two.png"),
        ("error", "ads/smoke.png"),
        ("error", "art/nameless.png"),
        ("error", "art/broken.png"),
        ("warning", "art/pills.png"),
        ("warning", "art/let-through.png"),
        ("notice", None),
    ] == [(kind, values.get("file")) for kind, values, _ in found]
    assert "art/gun.png: Weapons (0.91) A gun lies on the table." == found[0][2]


def test_a_run_that_did_not_get_to_its_end_says_so_first() -> None:
    found = commands(logged([image("a.png")], **stopped()))
    assert ["error", "error", "notice"] == [kind for kind, _, _ in found]
    assert "1 image was not checked, first art/late.png: the run was out of time" == found[1][2]


def test_no_more_than_ten_of_a_kind_the_most_severe_and_the_rest_counted() -> None:
    failed = [image(f"{n}.png", ImageStatus.FAILED, finding(score=0.5 + n / 100)) for n in range(30)]
    found = commands(logged([*failed, *many(200)]))
    kinds = [kind for kind, _, _ in found]
    assert (10, 10, 1) == (kinds.count("error"), kinds.count("warning"), kinds.count("notice"))
    assert found[-1][2].endswith("150 of them not annotated")


def test_the_highest_scores_are_the_ones_shown() -> None:
    failed = [image(f"{n}.png", ImageStatus.FAILED, finding(score=0.5 + n / 100)) for n in range(30)]
    found = commands(logged(failed))
    assert [f"{n}.png" for n in range(29, 19, -1)] == [values["file"] for _, values, _ in found[:10]]


@given(name=st.text(min_size=1), said=st.text())
def test_no_name_and_no_answer_adds_a_command_or_a_property(name: str, said: str) -> None:
    bad = image(name, ImageStatus.FAILED, finding(title=said or "x"), rationale=said, reason=said)
    lines = logged([bad])
    found = commands(lines)
    assert ["error", "notice"] == [kind for kind, _, _ in found]
    assert {"file", "title"} == set(found[0][1])
    assert ["", 2] == [lines[0], len(lines) - 1]
    assert all(line.isprintable() or " " not in line for line in lines)


@pytest.mark.parametrize(
    "name",
    ["a\n::add-mask::x", "a\r::stop-commands::t", "x,title=y::z", "::warning::w", "##[group]g", "%0A::x"],
)
def test_a_name_that_is_a_command_stays_a_name(name: str) -> None:
    found = commands(logged([image(name, ImageStatus.FAILED, finding())]))
    assert ["error", "notice"] == [kind for kind, _, _ in found]
    assert name.replace("\n", " ").replace("\r", " ") == found[0][1]["file"]


def test_the_job_summary_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    logged(every_kind())
    assert path.read_text().startswith("before\n## PolicyGuard: failed\n")


def test_the_job_summary_keeps_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.md"
    path.write_text("x" * 600_000)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    logged(many(20_000))
    assert 1_000_000 < path.stat().st_size <= 1024 * 1024


def test_a_job_summary_that_cannot_be_written_is_an_error_after_the_annotations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full")
    log = StringIO()
    with pytest.raises(OSError, match="No space"):
        logged(every_kind(), log=log)
    assert "::error file=art/gun.png" in log.getvalue()
