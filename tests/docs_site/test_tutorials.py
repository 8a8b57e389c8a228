"""Each tutorial, done as its reader does it: in a fresh folder, with only what it says.

A ``bash`` block is run line by line (`# exit code N` says how a line ends), and the ``text`` block that
follows is what was printed, whatever the numbers; ``...`` is anything. Another block is the file named
before it, or is added to it. ``sh`` and ``py`` blocks need what a test has not: an index, a key, a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w./-]+\.\w+)`")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with ``python``, ``policyguard`` and ``pytest`` of this environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in [("policyguard", "-m policyguard"), ("pytest", "-m pytest"), ("python", "")]:
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def seen(text: str) -> str:
    """Without what may differ from machine to machine: numbers, and the width of columns and rules."""
    return re.sub(r"\d+(\.\d+)?", "0", re.sub(r"[\s─]+", " ", text)).strip()


def compare(expected: str, printed: str) -> None:
    for line in expected.splitlines():
        for piece in line.split("..."):
            assert seen(piece) in seen(printed), f"{line!r} is not in\n{printed}"


@pytest.mark.timeout(1800)  # some ten commands, each of which loads a model
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_tutorial_can_be_done(page: Path, programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    prepare(page.stem, folder)
    hidden = ("POLICYGUARD_", "GIT_", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
        "HOME": str(tmp_path),
    }
    printed = ""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        before, language, text = block["before"], block["language"], block["text"]
        if language == "bash":
            printed = "".join(
                run(line, folder, environment) for line in text.replace("\\\n", " ").splitlines()
            )
        elif language == "text":
            compare(text, printed)
        elif language not in {"sh", "py"}:
            (name,) = FILE.findall(before)
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if "Add to" in before else "w", encoding="utf-8") as file:
                file.write(text)


def prepare(name: str, folder: Path) -> None:
    """What the reader has already."""
    if name == "photo":
        from PIL import Image
        from skimage.data import astronaut

        Image.fromarray(astronaut()).save(folder / "photo.jpg")


def run(line: str, folder: Path, environment: dict[str, str]) -> str:
    command, _, said = line.partition("  # exit code ")
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == int(said or 0), f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr
