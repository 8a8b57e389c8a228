"""``policyguard check``: judge images under policies, from one file to a whole project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command, print_error, warn
from policyguard.cli.options import (
    ALLOW_EMPTY,
    BASE_URL,
    BASELINE,
    CACHE,
    CHANGED_SINCE,
    CONFIG,
    DIALECT,
    EXPLAIN,
    MODEL,
    PATHS,
    POLICIES,
    TIMEOUT,
    WORKERS,
    Format,
)
from policyguard.runs.exits import ExitCode, FailOn
from policyguard.strict.text import printable

if TYPE_CHECKING:
    from policyguard.runs.reports import ReportSpec

__all__ = ["check"]


@command
def check(
    paths: PATHS = None,
    policy: POLICIES = None,
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    explain: EXPLAIN = None,
    style: Annotated[
        Format,
        typer.Option("--format", "-f", help="text, one JSON list, or one JSON object per line as they come."),
    ] = Format.TEXT,
    report: Annotated[
        list[str] | None,
        typer.Option(
            "--report",
            "-r",
            metavar="FORMAT=FILE",
            help="Write a report too: junit, sarif, gitlab, html, markdown or json to a file, github to the "
            "log; html:thumbnails=FILE has small, blurred pictures. May be repeated.",
        ),
    ] = None,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            "--fail-on",
            help="What ends in a non-zero exit code: blocked images (default), flagged ones too, or none.",
            show_default=False,
        ),
    ] = None,
    changed_since: CHANGED_SINCE = None,
    workers: WORKERS = None,
    max_failures: Annotated[
        int | None,
        typer.Option("--max-failures", metavar="N", min=1, help="Stop after so many images that fail."),
    ] = None,
    timeout: TIMEOUT = None,
    cache: CACHE = None,
    baseline: BASELINE = None,
    config: CONFIG = None,
    allow_empty: ALLOW_EMPTY = False,
    show_config: Annotated[
        bool,
        typer.Option("--show-config", help="Print the settings in effect and where each is from, and exit."),
    ] = False,
) -> ExitCode:
    """Judge images under one or more policies.

    Exit code: 0 nothing is blocked; 1 a violation is blocked; 3 an image is blocked because it could not be
    judged, or was not reached; 2 the command or the set-up is wrong, or something could not be written. The
    verdicts go to stdout, everything else to stderr.
    """
    from policyguard.cli.run import run_check
    from policyguard.runs.job import build_job, policy_problems, select_images
    from policyguard.runs.project import find_project
    from policyguard.runs.reporting import Reports
    from policyguard.runs.settings import Flags, effective, shown_settings

    flags = Flags(
        policy=tuple(policy or ()),
        model=model,
        base_url=base_url,
        dialect=dialect,
        explain=explain,
        cache=cache,
        workers=workers,
        timeout=timeout,
        max_failures=max_failures,
        fail_on=fail_on,
        reports=tuple(report or ()),
        baseline=baseline,
    )
    settings = effective(flags, find_project(config))
    specs = _specs(settings.reports)
    if show_config:
        print("\n".join(map(printable, shown_settings(settings))))
        problems = policy_problems(settings)
        for problem in problems:
            print_error(problem)
        return ExitCode.USAGE if problems else ExitCode.OK
    reports = Reports.open(specs, log=sys.stderr)
    selected = select_images(
        paths or [],
        settings,
        changed_since=changed_since,
        allow_empty=allow_empty,
        stdin=getattr(sys.stdin, "buffer", None),
    )
    for note in selected.notes:
        warn(note)
    job = build_job(settings, selected, whole=not paths and changed_since is None)
    for note in job.notes:
        warn(note)
    with job.guard:
        return run_check(
            job, style=style, fail_on=settings.fail_on, reports=reports, stdout=sys.stdout, stderr=sys.stderr
        )


def _specs(reports: Sequence[str]) -> list[ReportSpec]:
    """Raises UsageError for a report that nobody knows."""
    if not reports:
        return []
    from policyguard.runs.reports import parse_report

    return [parse_report(text) for text in reports]
