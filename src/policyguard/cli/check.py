"""``policyguard check``: judge images under policies."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from policyguard.cli.errors import command, warn
from policyguard.cli.exits import ExitCode
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, FailOn, Format

__all__ = ["check"]


@command
def check(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH", help="Images, folders (searched for images), or - for one image on stdin."
        ),
    ],
    policy: Annotated[
        list[str],
        typer.Option(
            "--policy",
            "-p",
            metavar="POLICY",
            help="A packaged policy such as pictosafe/l3, or a YAML file. Several: all must allow.",
        ),
    ],
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Ask for the category and the reasons too; slower.")
    ] = False,
    cache: Annotated[
        str | None,
        typer.Option(
            "--cache",
            metavar="FILE",
            help="Remember scores in this file, and ask the model nothing twice. Default: POLICYGUARD_CACHE.",
        ),
    ] = None,
    style: Annotated[
        Format,
        typer.Option("--format", "-f", help="text, one JSON list, or one JSON object per line as they come."),
    ] = Format.TEXT,
    fail_on: Annotated[
        FailOn,
        typer.Option(
            "--fail-on", help="What ends in a non-zero exit code: blocked images, flagged ones too, or none."
        ),
    ] = FailOn.BLOCK,
) -> ExitCode:
    """Judge images under one or more policies.

    Exit code: 0 nothing is blocked; 1 a violation is blocked; 3 an image is blocked because it could not be
    judged; 2 the command or the set-up is wrong. The verdicts go to stdout, everything else to stderr.
    """
    from policyguard.cli.run import run_check
    from policyguard.cli.sources import collect
    from policyguard.guard import Guard

    sources, skipped = collect(paths, getattr(sys.stdin, "buffer", None))
    if note := str(skipped):
        warn(f"passed over {note}")
    with Guard(
        policy, model=model, base_url=base_url, dialect=dialect, explain=explain, cache=cache
    ) as guard:
        return run_check(guard, sources, style=style, fail_on=fail_on, stdout=sys.stdout, stderr=sys.stderr)
