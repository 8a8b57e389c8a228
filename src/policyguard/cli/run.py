"""A run: many images through one guard, printed as they come, summed up in one exit code.

Data goes to ``stdout``; progress, summary and what could not be judged go to ``stderr``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import TextIO

from policyguard.cli.exits import ExitCode, Tally
from policyguard.cli.interrupts import uninterrupted
from policyguard.cli.options import FailOn, Format
from policyguard.cli.output import open_writer
from policyguard.cli.progress import progress_bar, waiting
from policyguard.cli.sources import Source
from policyguard.cli.text import is_terminal, one_line, printable
from policyguard.guard import Guard
from policyguard.verdict import Action, Verdict

__all__ = ["run_check"]

_LISTED = 20
"""How many images that could not be judged are named below the summary; the data names them all."""


def run_check(
    guard: Guard,
    sources: Sequence[Source],
    *,
    style: Format = Format.TEXT,
    fail_on: FailOn = FailOn.BLOCK,
    stdout: TextIO,
    stderr: TextIO,
) -> ExitCode:
    """Check ``sources`` in order and say how it went. Raises UsageError when the set-up turns out wrong.

    A KeyboardInterrupt passes through, after what is already printed has been closed properly.
    """
    with waiting("loading the guard model", stderr):
        guard.warm()
    tally = Tally()
    broken: list[Verdict] = []
    started = perf_counter()
    writer = open_writer(style, stdout, [source.name for source in sources])
    try:
        # On one terminal, a bar and a stream of lines would get into each other's way.
        shared = is_terminal(stdout) and style is not Format.TEXT
        with progress_bar(None if shared else stderr) as move:
            verdicts = guard.check_many([source.image for source in sources])
            for source, found in zip(sources, verdicts, strict=True):
                # Under the name that was asked for; the reason need not repeat the one that the guard knows.
                reason = found.reason and found.reason.removeprefix(f"{found.source}: ")
                verdict = replace(found, source=source.name, reason=reason)
                with uninterrupted():
                    writer.add(verdict)
                    tally.add(verdict)
                if not verdict.outcome.judged and len(broken) < _LISTED:
                    broken.append(verdict)
                move(tally.total, len(sources), _so_far(tally))
    except BaseException as error:
        # An empty list would read like a run without findings; only one that was stopped at once may say so.
        if tally.total or isinstance(error, KeyboardInterrupt):
            with uninterrupted():
                writer.close()
        _summarise(guard, tally, perf_counter() - started, stderr, stopped_at=len(sources))
        raise
    writer.close()
    stdout.flush()
    _summarise(guard, tally, perf_counter() - started, stderr)
    if broken and (style is not Format.TEXT or tally.total > _LISTED):
        _list_unjudged(broken, tally.unjudged.total(), stderr)
    return tally.exit_code(fail_on)


def _so_far(tally: Tally) -> str:
    return f"{tally.actions[Action.BLOCK]:,} blocked, {tally.unjudged.total():,} not judged"


def _summarise(
    guard: Guard, tally: Tally, seconds: float, stderr: TextIO, *, stopped_at: int | None = None
) -> None:
    images = f"{tally.total:,} image{'' if tally.total == 1 else 's'}"
    if stopped_at is not None:
        images = f"stopped after {images} of {stopped_at:,}"
    line = (
        f"{images} in {seconds:.1f} s with {printable(guard.backend.model.id)}: "
        f"{tally.actions[Action.ALLOW]:,} allowed, {tally.actions[Action.FLAG]:,} flagged, "
        f"{tally.actions[Action.BLOCK]:,} blocked"
    )
    if unjudged := tally.unjudged.total():
        passed = unjudged - tally.unjudged[Action.BLOCK]
        line += f"; {unjudged:,} could not be judged" + (
            f" ({passed:,} of them not blocked)" if passed else ""
        )
    print(line, file=stderr)


def _list_unjudged(broken: Sequence[Verdict], total: int, stderr: TextIO) -> None:
    print("could not be judged:", file=stderr)
    for verdict in broken:
        print(f"  {printable(verdict.source)}: {one_line(verdict.reason or verdict.outcome)}", file=stderr)
    if total > len(broken):
        print(f"  ... and {total - len(broken):,} more", file=stderr)
