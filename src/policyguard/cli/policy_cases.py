"""``policyguard policy test``: a policy repository's own tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, ROOT, TextOrJson
from policyguard.runs.exits import ExitCode

__all__ = ["check_cases"]


@command
def check_cases(
    file: Annotated[Path, typer.Argument(metavar="CASES", help="A YAML file of cases.")],
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
    xml: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit XML report too.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print cases that are as expected too.")
    ] = False,
    model: MODEL = None,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    root: ROOT = None,
) -> ExitCode:
    """Judge the images of a file of cases, and compare with what it expects.

    Exit code: 0 all is as expected, or fails as known (xfail); 1 something is not; 2 the file, a policy or
    the set-up is wrong; 3 all else is as expected, but the model failed on something.
    """
    from policyguard.authoring.cases import Status, junit, load_cases, run_cases
    from policyguard.cli.policy_report import case_lines
    from policyguard.cli.progress import progress_bar, waiting
    from policyguard.guard import Guard

    cases = load_cases(file, root=root)
    with Guard(list(cases.policies.values()), model=model, base_url=base_url, dialect=dialect) as guard:
        with waiting("loading the guard model", sys.stderr):
            guard.warm()
        with progress_bar(sys.stderr) as move:
            report = run_cases(
                cases,
                backend=guard.backend,
                progress=lambda done, total: move(done, total, "judging"),
            )
    if style is TextOrJson.JSON:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join(case_lines(report, verbose=verbose)))
    if xml is not None:
        xml.write_text(junit(report), encoding="utf-8")
    if report.passed:
        return ExitCode.OK
    failed = report.counts[Status.FAILED] + report.counts[Status.XPASSED]
    return ExitCode.BLOCKED if failed else ExitCode.UNJUDGED
