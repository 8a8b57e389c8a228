"""The program ``policyguard``: its commands, its version, its exit."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from policyguard._version import __version__
from policyguard.cli import audit, baseline, bench, cache, models, policy, serve, train
from policyguard.cli.check import check
from policyguard.cli.compare import calibrate, compare
from policyguard.cli.demo import demo
from policyguard.cli.errors import debug as debug_setting
from policyguard.cli.init import init
from policyguard.cli.models import doctor
from policyguard.cli.options import Group
from policyguard.cli.quickstart import quickstart
from policyguard.runs.exits import ExitCode

__all__ = ["app", "main"]


SECTIONS = {
    "To begin": ("quickstart", "init", "check", "policy", "doctor"),
    "Many images": ("baseline", "cache", "audit"),
    "How good a guard is": ("compare", "calibrate", "bench"),
    "In front of apps": ("serve",),
    "Models": ("models", "train", "demo"),
}
"""The commands by what people want, those first that everybody needs."""


class Program(Group):
    """The commands in sections; errors about values leave out pydantic's prefix."""

    sections = SECTIONS

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            raise


# Help is plain text: it loads faster, and docs/cli/ holds exactly what is printed.
app = typer.Typer(
    name="policyguard",
    cls=Program,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("check")(check)
app.command("quickstart")(quickstart)
app.command("init")(init)
app.command("demo")(demo)
app.add_typer(audit.app, name="audit")
app.add_typer(baseline.app, name="baseline")
app.add_typer(policy.app, name="policy")
app.command("compare")(compare)
app.command("calibrate")(calibrate)
app.command("models")(models.models)
app.command("doctor")(doctor)
app.add_typer(cache.app, name="cache")
app.add_typer(bench.app, name="bench")
app.add_typer(serve.app, name="serve")
app.add_typer(train.app, name="train")


def _show_version(requested: bool) -> None:
    if requested:
        print(f"policyguard {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="POLICYGUARD_DEBUG", help="Show a traceback for unexpected errors."),
    ] = False,
) -> None:
    """Ask a guard model whether images break a policy written in plain language, and act on the answer."""
    debug_setting.set(debug)
    if context.invoked_subcommand is None:
        _overview(context)
        raise typer.Exit(ExitCode.USAGE)  # nothing was checked: no script takes it for success


def _overview(context: typer.Context) -> None:
    formatter = context.make_formatter()
    program = context.command
    assert isinstance(program, Program)
    program.format_usage(context, formatter)
    program.format_help_text(context, formatter)
    program.format_commands(context, formatter, next(iter(SECTIONS.values())))
    print(
        formatter.getvalue() + "\n`policyguard -h` lists all commands, `policyguard COMMAND -h` explains one."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on ``arguments`` (default: the process's) and return its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process: output goes nowhere
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the locale cannot encode must not end the run
            stream.reconfigure(errors="backslashreplace")
    code: int = ExitCode.OK
    try:
        typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="policyguard", standalone_mode=True
        )
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None) * ExitCode.USAGE
    if arguments is None:
        _leave_on_interrupt()
    return code


def _leave_on_interrupt() -> None:
    """Let a Ctrl-C that comes now end the process as any other does, not by the signal.

    All is written and the exit code is known. While threads are waited for, it ends with 130; once Python
    takes itself apart, which is short, and would end by the signal, it changes nothing.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with contextlib.suppress(ValueError):  # not the main thread: somebody else's process
            signal.signal(signal.SIGINT, lambda *_: os._exit(ExitCode.INTERRUPTED))
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
