"""From paths to images: nothing that was named goes unchecked, and nothing is skipped silently."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from cli.support import Terminal, picture
from policyguard.cli import main
from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from policyguard.runs.search import collect, collect_existing
from runs.support import (
    check_project,
    pictures,
    posix,
    write,
)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def names(folder: Path, *paths: str) -> list[str]:
    sources, _ = collect(paths or [str(folder)])
    return [os.path.relpath(source.name, folder) for source in sources]


def test_patterns_are_expanded_here(project: Path) -> None:
    pictures(project, "a.png", "art/b.png", "art/x/c.png", "art/x/d.webp", ".hidden/e.png")
    assert ["art/b.png", "art/x/c.png"] == check_project("art/**/*.png").sources
    assert ["a.png"] == check_project("*.png").sources
    assert ["art/b.png", "art/x/c.png", "art/x/d.webp"] == check_project("art/*").sources
    assert ["a.png", "art/b.png"] == check_project("[a-b].png", "art/?.png").sources
    assert ["a.png", "art/b.png"] == check_project("a.png", "a*.png", "art/b.png", "a.png").sources


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(project: Path) -> None:
    pictures(project, "a[1].png", "a1.png")
    assert ["a[1].png"] == check_project("a[1].png").sources


def test_a_pattern_with_an_ending_of_its_own_finds_files_that_a_folder_would_pass_over(project: Path) -> None:
    pictures(project, "in/a.upload", "in/b.txt")
    assert ["in/a.upload"] == check_project("in/*.upload").sources


@pytest.mark.parametrize("path", ["nothing/*.png", "*.gif", "empty"])
def test_an_empty_match_is_a_mistake_unless_it_is_allowed(project: Path, path: str) -> None:
    (project / "empty").mkdir()
    pictures(project, "a.png")
    with pytest.raises(UsageError, match=r"no image (found|matches)"):
        check_project(path)
    assert ExitCode.OK == check_project(path, allow_empty=True).code


def test_an_allowed_empty_match_does_not_end_the_search(project: Path) -> None:
    pictures(project, "art/bad.png", score=255)
    (project / "empty").mkdir()
    found = check_project("empty", "nothing/*.png", "art", allow_empty=True)
    assert (ExitCode.BLOCKED, ["art/bad.png"]) == (found.code, found.sources)


def test_allowing_nothing_allows_no_mistake(project: Path) -> None:
    with pytest.raises(UsageError, match="give it once"):
        check_project("-", "-", allow_empty=True)


def test_a_name_that_no_file_can_have_is_one_image_s_fault(project: Path) -> None:
    pictures(project, "bad.png", score=255)
    found = check_project("x" * 5000 + ".png", "bad.png")
    assert (ExitCode.BLOCKED, 2) == (found.code, len(found.verdicts))


@posix
def test_a_pipe_named_like_an_image_blocks_nothing_but_itself(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(project, "good.png")
    os.mkfifo(project / "pipe.png")
    found = check_project()
    assert (ExitCode.UNJUDGED, ["good.png", "pipe.png"]) == (found.code, found.sources)
    write(project, **{"_dot_policyguard-baseline_dot_jsonl": ""})
    assert ExitCode.OK == main(["baseline", "prune"])


def test_folders_are_searched_deeply_and_in_one_order(tmp_path: Path) -> None:
    fill(tmp_path, "b.png", "a.JPG", "z/b.webp", "m/n/c.GIF", "m/a.jpeg")
    assert ["a.JPG", "b.png", "m/a.jpeg", "m/n/c.GIF", "z/b.webp"] == names(tmp_path)


def test_images_that_cannot_be_decoded_are_not_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "a.heic", "b.svg", "c.tiff", "d.AVIF")
    assert ["a.heic", "b.svg", "c.tiff", "d.AVIF"] == names(tmp_path)


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "a.png",
        "notes.txt",
        "more.txt",
        "LICENSE",
        ".git/x.png",
        ".cache/y.png",
        "seen/.hidden.png",
    )
    (tmp_path / "link").symlink_to(tmp_path / ".git", target_is_directory=True)
    sources, skipped = collect([str(tmp_path)])
    assert ["a.png", ".hidden.png"] == [Path(source.name).name for source in sources]
    assert "3 files not named like an image (.txt, no ending)" in str(skipped)
    assert "2 hidden folders" in str(skipped)
    assert "1 link to folders" in str(skipped)


def test_named_files_are_checked_whatever_they_are_called(tmp_path: Path) -> None:
    fill(tmp_path, "upload", "notes.txt")
    assert ["upload", "notes.txt"] == names(tmp_path, str(tmp_path / "upload"), str(tmp_path / "notes.txt"))


def test_a_mistyped_folder_is_guessed_and_a_photograph_that_is_gone_is_not(project: Path) -> None:
    for name in ("photos", "art/drawings"):
        (project / name).mkdir(parents=True, exist_ok=True)
    (project / "photos" / "img-501.jpg").write_bytes(b"")
    for path, meant in {
        "photo": "; did you mean photos?",
        "phtos/": "; did you mean photos?",
        "art/drawing": f"; did you mean {Path('art', 'drawings')}?",
        "photos/img-500.jpg": "",
        "nothere/photo": "",
        "elsewhere": "",
    }.items():
        (source,), skipped = collect([path])
        assert (source.name, skipped.meant) == (path, meant)
    with pytest.raises(UsageError, match="did you mean photos"):
        collect_existing(["photo"])


def test_a_hidden_folder_that_is_named_is_searched(tmp_path: Path) -> None:
    fill(tmp_path, ".hidden/a.png")
    assert [".hidden/a.png"] == names(tmp_path, str(tmp_path / ".hidden"))


def test_a_folder_without_images_is_a_mistake_in_the_command(tmp_path: Path) -> None:
    fill(tmp_path, "empty/notes.txt", "full/a.png")
    with pytest.raises(UsageError, match=r"no image found in folder .*empty"):
        collect([str(tmp_path / "full"), str(tmp_path / "empty")])


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not stop this user")
def test_a_folder_that_cannot_be_listed_is_reported_as_an_image_that_cannot_be_judged(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "locked/b.png")
    (tmp_path / "locked").chmod(0)
    try:
        assert ["a.png", "locked"] == names(tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o755)


def test_a_dash_is_one_image_on_standard_input() -> None:
    (source,), _ = collect(["-"], io.BytesIO(picture()))
    assert ("<stdin>", picture()) == (source.name, source.image)


def test_standard_input_is_read_no_further_than_an_image_may_be_long() -> None:
    endless = io.BytesIO(bytes(30 * 1024 * 1024))
    (source,), _ = collect(["-"], endless)
    assert isinstance(source.image, bytes)
    assert 20 * 1024 * 1024 + 1 == len(source.image)


def test_a_dash_needs_something_piped_in() -> None:
    with pytest.raises(UsageError, match="nothing is piped in"):
        collect(["-"], Terminal())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="nothing is piped in"):
        collect(["-"], None)


def test_a_dash_is_given_once() -> None:
    with pytest.raises(UsageError, match="give it once"):
        collect(["-", "-"], io.BytesIO(picture()))


def test_a_url_reaches_the_guard_as_one() -> None:
    (source,), _ = collect(["https://example.org//a.png"])
    assert "https://example.org//a.png" == source.image
