"""``policyguard policy test``: a policy repository's own tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import BASE_URL, DIALECT, MODEL, ROOT, STYLE, TextOrJson
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line, printable

if TYPE_CHECKING:
    from policyguard.authoring.cases import CaseReport, CaseResult

__all__ = ["check_cases"]


@command
def check_cases(
    file: Annotated[Path, typer.Argument(metavar="CASES", help="A YAML file of cases.")],
    style: STYLE = TextOrJson.TEXT,
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
    """Judge the images of a file of cases, and compare the results with what it expects.

    Exit code: 0 all is as expected, or fails as known (xfail); 1 something is not; 2 the file, a policy or
    the set-up is wrong; 3 all else is as expected, but the model failed on an image.
    """
    from policyguard.authoring.cases import Status, load_cases, run_cases
    from policyguard.cli.progress import load_model, progress_bar
    from policyguard.guard import Guard

    cases = load_cases(file, root=root)
    with Guard(list(cases.policies.values()), model=model, base_url=base_url, dialect=dialect) as guard:
        load_model(guard, sys.stderr)
        with progress_bar(sys.stderr) as move:
            report = run_cases(
                cases,
                backend=guard.backend,
                progress=lambda done, total: move(done, total, "judging"),
            )
    if style is TextOrJson.JSON:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        print("\n".join(_case_lines(report, verbose=verbose)))
    if xml is not None:
        from policyguard.runs.reports.junit import write_cases

        write_cases(xml, report)
    if report.passed:
        return ExitCode.OK
    failed = report.counts[Status.FAILED] + report.counts[Status.XPASSED]
    return ExitCode.BLOCKED if failed else ExitCode.UNJUDGED


def _case_lines(report: CaseReport, *, verbose: bool) -> Iterator[str]:
    """Every case that is not as expected, or with ``verbose`` every case; then the counts."""
    from policyguard.authoring.cases import Status

    for result in report.results:
        if verbose or not result.status.good:
            yield from _case(result, report.file)
    counts = report.counts
    names = {Status.XFAILED: "failing as known", Status.XPASSED: "no longer failing", Status.ERROR: "errors"}
    parts = [f"{counts[s]} {names.get(s, s.value)}" for s in Status if counts[s] or s is Status.PASSED]
    yield f"{printable(report.file)} with {printable(report.model)}: {', '.join(parts)}"


def _case(result: CaseResult, file: str) -> Iterator[str]:
    from policyguard.authoring.cases import Status
    from policyguard.cli.output import verdict_words

    place = printable(file) if result.line is None else f"{printable(file)}:{result.line}"
    verdicts = ", ".join(map(verdict_words, result.verdicts))
    yield f"{result.status.upper():<8} {place}: {printable(result.name)} under {result.policy}: {verdicts}"
    yield from (f"         {one_line(message)}" for message in result.messages)
    if result.status is Status.XFAILED:
        yield f"         known: {one_line(result.xfail or '')}"
    elif result.note and not result.status.good:
        yield f"         note: {one_line(result.note)}"
