""".policyguardignore and `exclude`: what is left out is left out everywhere, counted and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs.support import check, pictures
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode


def test_patterns_mean_what_they_mean_in_gitignore(project: Path) -> None:
    pictures(project, "a.png", "draft/b.png", "art/draft/c.png", "art/keep.png", "art/skip.png", "top.png")
    (project / ".policyguardignore").write_text("# drafts\ndraft/\nart/*\n!art/keep.png\n/top.png\n")
    found = check()
    assert ["a.png", "art/keep.png"] == found.sources
    assert "4 images (top.png, art/skip.png, art/draft/c.png, draft/b.png) ignored by" in found.err


def test_exclude_in_the_project_file_adds_to_it(project: Path) -> None:
    pictures(project, "a.png", "b.png", "c.png")
    (project / ".policyguardignore").write_text("b.png\n")
    (project / "policyguard.toml").write_text('policy = "./house.yaml"\nexclude = ["c.*"]\n')
    assert ["a.png"] == check().sources


def test_a_file_that_is_named_outright_is_ignored_too_as_pre_commit_needs(project: Path) -> None:
    pictures(project, "a.png", "b.png")
    (project / ".policyguardignore").write_text("b.png\n")
    assert ["a.png"] == check("a.png", "b.png").sources


def test_from_a_sub_folder_patterns_still_start_at_the_root(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".git").mkdir()
    pictures(project, "sub/a.png", "sub/b.png")
    (project / ".policyguardignore").write_text("/sub/b.png\n")
    monkeypatch.chdir(project / "sub")
    assert ["a.png"] == check("a.png", "b.png").sources


def test_a_run_that_ignores_everything_is_a_mistake_unless_it_is_allowed(project: Path) -> None:
    pictures(project, "a.png")
    (project / ".policyguardignore").write_text("*\n")
    with pytest.raises(UsageError, match="every image is ignored"):
        check()
    assert ExitCode.OK == check(allow_empty=True).code


def test_a_pattern_that_cannot_be_read_is_named_with_its_line(project: Path) -> None:
    pictures(project, "a.png")
    (project / ".policyguardignore").write_text("ok\n!\n")
    with pytest.raises(UsageError, match=r"\.policyguardignore:2: '!' is not a valid"):
        check()


def test_an_ignore_file_that_cannot_be_read_stops_the_run(project: Path) -> None:
    pictures(project, "a.png")
    (project / ".policyguardignore").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"\.policyguardignore cannot be read"):
        check()


def test_an_image_outside_of_the_project_is_not_ignored(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    pictures(outside, "a.png")
    (project / ".policyguardignore").write_text("*\n")
    assert [str(outside / "a.png")] == check(str(outside / "a.png")).sources
