"""docs/cli.md, the pages in docs/cli/ and the program agree."""

from __future__ import annotations

from cli.help_docs import FOLDER, PAGE, page_of, pages, shown, tree
from policyguard.runs.exits import ExitCode


def test_the_help_in_the_docs_is_the_programs_own() -> None:
    wrong = [
        path.name for path, text in pages().items() if not path.exists() or path.read_text("utf-8") != text
    ]
    assert not wrong, "run: python tests/cli/help_docs.py"


def test_every_command_has_a_page_with_its_help_and_no_page_is_of_a_command_that_is_gone() -> None:
    assert {page_of(command) for command in tree()} == {PAGE, *FOLDER.glob("*.md")}
    assert not [command for command in tree() if command not in shown(page_of(command).read_text("utf-8"))]


def test_every_exit_code_is_documented() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not [code for code in ExitCode if f"| {code.value} |" not in page]
