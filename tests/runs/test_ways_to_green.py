"""Ways to a green build with an image that is bad or was not looked at, and what stands in each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runs.support import POLICY, check, git, pictures, write
from policyguard.cli import main
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode, FailOn
from policyguard.runs.git import changed_since

posix = pytest.mark.skipif(os.name == "nt", reason="names and files as on POSIX")


@pytest.fixture
def repository(project: Path) -> Path:
    """A project with one good image on main, then a branch."""
    git(project, "init", "-q", "-b", "main")
    pictures(project, "good.png")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "first")
    git(project, "checkout", "-qb", "work")
    return project


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-qm", "more")


@posix
@pytest.mark.parametrize("name", ["ads/x\ny/bad.png", "ads/bad\n.png", "ads/\n/bad.png"])
@pytest.mark.parametrize("pattern", ["ads/", "ads/**/*.png", "*.png", "ads/**"])
def test_a_line_end_in_a_name_does_not_take_an_image_out_of_its_policy(
    project: Path, name: str, pattern: str
) -> None:
    strict = POLICY.format(id="strict") + "defaults: {threshold: 0.1}\n"
    entry = f'policy = "./house.yaml"\n[[policies]]\npaths = "{pattern}"\npolicy = "./strict.yaml"\n'
    write(project, policyguard_dot_toml=entry, strict_dot_yaml=strict)
    pictures(project, name, score=60)
    assert ExitCode.BLOCKED == check().code
    assert [name] == check("**/*.png").sources


@posix
def test_a_line_end_in_a_name_hides_no_image_from_a_pattern(project: Path) -> None:
    pictures(project, "art/x\ny/bad.png", score=255)
    assert ["art/x\ny/bad.png"] == check("art/**/*.png").sources


def test_an_allowed_empty_match_does_not_end_the_search(project: Path) -> None:
    pictures(project, "art/bad.png", score=255)
    (project / "empty").mkdir()
    found = check("empty", "nothing/*.png", "art", allow_empty=True)
    assert (ExitCode.BLOCKED, ["art/bad.png"]) == (found.code, found.sources)


def test_allowing_nothing_allows_no_mistake(project: Path) -> None:
    with pytest.raises(UsageError, match="give it once"):
        check("-", "-", allow_empty=True)


def test_a_name_that_no_file_can_have_is_one_image_s_fault(project: Path) -> None:
    pictures(project, "bad.png", score=255)
    found = check("x" * 5000 + ".png", "bad.png")
    assert (ExitCode.BLOCKED, 2) == (found.code, len(found.verdicts))


@posix
def test_a_pipe_named_like_an_image_blocks_nothing_but_itself(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "good.png")
    os.mkfifo(project / "pipe.png")
    found = check()
    assert (ExitCode.UNJUDGED, ["good.png", "pipe.png"]) == (found.code, found.sources)
    write(project, **{"_dot_policyguard-baseline_dot_jsonl": ""})
    assert ExitCode.OK == main(["baseline", "prune"])


def test_a_policy_whose_pattern_matches_nothing_is_no_success(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = 'policy = "./house.yaml"\n[[policies]]\npaths = "avatar/"\npolicy = "./house.yaml"\n'
    write(project, policyguard_dot_toml=entry)
    pictures(project, "avatars/a.png")
    found = check()
    assert (ExitCode.USAGE, ["avatars/a.png"]) == (found.code, found.sources)
    assert "no image matches policyguard.toml: policies[0].paths (avatar/)" in capsys.readouterr().err
    assert ExitCode.OK == check(allow_empty=True).code
    assert ExitCode.OK == check("avatars").code, "a part of the project says nothing about its patterns"


def test_images_that_no_policy_is_for_are_said_and_are_not_enough(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = 'unmatched = "ignore"\n[[policies]]\npaths = "ads/"\npolicy = "./house.yaml"\n'
    write(project, policyguard_dot_toml=entry)
    pictures(project, "bad.png", score=255)
    assert ExitCode.USAGE == check("bad.png").code
    assert "nothing is left to check" in capsys.readouterr().err
    assert ExitCode.OK == check("bad.png", allow_empty=True).code
    assert "no policy applies to 1 image (bad.png)" in check("bad.png", allow_empty=True).err


def test_two_policies_with_one_id_are_no_success(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(project, other_dot_yaml=POLICY.format(id="house") + "defaults: {threshold: 0.9}\n")
    pictures(project, "a.png")
    assert ExitCode.USAGE == check(policy=("house.yaml", "other.yaml")).code
    assert "'house.yaml' and 'other.yaml' are two policies with the same id: house" in capsys.readouterr().err
    assert ExitCode.OK == check(policy=("house.yaml", "./house.yaml")).code


def test_a_run_that_cannot_fail_says_so(project: Path) -> None:
    pictures(project, "bad.png", score=255)
    found = check(fail_on=FailOn.NEVER)
    assert ExitCode.OK == found.code
    assert "do not fail this run: --fail-on never" in found.err


def test_a_cache_that_is_checked_in_is_refused(repository: Path) -> None:
    found = check(cache=".cache/scores.sqlite")
    assert ExitCode.OK == found.code
    git(repository, "add", "-f", ".cache/scores.sqlite")
    with pytest.raises(UsageError, match="anyone who can commit to it decides what passes"):
        check(cache=".cache/scores.sqlite")


def test_a_cache_needs_no_git(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    pictures(project, "good.png")
    assert ExitCode.OK == check(cache="scores.sqlite").code


def test_what_decides_and_changed_is_named(repository: Path) -> None:
    write(
        repository,
        _dot_policyguardignore="bad.png\n",
        house_dot_yaml=POLICY.format(id="house") + "defaults: {threshold: 1}\n",
    )
    pictures(repository, "bad.png", score=255)
    commit(repository)
    found = check(changed_since="main")
    assert ExitCode.OK == found.code
    assert "what decides which images pass changed too: .policyguardignore, house.yaml" in found.err


def test_ignoring_everything_is_no_success_where_only_changes_are_checked_either(repository: Path) -> None:
    write(repository, _dot_policyguardignore="*\n")
    pictures(repository, "bad.png", score=255)
    with pytest.raises(UsageError, match="every image is ignored"):
        check(changed_since="main")


def test_a_ref_that_head_does_not_differ_from_is_said(repository: Path) -> None:
    assert "nothing differs from main" in check(changed_since="main").err
    pictures(repository, "new.png")
    assert "nothing differs" not in check(changed_since="main").err


def test_images_of_a_submodule_that_moved_on_have_changed(repository: Path, tmp_path: Path) -> None:
    other = tmp_path.parent / f"{tmp_path.name}-art"
    other.mkdir()
    git(other, "init", "-q", "-b", "main")
    pictures(other, "old.png")
    commit(other)
    git(repository, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(other), "art")
    commit(repository)
    git(repository, "branch", "-f", "before")
    assert [] == check(changed_since="before").sources
    pictures(repository / "art", "bad.png", score=255)
    commit(repository / "art")
    commit(repository)
    assert "bad.png" in {Path(source).name for source in check(changed_since="before").sources}


def test_images_of_a_repository_that_git_does_not_know_have_changed(repository: Path) -> None:
    pictures(repository, "inner/bad.png", score=255)
    git(repository / "inner", "init", "-q")
    commit(repository / "inner")
    assert ["inner/bad.png"] == check(changed_since="main").sources


def test_git_is_asked_about_this_folder_whatever_a_hook_has_set(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(repository, "bad.png", score=255)
    commit(repository)
    monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(repository / "nothing"))
    assert {str(repository / "bad.png")} == changed_since("main", repository)


def test_an_image_that_went_and_came_back_otherwise_has_changed(repository: Path) -> None:
    git(repository, "rm", "-q", "good.png")
    git(repository, "commit", "-qm", "gone")
    pictures(repository, "good.png", score=255)
    commit(repository)
    assert ExitCode.BLOCKED == check(changed_since="main").code


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
    assert ["bad.png"] == check(changed_since="main").sources


@posix
def test_a_link_to_another_image_has_changed(repository: Path) -> None:
    pictures(repository, "bad.png", score=255)
    (repository / "link.png").symlink_to("good.png")
    commit(repository)
    git(repository, "branch", "-f", "before")
    (repository / "link.png").unlink()
    (repository / "link.png").symlink_to("bad.png")
    commit(repository)
    assert "link.png" in check(changed_since="before").sources


@posix
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_nobody_to_tell_does_not_change_the_exit_code(project: Path, closed: str) -> None:
    (project / "broken.png").write_bytes(b"nonsense")
    command = f"'{sys.executable}' -m policyguard check broken.png --policy pictosafe/l3 {closed}"
    assert ExitCode.UNJUDGED == subprocess.run(command, shell=True, check=False).returncode
