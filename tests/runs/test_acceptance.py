"""Entries of the baseline that have expired or accept nothing any more are named."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
import pytest
from runs.support import EXAMPLES, POLICY, TODAY, accept, check_project, entry, git, pictures
from cli.support import picture
from policyguard.assessment import Assessment, Failure, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.cli import main
from policyguard.runs.baseline import BASELINE_FILE, BaselineEntry, read_baseline, write_baseline
from policyguard.runs.exits import ExitCode
from policyguard.testing import FakeBackend




def test_expired_entries_are_named(bad: Path) -> None:
    accept(entry(until=TODAY - timedelta(days=1)))
    assert f"bad.png: was accepted until {TODAY - timedelta(days=1)} by Ann" in check_project().err


def test_stale_entries_are_said_when_the_whole_project_was_checked(bad: Path) -> None:
    accept(entry(), entry(path="gone.png", sha256="0" * 64))
    assert "1 baseline entry accepts nothing any more (gone.png)" in check_project().err
    assert "nothing any more" not in check_project("bad.png").err
    accept(entry(path="good.png", sha256=sha256(picture(0)).hexdigest()))
    assert "(good.png)" in check_project("good.png").err

