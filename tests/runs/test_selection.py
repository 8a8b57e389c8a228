"""Which images are left out: ignored and unchanged ones, counted and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from runs.support import POLICY, check_project, commit, pictures, write


def test_what_decides_and_changed_is_named(repository: Path) -> None:
    write(
        repository,
        _dot_policyguardignore="bad.png\n",
        house_dot_yaml=POLICY.format(id="house") + "defaults: {threshold: 1}\n",
    )
    pictures(repository, "bad.png", score=255)
    commit(repository)
    found = check_project(changed_since="main")
    assert ExitCode.OK == found.code
    assert "what decides which images pass changed too: .policyguardignore, house.yaml" in found.err


def test_ignoring_everything_is_no_success_where_only_changes_are_checked_either(repository: Path) -> None:
    write(repository, _dot_policyguardignore="*\n")
    pictures(repository, "bad.png", score=255)
    with pytest.raises(UsageError, match="every image is ignored"):
        check_project(changed_since="main")


def test_a_ref_that_head_does_not_differ_from_is_said(repository: Path) -> None:
    assert "nothing differs from main" in check_project(changed_since="main").err
    pictures(repository, "new.png")
    assert "nothing differs" not in check_project(changed_since="main").err


def test_it_narrows_the_paths_that_are_given(repository: Path) -> None:
    pictures(repository, "a/x.png", "b/y.png")
    assert [str(Path("a/x.png"))] == check_project("a", changed_since="main").sources


def test_from_a_sub_folder_the_whole_project_counts(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(repository, "a/x.png", "b/y.png")
    monkeypatch.chdir(repository / "a")
    assert ["../a/x.png", "../b/y.png"] == check_project(changed_since="main").sources


def test_nothing_changed_is_a_success_that_says_so(repository: Path) -> None:
    found = check_project(changed_since="main")
    assert ExitCode.OK == found.code
    assert "0 of 5 images changed since main" in found.err


def test_exclude_in_the_project_file_adds_to_it(project: Path) -> None:
    pictures(project, "a.png", "b.png", "c.png")
    (project / ".policyguardignore").write_text("b.png\n")
    (project / "policyguard.toml").write_text('policy = "./house.yaml"\nexclude = ["c.*"]\n')
    assert ["a.png"] == check_project().sources


def test_a_file_that_is_named_outright_is_ignored_too_as_pre_commit_needs(project: Path) -> None:
    pictures(project, "a.png", "b.png")
    (project / ".policyguardignore").write_text("b.png\n")
    assert ["a.png"] == check_project("a.png", "b.png").sources


def test_from_a_sub_folder_patterns_still_start_at_the_root(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".git").mkdir()
    pictures(project, "sub/a.png", "sub/b.png")
    (project / ".policyguardignore").write_text("/sub/b.png\n")
    monkeypatch.chdir(project / "sub")
    assert ["a.png"] == check_project("a.png", "b.png").sources


def test_a_run_that_ignores_everything_is_a_mistake_unless_it_is_allowed(project: Path) -> None:
    pictures(project, "a.png")
    (project / ".policyguardignore").write_text("*\n")
    with pytest.raises(UsageError, match="every image is ignored"):
        check_project()
    assert ExitCode.OK == check_project(allow_empty=True).code


def test_an_image_outside_of_the_project_is_not_ignored(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    pictures(outside, "a.png")
    (project / ".policyguardignore").write_text("*\n")
    assert [str(outside / "a.png")] == check_project(str(outside / "a.png")).sources
