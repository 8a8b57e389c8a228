"""In an environment without the model libraries (`make test-fast`), what needs them is left out, and says so.

A test file that imports what is not installed is not collected; a test that fails because an extra is missing
is skipped. Where torch is installed, nothing here does anything.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

LIGHT = importlib.util.find_spec("torch") is None
TESTS = Path(__file__).parent
MISSING = "is needed for this and is not installed"


@cache
def needs_what_is_missing(path: Path) -> bool:
    """Whether the file, or a file of the tests that it imports, imports a package that is not installed."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    for name in names:
        file = TESTS.joinpath(*name.split(".")).with_suffix(".py")
        if file.is_file() and file != path and needs_what_is_missing(file):
            return True
        top = name.partition(".")[0]
        if not (TESTS / top).exists() and importlib.util.find_spec(top) is None:
            return True
    return False


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    file = collection_path / "conftest.py" if collection_path.is_dir() else collection_path
    return True if LIGHT and file.suffix == ".py" and file.is_file() and needs_what_is_missing(file) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if LIGHT and report.failed and MISSING in f"{report.longreprtext}{report.capstdout}{report.capstderr}":
        report.outcome = "skipped"
        report.longrepr = (str(item.path), item.location[1], "Skipped: needs the model libraries")
    return report
