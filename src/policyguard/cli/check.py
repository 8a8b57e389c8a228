"""``policyguard check``: judge images under policies, from one file to a whole project."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, print_error, warn
from policyguard.cli.options import ALLOW_EMPTY, CHANGED_SINCE, PATHS, Format, with_settings
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import printable

if TYPE_CHECKING:
    from policyguard.runs.settings import RunSettings

__all__ = ["check"]


@command
@with_settings(
    *("policy", "model", "base_url", "dialect", "subset", "explain", "reports", "fail_on"),
    *("replicas", "workers", "max_failures", "timeout", "cache", "baseline"),
)
def check(
    *,
    paths: PATHS = None,
    settings: RunSettings,
    style: Annotated[
        Format,
        typer.Option("--format", "-f", help="text, one JSON list, or one JSON object per line as they come."),
    ] = Format.TEXT,
    changed_since: CHANGED_SINCE = None,
    allow_empty: ALLOW_EMPTY = False,
    only_blocked: Annotated[
        bool, typer.Option("--only-blocked", help="Print blocked images alone; reports hold all of them.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no summary; notes and errors remain.")
    ] = False,
    show_config: Annotated[
        bool,
        typer.Option("--show-config", help="Print the settings in effect and the origin of each, and exit."),
    ] = False,
) -> ExitCode:
    """Judge images under one or more policies.

    Exit code: 0 nothing is blocked; 1 a violation is blocked; 3 an image is blocked because it could not be
    judged, or was not reached; 2 the command or the set-up is wrong, or something could not be written. The
    verdicts go to stdout, everything else to stderr.
    """
    from policyguard.cli.run import run_check
    from policyguard.runs.job import build_job
    from policyguard.runs.policies import policy_problems
    from policyguard.runs.reports import parse_report
    from policyguard.runs.reports.registry import Reports
    from policyguard.runs.selection import select_images
    from policyguard.runs.settings import settings_lines

    specs = [parse_report(text) for text in settings.reports]
    if show_config:
        print("\n".join(map(printable, settings_lines(settings))))
        problems = policy_problems(settings)
        for problem in problems:
            print_error(problem)
        return ExitCode.USAGE if problems else ExitCode.OK
    reports = Reports.open(specs, log=sys.stderr)
    selection = select_images(
        paths or [],
        settings,
        changed_since=changed_since,
        allow_empty=allow_empty,
        stdin=getattr(sys.stdin, "buffer", None),
    )
    for note in selection.notes:
        warn(note)
    job = build_job(settings, selection)
    for note in job.notes:
        warn(note)
    with job.guard:
        return run_check(
            job,
            style=style,
            only_blocked=only_blocked,
            quiet=quiet,
            fail_on=settings.fail_on,
            reports=reports,
            stdout=sys.stdout,
            stderr=sys.stderr,
        )
