"""``policyguard policy``: show policies, find mistakes in them, compare and test them."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import PARAMETERS, POLICY, ROOT, STYLE, TextOrJson, load_policy_with
from policyguard.cli.policy_cases import check_cases
from policyguard.cli.policy_diff import diff
from policyguard.cli.policy_lint import lint
from policyguard.cli.policy_show import policy_lines, render
from policyguard.runs.exits import ExitCode

if TYPE_CHECKING:
    from policyguard.policy import Policy

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Show policies, find mistakes in them, compare them, and test them."
)


class PolicyFormat(StrEnum):
    """How a policy is printed: for people, with everything derived from it, or as the file itself."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


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


app.command("lint")(lint)
app.command("render")(render)
app.command("diff")(diff)
app.command("test")(check_cases)


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
        "parameters": dict(policy.parameters),
        "origins": {
            field: {"file": origin.file, "line": origin.line} for field, origin in policy.origins.items()
        },
        "weakenings": [
            {**weakening.to_dict(), "file": weakening.file, "line": weakening.line}
            for weakening in policy.weakenings
        ],
    }
