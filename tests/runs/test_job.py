"""What a run is built from: no cache that is checked in, no password in a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.runs.job import build_job
from policyguard.runs.project import find_project
from policyguard.runs.selection import select_images
from policyguard.runs.settings import Flags, merge_settings
from policyguard.testing import FakeBackend
from runs.support import check_project, git, pictures


def test_a_cache_that_is_checked_in_is_refused(repository: Path) -> None:
    found = check_project(cache=".cache/scores.sqlite")
    assert ExitCode.OK == found.code
    git(repository, "add", "-f", ".cache/scores.sqlite")
    with pytest.raises(UsageError, match="anyone who can commit to it decides what passes"):
        check_project(cache=".cache/scores.sqlite")


def test_a_cache_needs_no_git(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    pictures(project, "good.png")
    assert ExitCode.OK == check_project(cache="scores.sqlite").code


def test_a_password_in_the_command_reaches_no_report(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(project, "a.png")
    monkeypatch.setattr("sys.argv", ["policyguard", "check", "--base-url", "https://me:pw@gpu/v1"])
    settings = merge_settings(Flags(), find_project())
    job = build_job(settings, select_images([], settings), backend=FakeBackend())
    assert ("policyguard", "check", "--base-url", "https://***@gpu/v1") == job.info.command
