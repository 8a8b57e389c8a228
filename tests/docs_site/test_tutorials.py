"""Each tutorial, done as its reader does it: in a fresh folder, with only what it says.

A ``bash`` block is run line by line (`# exit code N` says how a line ends), and the ``text`` block that
follows is what was printed, whatever the numbers; ``...`` is anything. A ``py`` block is a line that makes a
guard. Another block is the file named before it, or is added to it. What comes from elsewhere is here
already (``pip install`` is held to what the package declares), and servers on loopback answer for OpenAI,
under its address and only with the reader's key, and for Ollama.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from backends.remote.server import ToyServer
from support.far_end import FarEnd, stand_in_for_ollama, stand_in_for_openai

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"(?P<before>[^\n]*)\n\n```(?P<language>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w./-]+\.\w+)`")


OLLAMA = "http://localhost:11434"
PULL = """\
import json, os, sys
from urllib.request import Request, urlopen
assert sys.argv[1] == "pull"
data = json.dumps({"model": sys.argv[2]}).encode()
urlopen(Request(os.environ["OLLAMA_HOST"] + "/api/pull", data, {"Content-Type": "application/json"})).close()
"""
"""The one command of Ollama's program that readers are told to use, over its own API."""


class Reader:
    """A folder, programs and servers: what somebody has who follows a page."""

    def __init__(self, home: Path, ollama: ToyServer) -> None:
        self.folder = home / "work"
        self.folder.mkdir()
        programs = home / "bin"
        programs.mkdir()
        (home / "pull.py").write_text(PULL)
        here = {
            "policyguard": "-m policyguard",
            "pytest": "-m pytest",
            "python": "",
            "ollama": home / "pull.py",
        }
        for name, module in here.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            (programs / name).chmod(0o755)
        hidden = ("POLICYGUARD_", "GIT_", "PYTEST_", "OLLAMA_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        self.environment = {
            **kept,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "HF_HUB_OFFLINE": "1",
            "OPENAI_API_KEY": "sk-of-the-reader",
            "OLLAMA_HOST": f"http://localhost:{ollama.server_address[1]}",
            "COLUMNS": "120",
            "HOME": str(home),
        }
        self._exports = ""

    def type(self, line: str) -> str:
        """What is printed. Fails unless the line ends as it says."""
        command, _, said = line.partition("  # exit code ")
        if command.startswith("pip install "):
            require_installed(shlex.split(command, comments=True)[2:])
            return ""
        if command.startswith("export "):
            self._exports += f"{command}\n"
        command = command.replace(OLLAMA, self.environment["OLLAMA_HOST"])
        done = subprocess.run(
            ["bash", "-c", self._exports + command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == int(said or 0), f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with ToyServer() as ollama:
        stand_in_for_ollama(ollama)
        yield Reader(tmp_path, ollama)


@pytest.fixture
def openai(reader: Reader, tmp_path: Path) -> Iterator[ToyServer]:
    """What the reader gets at OpenAI's address; beside it lies the photograph to ask about."""
    from skimage.data import astronaut

    Image.fromarray(astronaut()).save(reader.folder / "photo.jpg")
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    with ToyServer() as server:
        stand_in_for_openai(server, "sk-of-the-reader")
        with FarEnd({"api.openai.com": server}, tmp_path) as far_end:
            reader.environment |= far_end.environment
            yield server


def require_installed(what: list[str]) -> None:
    """Fails unless this environment has what ``pip install`` would bring."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for word in what:
        asked = Requirement(f"policyguard-vision{word[1:]}" if word.startswith(".") else word)
        if asked.name == "policyguard-vision":
            for extra in asked.extras:
                require_installed(extras[extra])
        elif asked.marker is None or asked.marker.evaluate():
            assert asked.specifier.contains(version(asked.name), prereleases=True), asked


def seen(text: str) -> str:
    """Without what may differ from machine to machine: numbers, and the width of columns and rules."""
    return re.sub(r"\d+(\.\d+)?", "0", re.sub(r"[\s─]+", " ", text)).strip()


def compare(expected: str, printed: str) -> None:
    for line in expected.splitlines():
        for piece in line.split("..."):
            assert seen(piece) in seen(printed), f"{line!r} is not in\n{printed}"


@pytest.mark.timeout(1800)  # some ten commands, each of which loads a model
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_tutorial_can_be_done(page: Path, reader: Reader, request: pytest.FixtureRequest) -> None:
    if page.stem == "photo":
        request.getfixturevalue("openai")
    printed = ""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        before, language, text = block["before"], block["language"], block["text"]
        if language == "bash":
            printed = "".join(map(reader.type, text.replace("\\\n", " ").splitlines()))
        elif language == "text":
            compare(text, printed)
        elif language == "py":
            reader.type("ollama pull qwen3-vl:4b")
            made = f"from policyguard import Guard\n{text}guard.warm().close()"
            reader.type(f"python -c {shlex.quote(made)}")
        else:
            (name,) = FILE.findall(before)
            path = reader.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if "Add to" in before else "w", encoding="utf-8") as file:
                file.write(text)


@pytest.mark.parametrize("key", ["", "sk-of-another"])
def test_a_hosted_model_judges_nothing_without_the_reader_s_own_key(
    key: str, reader: Reader, openai: ToyServer
) -> None:
    check = "policyguard check photo.jpg --policy safeedit/l3 --model gpt-5-mini"
    reader.type(f"export POLICYGUARD_API_KEY='{key}'")
    printed = reader.type(f"{check} --base-url https://api.openai.com/v1  # exit code 2")
    assert "POLICYGUARD_API_KEY" in printed
    assert not openai.bodies()


def test_the_readme_leads_to_a_verdict_on_one_s_own_photograph_in_three_minutes(
    reader: Reader, openai: ToyServer
) -> None:
    """Read at 238 words a minute (Brysbaert 2019), typed at 200 characters; downloads take their time."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    way = re.search(r"^\*\*A hosted model.*?^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert way is not None
    words = re.sub(r"\]\([^)]*\)|[`*#|\[]", " ", readme[: way.start(1)]).split()
    assert len(words) / 238 + len(way[1]) / 200 < 3.0
    printed = "".join(
        reader.type(f"{line}  # exit code {int('check' in line)}")
        for line in way[1].replace("\\\n", " ").splitlines()
    )
    assert "photo.jpg  block  violates" in printed
    assert openai.bodies()
