"""How a command ends on an error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import policyguard
from cli.support import Captured
from policyguard.cli.errors import command
from policyguard.errors import ConfigurationError
from policyguard.runs.exits import ExitCode


def test_an_unexpected_error_is_a_short_message_and_no_result(capsys: Captured) -> None:
    @command
    def broken() -> ExitCode:
        raise ZeroDivisionError("[red]oops\x1b[0m")

    with pytest.raises(typer.Exit) as caught:
        broken()
    assert ExitCode.USAGE == caught.value.exit_code
    captured = capsys.readouterr()
    assert r"error: this is a bug in policyguard: ZeroDivisionError: [red]oops\x1b[0m" in captured.err
    assert "policyguard --debug" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("stop", [KeyboardInterrupt, typer.Abort])
def test_whoever_stops_a_command_or_leaves_a_question_has_found_no_bug(
    stop: type[BaseException], capsys: Captured
) -> None:
    @command
    def asking() -> ExitCode:
        raise stop

    with pytest.raises(typer.Exit) as caught:
        asking()
    assert ExitCode.INTERRUPTED == caught.value.exit_code
    assert "error: interrupted\n" == capsys.readouterr().err


def test_an_error_of_ours_shows_its_hint_on_the_next_line(capsys: Captured) -> None:
    @command
    def misused() -> ExitCode:
        raise ConfigurationError("this cannot work", hint="do that")

    with pytest.raises(typer.Exit):
        misused()
    assert ["error: this cannot work", "  hint: do that"] == capsys.readouterr().err.splitlines()


def hints(file: Path) -> Iterator[str]:
    """The texts of ``hint=...`` and ``hint = ...`` in a module, without what is filled in."""
    for node in ast.walk(ast.parse(file.read_text())):
        named = isinstance(node, ast.keyword) and node.arg == "hint"
        assigned = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "hint"
        if named or assigned:
            parts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
            yield "".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize("part", ["backends/remote", "backends/sensors", "dialects"])
def test_a_hint_on_what_a_command_was_given_speaks_to_those_who_write_no_python(part: str) -> None:
    """`check` and `serve` print it: beside an argument of Guard stands the option or the variable."""
    files = sorted((Path(policyguard.__file__).parent / part).rglob("*.py"))
    found = [hint for file in files for hint in hints(file)]
    assert found
    python = re.compile(r"\b(api_key|base_url|dialect|model|policy|subset|timeout|per_rule)=|Guard\(")
    both = re.compile(r"--\w|[A-Z]+_[A-Z]+|in Python")
    assert [hint for hint in found if python.search(hint) and not both.search(hint)] == []
