"""``policyguard models``: the guard models that are known by name."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from policyguard.cli.doctor import server_address
from policyguard.cli.errors import command, warn
from policyguard.cli.exits import ExitCode
from policyguard.cli.options import TextOrJson

__all__ = ["models"]

_FIELDS = ("id", "family", "size", "dialect", "licence", "world", "about")


@command
def models(
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="Ask this server; its key is in POLICYGUARD_API_KEY."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="NAME", help="Which of the server's models.")
    ] = None,
) -> ExitCode:
    """List the guard models that are known by name; with --base-url, what a server runs and can do.

    Without --model, a server is asked what it can do with the only model that it runs.
    """
    if base_url is not None:
        return _served(base_url, model, style)
    from policyguard.backends.registry import known_models
    from policyguard.cli.table import print_table

    known = [{field: getattr(entry, field) for field in _FIELDS} for entry in known_models()]
    if style is TextOrJson.JSON:
        print(json.dumps(known, indent=2))
    else:
        heads = ("id", "family", "dialect", "licence", "about")
        for entry in known:  # one column, so that the last has room in a narrow terminal
            entry["family"] = " ".join(filter(None, (entry["family"], entry["size"])))
        print_table(heads, [[entry[head] or "-" for head in heads] for entry in known], sys.stdout)
        sys.stdout.flush()
        warn("any other image-text-to-text model can be named by its hub id or folder")
    return ExitCode.OK


def _served(base_url: str, model: str | None, style: TextOrJson) -> ExitCode:
    from policyguard.backends.vllm.capabilities import capabilities
    from policyguard.cli.table import print_table

    address, key = server_address(base_url)
    found = capabilities(address, model=model, api_key=key)
    if style is TextOrJson.JSON:
        print(json.dumps(found.to_dict(), indent=2))
        return ExitCode.OK
    rows = [[entry.id, "-" if entry.context is None else str(entry.context)] for entry in found.served]
    print_table(("served as", "context"), rows, sys.stdout)
    if found.model is None or found.logprobs is None:
        sys.stdout.flush()
        warn("name one of them with --model to see what the server can do with it")
        return ExitCode.OK
    can = {None: "not told", True: "yes", False: "no"}
    abilities = [
        ("version", found.version or "not told"),
        ("log-probabilities", found.logprobs),
        ("tokenize", can[found.tokenize]),
        ("continues a begun answer", can[found.continues]),
        ("structured_outputs", can[found.constrains]),
        ("response_format", can[found.response_format]),
        ("prefix cache", can[found.prefix_cache]),
    ]
    print()
    print_table((found.host, found.model), abilities, sys.stdout)
    return ExitCode.OK
