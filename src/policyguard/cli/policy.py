"""``policyguard policy``: look at policies, and find what is wrong with them."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.exits import ExitCode
from policyguard.cli.options import TextOrJson

if TYPE_CHECKING:
    from policyguard.policy import Policy

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Show policies, list the packaged ones, and find mistakes in files."
)


class PolicyFormat(StrEnum):
    """How a policy is printed: for people, with everything derived from it, or as the file itself."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


_Name = Annotated[
    str, typer.Argument(metavar="POLICY", help="A packaged policy such as pictosafe/l3, or a YAML file.")
]


@app.command("show")
@command
def show(
    policy: _Name,
    style: Annotated[
        PolicyFormat,
        typer.Option("--format", "-f", help="text, json, or the YAML file itself to start your own from."),
    ] = PolicyFormat.TEXT,
) -> ExitCode:
    """Show one policy: its rules, its settings, its fingerprints."""
    from policyguard.cli.policy_text import policy_lines
    from policyguard.policy import load_policy
    from policyguard.policy.load import locate

    loaded = load_policy(policy)
    if style is PolicyFormat.TEXT:
        print("\n".join(policy_lines(loaded)))
    elif style is PolicyFormat.JSON:
        print(json.dumps(_as_dict(loaded), indent=2))
    else:
        sys.stdout.write(locate(policy).read_text(encoding="utf-8"))
    return ExitCode.OK


@app.command("lint")
@command
def lint(
    policies: Annotated[
        list[str], typer.Argument(metavar="POLICY", help="YAML files, or names of packaged policies.")
    ],
) -> ExitCode:
    """Find every mistake and every doubt in policies.

    Each is printed as FILE:LINE:COLUMN: severity: what is wrong.

    Exit code: 0 all can be used (there may be warnings); 2 at least one cannot.
    """
    from policyguard.cli.policy_text import lint_lines

    errors = warnings = 0
    for name in policies:
        for severity, line in lint_lines(name):
            print(line)
            errors += severity == "error"
            warnings += severity == "warning"
    files = f"{len(policies)} {'policy' if len(policies) == 1 else 'policies'}"
    sys.stdout.flush()
    print(f"{files}: errors {errors}, warnings {warnings}", file=sys.stderr)
    return ExitCode.USAGE if errors else ExitCode.OK


@app.command("list")
@command
def list_(
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
) -> ExitCode:
    """List the packaged policies."""
    from policyguard.cli.table import print_table
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
        rows = [(name, p.version, p.world or "photographs", p.title) for name, p in loaded.items()]
        print_table(("policy", "version", "world", "title"), rows, sys.stdout)
    return ExitCode.OK


def _as_dict(policy: Policy) -> dict[str, object]:
    resolved = policy.resolve()
    return policy.model_dump(mode="json") | {
        "outcomes": dict(resolved.outcomes),
        "fingerprint": resolved.fingerprint,
        "decision_fingerprint": resolved.decision_fingerprint,
        "text": resolved.text,
    }
