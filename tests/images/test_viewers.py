"""What Chromium and Firefox show of crafted files is what is judged, or the file is refused."""

from __future__ import annotations

import shutil

import pytest

from images.crafted import KINDS
from images.viewers import COMMANDS, compare

pytestmark = pytest.mark.viewers


@pytest.mark.parametrize("browser", COMMANDS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_crafted_file_is_accepted_that_a_browser_shows_otherwise(kind: str, browser: str) -> None:
    if not shutil.which(COMMANDS[browser][0]):
        pytest.skip(f"{browser} is not installed")
    files = dict(KINDS[kind]())
    lines = compare(files, [browser])
    assert [str(line) for line in lines if line.wrong] == []
    assert len(lines) >= 60
    assert any(not line.refused for line in lines)
