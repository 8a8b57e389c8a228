"""The hooks run as pre-commit runs them, by pre-commit itself."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runs.support import git

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "integrations/pre-commit/README.md"
LOCAL = """\
repos:
  - repo: local
    hooks:
      - id: policyguard
        name: policyguard
        entry: {entry}
        language: system
        types: [image]
        require_serial: true
"""


def hooks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())  # noqa: TID251
    return found


def pre_commit(
    repository: Path, environment: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pre_commit", *arguments],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def staged(repository: Path, *images: str) -> None:
    """Add pictures of the examples to the next commit, and a file that is none."""
    (repository / ".pre-commit-config.yaml").write_text(LOCAL.format(entry=hooks()[0]["entry"]))
    (repository / "notes.txt").write_text("not an image\n")
    for image in images:
        shutil.copy(ROOT / "examples/images" / image, repository / "art")
    git(repository, "add", ".")


def test_pre_commit_takes_the_hooks_file_for_valid(repository: Path, environment: dict[str, str]) -> None:
    for number, file in enumerate((ROOT / ".pre-commit-hooks.yaml",)):
        done = pre_commit(repository, environment, "validate-manifest", str(file))
        assert 0 == done.returncode, (number, done.stdout)
    assert ["policyguard", "policyguard-remote"] == [hook["id"] for hook in hooks()]


def test_what_the_hooks_install_are_extras_of_the_package() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for hook in hooks():
        (extra,) = hook["additional_dependencies"]
        assert extra.removeprefix(".[").removesuffix("]") in project["optional-dependencies"]
        assert shlex.split(hook["entry"])[0] in project["scripts"]


def test_a_commit_with_a_blocked_image_is_stopped_and_names_the_rule(
    repository: Path, environment: dict[str, str]
) -> None:
    staged(repository, "pair-dagger.png")
    done = pre_commit(repository, environment, "run")
    assert 1 == done.returncode
    assert "art/pair-dagger.png" in done.stdout
    assert "Weapons" in done.stdout
    assert "armoury.png" not in done.stdout  # it was there before this commit


def test_a_commit_whose_images_are_allowed_passes(repository: Path, environment: dict[str, str]) -> None:
    staged(repository, "beach.png")
    done = pre_commit(repository, environment, "run", "--verbose")
    assert 0 == done.returncode, done.stdout
    assert "1 image in" in done.stdout


def test_a_commit_without_images_asks_nobody(repository: Path, environment: dict[str, str]) -> None:
    staged(repository)
    done = pre_commit(repository, environment, "run")
    assert 0 == done.returncode
    assert "Skipped" in done.stdout


def test_a_commit_whose_images_are_all_ignored_passes(repository: Path, environment: dict[str, str]) -> None:
    (repository / ".policyguardignore").write_text("art/\n")
    staged(repository, "pair-dagger.png")
    done = pre_commit(repository, environment, "run")
    assert 0 == done.returncode, done.stdout


def test_a_broken_image_stops_the_commit(repository: Path, environment: dict[str, str]) -> None:
    staged(repository)
    (repository / "art/broken.png").write_bytes(b"no image")
    git(repository, "add", ".")
    done = pre_commit(repository, environment, "run")
    assert 1 == done.returncode
    assert "exit code: 3" in done.stdout


def test_the_configurations_in_the_page_are_valid(repository: Path, environment: dict[str, str]) -> None:
    import re

    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert 2 == len(blocks)
    for block in blocks:
        (repository / "config.yaml").write_text(block)
        done = pre_commit(repository, environment, "validate-config", "config.yaml")
        assert 0 == done.returncode, done.stdout
    assert yaml.safe_load(blocks[1]) == yaml.safe_load(LOCAL.format(entry=hooks()[0]["entry"]))  # noqa: TID251


@pytest.mark.packaging
@pytest.mark.timeout(900)
def test_pre_commit_installs_the_hook_from_git_and_asks_a_server(
    repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """The remote hook, as a clone of this checkout installs it, against a server that is not there."""
    source = tmp_path / "source"
    shutil.copytree(
        ROOT,
        source,
        ignore=shutil.ignore_patterns(".git", ".venv*", "tests", "__pycache__", ".*_cache"),
    )
    git(source, "init", "--quiet", "--initial-branch=main")
    git(source, "add", "--force", ".")
    git(source, "commit", "--quiet", "--message", "all")
    staged(repository, "beach.png")
    (repository / ".pre-commit-config.yaml").unlink()
    (repository / "policyguard.toml").write_text(
        'policy = "safeedit/l3"\nmodel = "guard"\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    git(repository, "add", ".")
    clean = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    clean |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    clean |= {"HOME": str(Path.home()), "PRE_COMMIT_HOME": str(tmp_path / "hooks")}  # pip's own settings hold
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "try-repo", str(source), "policyguard-remote"],
        cwd=repository,
        env=clean,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert 1 == done.returncode, done.stdout
    assert "127.0.0.1:9" in done.stdout
