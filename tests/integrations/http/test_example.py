"""The example runs, with the packaged model, and what docs/http.md shows for tests."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_example_blocks_some_pictures_and_passes_others() -> None:
    done = subprocess.run(
        [sys.executable, "examples/guarded_http.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(list((ROOT / "examples" / "images").glob("*.png"))) * 2 == len(lines)
    assert {"200", "403"} == {line.split(": ")[1].split()[0] for line in lines}


def test_what_the_page_shows_for_tests_runs() -> None:
    page = (ROOT / "docs" / "http.md").read_text()
    _, code = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/http.md", "exec"), {})
