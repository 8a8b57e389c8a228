"""``policyguard policy``: look at policies, and find what is wrong with them."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import PARAMETERS, ROOT, TextOrJson
from policyguard.cli.policy_cases import check_cases
from policyguard.cli.policy_diff import diff
from policyguard.cli.policy_lint import lint
from policyguard.cli.policy_show import load, render
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
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Show one policy as it is after composition: rules, settings, fingerprints.

    Of a policy that extends others, with the file and line that each part comes from, and with the reason for
    everything that makes it weaker than what it extends.
    """
    from policyguard.cli.policy_show import policy_lines
    from policyguard.policy.load import locate

    loaded = load(policy, root=root, given=values)
    if style is PolicyFormat.TEXT:
        print("\n".join(policy_lines(loaded)))
    elif style is PolicyFormat.JSON:
        print(json.dumps(_as_dict(loaded), indent=2))
    else:
        sys.stdout.write(locate(policy).read_text(encoding="utf-8"))
    return ExitCode.OK


app.command("lint")(lint)
app.command("render")(render)
app.command("diff")(diff)
app.command("test")(check_cases)


@app.command("schema")
@command
def schema() -> ExitCode:
    """Print the JSON Schema of policy files, with which editors complete and underline."""
    from policyguard.authoring.editor import json_schema

    print(json.dumps(json_schema(), indent=2))
    return ExitCode.OK


@app.command("list")
@command
def list_(
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
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
