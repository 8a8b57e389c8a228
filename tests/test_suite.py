"""What holds for every test: none measures time, and none gives up waiting before a slow machine is done."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CLOCKS = {
    f"{name}{unit}"
    for name in ("monotonic", "perf_counter", "process_time", "thread_time", "time")
    for unit in ("", "_ns")
} | {"timeit", "clock_gettime"}
GIVES_UP = {
    "acquire",
    "Barrier",
    "check_call",
    "check_output",
    "communicate",
    "join",
    "result",
    "run",
    "wait",
}
"""Calls that wait for something, until a time-out if they are given one."""
PAUSE, GENEROUS = 0.1, 100.0
"""Seconds. A shorter wait is a pause between two looks, a longer one only ends what hangs."""


def clocks(tree: ast.AST) -> Iterator[int]:
    """The lines on which a clock is looked at: ``time.monotonic()``, ``from time import perf_counter`` ..."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name("time"), attr=name) if name in CLOCKS:
                yield node.lineno
            case ast.ImportFrom(module="time", names=names) if CLOCKS & {each.name for each in names}:
                yield node.lineno
            case ast.Import(names=names) if "timeit" in {each.name for each in names}:
                yield node.lineno


def impatient(tree: ast.AST) -> Iterator[int]:
    """The lines on which a call gives up waiting after a number of seconds that a slow machine may need."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        limits = [word.value for word in node.keywords if word.arg == "timeout"] + (
            node.args[1:2]
            if name == "wait_for"
            else node.args[:1]
            if name in {"join", "result", "wait"}
            else []
        )
        for limit in limits if name in GIVES_UP | {"wait_for"} else []:
            match limit:
                case ast.Constant(int() | float() as seconds) if PAUSE < seconds < GENEROUS:
                    yield node.lineno


def places(find: Callable[[ast.AST], Iterator[int]], *, but: str = "") -> list[str]:
    files = ((str(path.relative_to(TESTS)), path) for path in sorted(TESTS.rglob("*.py")))
    return [
        f"{name}:{line}" for name, path in files if name != but for line in find(ast.parse(path.read_text()))
    ]


def test_time_is_not_measured() -> None:
    """``support.work`` counts what is done instead; ``benchmarks`` measure."""
    assert places(clocks, but="support/clock.py") == []


def test_nothing_is_given_up_early() -> None:
    """What hangs is ended by the suite's own time-out (``[tool.pytest.ini_options]``)."""
    assert places(impatient) == []


@pytest.mark.parametrize(
    "line",
    ["time.perf_counter()", "time.time() - began", "from time import monotonic", "import timeit"],
)
def test_a_look_at_a_clock_is_seen(line: str) -> None:
    assert list(clocks(ast.parse(line))) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "subprocess.run(command, timeout=60)",
        "thread.join(5)",
        "assert done.wait(30)",
        "await asyncio.wait_for(task, 30)",
        "threading.Barrier(4, timeout=20)",
    ],
)
def test_a_wait_that_gives_up_is_seen(line: str) -> None:
    assert list(impatient(ast.parse(line))) == [1]


def test_the_linter_reads_every_file_of_the_package_and_of_the_tests() -> None:
    root = TESTS.parent
    command = [shutil.which("ruff", path=Path(sys.executable).parent) or "ruff", "check", "--show-files", "."]
    listed = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()
    files = {str(path) for folder in ("src", "tests") for path in (root / folder).rglob("*.py")}
    assert sorted(files - set(listed)) == []


def test_every_target_that_make_promises_is_there() -> None:
    makefile = (TESTS.parent / "Makefile").read_text()
    (promised,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert set(promised.split()) == set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
