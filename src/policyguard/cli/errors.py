"""How a command ends on an error: one readable message on stderr, one exit code, no traceback."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import ParamSpec

import typer

from policyguard.errors import PolicyGuardError, Problem
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import is_terminal, one_line, printable

__all__ = ["command", "debug", "forget_stdout", "print_error", "warn", "warn_of"]

P = ParamSpec("P")

_BUG_HINT = "report it with what `policyguard --debug ...` prints"

debug: ContextVar[bool] = ContextVar("policyguard_debug", default=False)
"""Whether an unexpected error shows its traceback; set by ``policyguard --debug``."""


def command(body: Callable[P, ExitCode]) -> Callable[P, None]:
    """Turn a function that returns an exit code into a typer command that no exception leaves.

    An unexpected exception ends in ``USAGE`` too: a script cannot take that code for a result.
    """

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = body(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError:
            forget_stdout()
            code = ExitCode.BROKEN_PIPE
        except (KeyboardInterrupt, typer.Abort):  # Ctrl+C, or Ctrl+D where a question is asked
            print_error("interrupted")
            code = ExitCode.INTERRUPTED
        except PolicyGuardError as error:
            print_error(error.message, error.hint)
            code = ExitCode.USAGE
        except OSError as error:  # such as a full disk under stdout; problems of an image are outcomes
            _print_traceback(error)
            print_error(f"the output cannot be written, or a file cannot be read: {error}")
            forget_stdout()
            code = ExitCode.USAGE
        except Exception as error:
            _print_traceback(error)
            print_error(f"this is a bug in policyguard: {type(error).__name__}: {error}", _BUG_HINT)
            code = ExitCode.USAGE
        raise typer.Exit(int(code))

    return run


def print_error(message: str, hint: str | None = None) -> None:
    """``error: message`` and the hint below it, on stderr."""
    _print("error:", "31", message)
    if hint:
        _print("  hint:", "36", hint)


def warn(message: str) -> None:
    """``note: message`` on stderr, for what is worth knowing and stops nothing."""
    _print("note:", "33", message)


def warn_of(problems: Sequence[Problem], *, limit: int | None = 20) -> None:
    """A note for each of ``problems``, and how many more there are."""
    for problem in problems[:limit]:
        warn(one_line(str(problem)))
    if limit is not None and len(problems) > limit:
        warn(f"and {len(problems) - limit:,} more")


def _print(label: str, colour: str, message: str) -> None:
    if is_terminal(sys.stderr) and not os.environ.get("NO_COLOR") and sys.platform != "win32":
        label = f"\033[1;{colour}m{label}\033[0m"
    first, *rest = (printable(line) for line in message.splitlines() or [""])
    with contextlib.suppress(OSError):  # if nobody can read it, the exit code still says what happened
        print(f"{label} {first}", *(f"  {line}" for line in rest), sep="\n", file=sys.stderr, flush=True)


def _print_traceback(error: Exception) -> None:
    if debug.get():
        traceback.print_exception(error, file=sys.stderr)


def forget_stdout() -> None:
    """Drop buffered output, so that the interpreter does not complain about it at exit."""
    with contextlib.suppress(OSError, ValueError):  # not a real file: nothing is flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
