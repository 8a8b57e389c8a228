"""--changed-since: what git says has changed, and an error with a way out where git cannot say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.runs.git import changed_since, user_name
from runs.support import check_project, commit, git, pictures, posix


def test_images_of_a_submodule_that_moved_on_have_changed(repository: Path, tmp_path: Path) -> None:
    other = tmp_path.parent / f"{tmp_path.name}-art"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    pictures(other, "old.png")
    commit(other)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "art")
    commit(repository)
    git(repository, "branch", "-f", "before")
    assert [] == check_project(changed_since="before").sources
    pictures(repository / "art", "bad.png", score=255)
    commit(repository / "art")
    commit(repository)
    assert "bad.png" in {Path(source).name for source in check_project(changed_since="before").sources}


def test_images_of_a_repository_that_git_does_not_know_have_changed(repository: Path) -> None:
    pictures(repository, "inner/bad.png", score=255)
    git(repository / "inner", "init", "-q")
    commit(repository / "inner")
    assert ["inner/bad.png"] == check_project(changed_since="main").sources


def test_git_is_asked_about_this_folder_whatever_a_hook_has_set(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(repository, "bad.png", score=255)
    commit(repository)
    monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository / "nothing"))
    assert {str(repository / "bad.png")} == changed_since("main", repository)


def test_an_image_that_went_and_came_back_otherwise_has_changed(repository: Path) -> None:
    git(repository, "rm", "-q", "same.png")
    git(repository, "commit", "-qm", "gone")
    pictures(repository, "same.png", score=255)
    commit(repository)
    assert ExitCode.BLOCKED == check_project(changed_since="main").code


def test_an_image_that_a_merge_brings_in_has_changed(repository: Path) -> None:
    git(repository, "checkout", "-qb", "side")
    pictures(repository, "bad.png", score=255)
    commit(repository)
    git(repository, "checkout", "-q", "main")
    pictures(repository, "theirs.png", score=255)
    commit(repository)
    git(repository, "checkout", "-q", "work")
    git(repository, "merge", "-q", "--no-edit", "main")
    git(repository, "merge", "-q", "--no-edit", "side")
    assert ["bad.png"] == check_project(changed_since="main").sources


@posix
def test_a_link_to_another_image_has_changed(repository: Path) -> None:
    pictures(repository, "bad.png", score=255)
    (repository / "link.png").symlink_to("same.png")
    commit(repository)
    git(repository, "branch", "-f", "before")
    (repository / "link.png").unlink()
    (repository / "link.png").symlink_to("bad.png")
    commit(repository)
    assert "link.png" in check_project(changed_since="before").sources


def test_only_what_the_branch_changed_is_checked(repository: Path) -> None:
    pictures(repository, "edited.png", score=200)
    pictures(repository, "added.png", "art/nëw \n.png", score=100)
    git(repository, "mv", "moved.png", "there.png")
    (repository / "gone.png").unlink()
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "second")
    found = check_project(changed_since="main")
    assert ["added.png", "edited.png", "there.png", "art/nëw \n.png"] == found.sources
    assert "4 of 6 images changed since main" in found.err


def test_what_main_changed_meanwhile_is_not_the_branch_s(repository: Path) -> None:
    pictures(repository, "mine.png")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "mine")
    git(repository, "checkout", "-q", "main")
    pictures(repository, "theirs.png", "same.png", score=250)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "theirs")
    git(repository, "checkout", "-q", "work")
    assert ["mine.png"] == check_project(changed_since="main").sources


def test_changes_that_are_not_committed_count_and_files_that_git_ignores_do_not(repository: Path) -> None:
    pictures(repository, "untracked.png", "build/ignored.png")
    (repository / ".gitignore").write_text("build/\n")
    pictures(repository, "staged.png", "same.png", score=9)
    git(repository, "add", "staged.png")
    assert ["same.png", "staged.png", "untracked.png"] == check_project(changed_since="main").sources


@pytest.mark.parametrize("ref", ["nowhere", "", "--output=pwned", "-O", "main:old.png", "main..work", "a\0b"])
def test_a_ref_is_a_commit_or_an_error_and_never_an_option(repository: Path, ref: str) -> None:
    before = sorted(repository.iterdir())
    with pytest.raises(UsageError):
        changed_since(ref, repository)
    assert before == sorted(repository.iterdir())


def test_a_shallow_clone_names_the_setting_that_mends_it(repository: Path, tmp_path: Path) -> None:
    pictures(repository, "later.png")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "second")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", "--depth", "1", "--branch", "work", repository.as_uri(), str(clone))
    with pytest.raises(UsageError, match="fetch-depth: 0"):
        changed_since("origin/main", clone)
    git(clone, "fetch", "-q", "--depth", "1", "origin", "main:main")
    with pytest.raises(UsageError, match=r"have no commit in common\n.*fetch-depth: 0"):
        changed_since("main", clone)


def test_branches_without_a_common_commit_are_said(repository: Path) -> None:
    git(repository, "checkout", "-q", "--orphan", "island")
    git(repository, "commit", "-qm", "alone", "--allow-empty")
    with pytest.raises(UsageError, match="have no commit in common"):
        changed_since("main", repository)


def test_outside_of_a_work_tree_it_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not in a git work tree"):
        changed_since("main", tmp_path)


def test_without_git_it_is_a_mistake(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    with pytest.raises(UsageError, match="git is needed"):
        changed_since("main", repository)
    assert user_name(repository) is None


def test_a_repository_s_own_settings_for_diffs_do_not_change_the_list(repository: Path) -> None:
    for name, value in {
        "diff.relative": "true",
        "diff.renames": "copies",
        "diff.noprefix": "true",
        "diff.external": "false",
        "core.quotePath": "true",
        "status.relativePaths": "true",
    }.items():
        git(repository, "config", name, value)
    pictures(repository, "ä.png", "a/b.png")
    (repository / "a").mkdir(exist_ok=True)
    git(repository, "mv", "moved.png", "a/moved.png")
    changed = changed_since("main", repository / "a")
    names = {os.path.relpath(path, repository) for path in changed}
    assert {"ä.png", "a/b.png", "a/moved.png"} == {name for name in names if name.endswith(".png")}


def test_a_submodule_that_changed_is_its_folder_and_deleted_files_are_left_out(
    repository: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    git(other, "commit", "-qm", "x", "--allow-empty")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "sub.png")
    (repository / "old.png").unlink()
    names = {os.path.relpath(path, repository) for path in changed_since("main", repository)}
    assert "sub.png" in names
    assert "old.png" not in names
