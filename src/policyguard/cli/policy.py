"""``policyguard policy``: show policies, find mistakes in them, compare and test them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import (
    PARAMETERS,
    POLICY,
    ROOT,
    STYLE,
    TextOrJson,
    group,
    load_policy_with,
    parse_parameters,
    with_settings,
)
from policyguard.cli.policy_diff import diff
from policyguard.cli.policy_show import policy_lines, render
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line, printable

if TYPE_CHECKING:
    from policyguard.authoring.cases import CaseReport, CaseResult
    from policyguard.policy import Policy
    from policyguard.runs.settings import RunSettings


__all__ = ["app"]

app = group("Show policies, find mistakes in them, compare them, and test them.")


class PolicyFormat(StrEnum):
    """How a policy is printed: for people, with everything derived from it, or as the file itself."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


class FailOnLevel(StrEnum):
    """The mildest level that makes a run fail."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


@app.command("show")
@command
def show(
    policy: POLICY,
    style: Annotated[
        PolicyFormat,
        typer.Option("--format", "-f", help="text, json, or the YAML file itself to start your own from."),
    ] = PolicyFormat.TEXT,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Show one policy after composition: rules, settings, fingerprints.

    For a policy that extends others, the file and line of each part are shown, and the reason for everything
    that makes it weaker than what it extends.
    """
    from policyguard.policy.files import locate

    loaded = load_policy_with(policy, root=root, parameters=values)
    if style is PolicyFormat.TEXT:
        print("\n".join(policy_lines(loaded)))
    elif style is PolicyFormat.JSON:
        print(json.dumps(_as_dict(loaded), indent=2))
    else:
        sys.stdout.write(locate(policy).path.read_text(encoding="utf-8"))
    return ExitCode.OK


@app.command("lint")
@command
def lint(
    policies: Annotated[
        list[str], typer.Argument(metavar="POLICY", help="YAML files, or names of packaged policies.")
    ],
    style: STYLE = TextOrJson.TEXT,
    fail_on: Annotated[
        FailOnLevel, typer.Option("--fail-on", help="The mildest level that ends in exit code 1.")
    ] = FailOnLevel.ERROR,
    budget: Annotated[
        int | None,
        typer.Option(
            "--budget", min=1, help="The most tokens that the prompt may have, not counting the image."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Count tokens as this model does, and hold the prompt to its context: pico, or the folder "
            "of a model. Default: an estimate.",
        ),
    ] = None,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Find mistakes and doubts in policies.

    Each is printed as FILE:LINE:COLUMN: level: field: what is wrong [code]; what is wrong with a policy as a
    whole has no line.

    Exit code: 2 a file is no policy at all [invalid]; 1 something else is at or above the level of --fail-on,
    such as a policy that the model cannot take [unreadable]; 0 otherwise.
    """
    from policyguard.authoring.linter import Level, TokenCounter
    from policyguard.authoring.linter import lint as check

    counter = TokenCounter(model)
    parameters = parse_parameters(values)
    results = {
        name: check(name, root=root, parameters=parameters, counter=counter, budget=budget)
        for name in policies
    }
    # A remark about a file that several policies extend is printed once.
    remarks = list(dict.fromkeys(remark for several in results.values() for remark in several))
    counts = Counter(remark.level for remark in remarks)
    if style is TextOrJson.JSON:
        files = [
            {"policy": name, "remarks": [r.to_dict() for r in several]} for name, several in results.items()
        ]
        print(json.dumps({"policies": files, "counts": {level: counts[level] for level in Level}}, indent=2))
    else:
        for remark in remarks:
            print(printable(str(remark)))
    sys.stdout.flush()
    number = f"{len(policies)} {'policy' if len(policies) == 1 else 'policies'}"
    print(f"{number}: " + ", ".join(f"{level}s {counts[level]}" for level in Level), file=sys.stderr)
    if any(remark.code == "invalid" for remark in remarks):
        return ExitCode.USAGE
    if fail_on is FailOnLevel.NEVER:
        return ExitCode.OK
    worst = max((remark.level.severity for remark in remarks), default=-1)
    return ExitCode.BLOCKED if worst >= Level(fail_on.value).severity else ExitCode.OK


app.command("render")(render)
app.command("diff")(diff)


@app.command("test")
@command
@with_settings("model", "base_url", "dialect", "subset", "replicas")
def check_cases(
    *,
    file: Annotated[Path, typer.Argument(metavar="CASES", help="A YAML file of cases.")],
    style: STYLE = TextOrJson.TEXT,
    xml: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write a JUnit XML report too.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print cases that are as expected too.")
    ] = False,
    settings: RunSettings,
    root: ROOT = None,
) -> ExitCode:
    """Judge the images of a file of cases, and compare the results with what it expects.

    The model is the one that `policyguard check` takes here: the project file's, unless one is named.

    Exit code: 0 all is as expected, or fails as known (xfail); 1 something is not; 2 the file, a policy or
    the set-up is wrong; 3 all else is as expected, but the model failed on an image.
    """
    from policyguard.authoring.cases import Status, load_cases, run_cases
    from policyguard.cli.progress import load_model, progress_bar
    from policyguard.runs.job import build_guard, model_settings

    cases = load_cases(file, root=root)
    with build_guard(list(cases.policies.values()), **model_settings(settings)) as guard:
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


@app.command("schema")
@command
def schema() -> ExitCode:
    """Print the JSON Schema of policy files, for completion and checks in editors."""
    from policyguard.authoring.editor import json_schema

    print(json.dumps(json_schema(), indent=2))
    return ExitCode.OK


@app.command("list")
@command
def list_(
    style: STYLE = TextOrJson.TEXT,
) -> ExitCode:
    """List the packaged policies."""
    from policyguard.cli.output import print_table
    from policyguard.policy import load_policy, packaged_policies

    loaded = {name: load_policy(name) for name in packaged_policies()}
    if style is TextOrJson.JSON:
        fields = ("version", "title", "world")
        print(
            json.dumps(
                [{"name": name} | {f: getattr(p, f) for f in fields} for name, p in loaded.items()], indent=2
            )
        )
    else:
        rows = [(name, p.version, p.world or "any image", p.title) for name, p in loaded.items()]
        print_table(("policy", "version", "world", "title"), rows, sys.stdout)
    return ExitCode.OK


def _as_dict(policy: Policy) -> dict[str, object]:
    resolved = policy.resolve()
    return policy.model_dump(mode="json") | {
        "outcomes": dict(resolved.outcomes),
        "fingerprint": resolved.fingerprint,
        "decision_fingerprint": resolved.decision_fingerprint,
        "text": resolved.text,
        "parameters": dict(policy.parameters),
        "origins": {
            field: {"file": origin.file, "line": origin.line} for field, origin in policy.origins.items()
        },
        "weakenings": [
            {**weakening.to_dict(), "file": weakening.file, "line": weakening.line}
            for weakening in policy.weakenings
        ],
    }


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
