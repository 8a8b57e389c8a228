"""The help texts in docs/cli.md are what the program prints.

Run ``python tests/cli/help_docs.py`` to write them anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import typer

from policyguard.cli import main
from policyguard.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
_BLOCK = re.compile(
    r"(<!-- help: (?P<command>policyguard[a-z -]*) -->\n).*?(<!-- end of help -->\n)", re.DOTALL
)


def commands() -> Iterator[str]:
    """Every command of the program, groups included, as it is typed."""

    def walk(command: object, name: str) -> Iterator[str]:
        yield name
        for inner, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, f"{name} {inner}")

    yield from walk(typer.main.get_command(app), "policyguard")


def help_of(command: str) -> str:
    """What ``command --help`` prints in a terminal of 80 columns."""
    printed = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "80"}), contextlib.redirect_stdout(printed):
        assert main([*command.split()[1:], "--help"]) == 0
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def with_help(page: str) -> str:
    """``page`` with each marked block holding today's help."""
    return _BLOCK.sub(lambda found: f"{found[1]}```text\n{help_of(found['command'])}\n```\n{found[3]}", page)


def documented(page: str) -> set[str]:
    """The commands that have a block."""
    return {found["command"] for found in _BLOCK.finditer(page)}


if __name__ == "__main__":
    PAGE.write_text(with_help(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
