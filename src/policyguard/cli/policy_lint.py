"""``policyguard policy lint``: mistakes and doubts in policies."""

from __future__ import annotations

import json
import sys
from collections import Counter
from enum import StrEnum
from typing import Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import PARAMETERS, ROOT, STYLE, TextOrJson, parse_parameters
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import printable

__all__ = ["lint"]


class FailOnLevel(StrEnum):
    """The mildest level that makes a run fail."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"


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

    Each is printed as FILE:LINE:COLUMN: level: field: what is wrong [code].

    Exit code: 2 a policy cannot be used; 1 something is at or above the level of --fail-on; 0 otherwise.
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
