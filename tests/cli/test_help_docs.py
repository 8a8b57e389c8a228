"""docs/cli.md and the program agree."""

from __future__ import annotations

from cli.help_docs import PAGE, commands, documented, with_help
from policyguard.runs.exits import ExitCode


def test_the_help_in_the_docs_is_the_programs_own() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert with_help(page) == page, "run: python tests/cli/help_docs.py"


def test_every_command_is_documented() -> None:
    assert set(commands()) == documented(PAGE.read_text(encoding="utf-8"))


def test_every_exit_code_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not [code for code in ExitCode if f"| {code.value} |" not in page]
