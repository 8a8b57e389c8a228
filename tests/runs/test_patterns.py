"""Patterns mean what they mean in .gitignore, and one that is invalid is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyguard.errors import UsageError
from policyguard.runs.exits import ExitCode
from runs.support import POLICY, check_project, pictures, posix, write


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
    assert ExitCode.BLOCKED == check_project().code
    assert [name] == check_project("**/*.png").sources


@posix
def test_a_line_end_in_a_name_hides_no_image_from_a_pattern(project: Path) -> None:
    pictures(project, "art/x\ny/bad.png", score=255)
    assert ["art/x\ny/bad.png"] == check_project("art/**/*.png").sources


def test_patterns_mean_what_they_mean_in_gitignore(project: Path) -> None:
    pictures(project, "a.png", "draft/b.png", "art/draft/c.png", "art/keep.png", "art/skip.png", "top.png")
    (project / ".policyguardignore").write_text("# drafts\ndraft/\nart/*\n!art/keep.png\n/top.png\n")
    found = check_project()
    assert ["a.png", "art/keep.png"] == found.sources
    assert "4 images (top.png, art/skip.png, art/draft/c.png, draft/b.png) ignored by" in found.err


def test_a_pattern_that_cannot_be_read_is_named_with_its_line(project: Path) -> None:
    pictures(project, "a.png")
    (project / ".policyguardignore").write_text("ok\n!\n")
    with pytest.raises(UsageError, match=r"\.policyguardignore:2: '!' is not a valid"):
        check_project()


def test_an_ignore_file_that_cannot_be_read_stops_the_run(project: Path) -> None:
    pictures(project, "a.png")
    (project / ".policyguardignore").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"\.policyguardignore cannot be read"):
        check_project()
