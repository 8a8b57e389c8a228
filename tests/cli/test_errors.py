"""How a command ends on an error."""

from __future__ import annotations

import pytest
import typer

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
