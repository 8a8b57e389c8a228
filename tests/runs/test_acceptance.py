"""Entries of the baseline that have expired or accept nothing any more are named."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from cli.support import picture
from runs.support import TODAY, accept, check_project, entry


def test_expired_entries_are_named(bad: Path) -> None:
    accept(entry(until=TODAY - timedelta(days=1)))
    assert f"bad.png: was accepted until {TODAY - timedelta(days=1)} by Ann" in check_project().err


def test_stale_entries_are_said_when_the_whole_project_was_checked(bad: Path) -> None:
    accept(entry(), entry(path="gone.png", sha256="0" * 64))
    assert "1 baseline entry accepts nothing any more (gone.png)" in check_project().err
    assert "nothing any more" not in check_project("bad.png").err
    accept(entry(path="good.png", sha256=sha256(picture(0)).hexdigest()))
    assert "(good.png)" in check_project("good.png").err
