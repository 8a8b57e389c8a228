"""``policyguard models``: the guard models that are known by name."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from policyguard.cli.errors import command, warn
from policyguard.cli.exits import ExitCode
from policyguard.cli.options import TextOrJson

__all__ = ["models"]

_FIELDS = ("id", "family", "size", "dialect", "licence", "world", "about")


@command
def models(
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
) -> ExitCode:
    """List the guard models that are known by name."""
    from policyguard.backends.registry import known_models
    from policyguard.cli.table import print_table

    known = [{field: getattr(model, field) for field in _FIELDS} for model in known_models()]
    if style is TextOrJson.JSON:
        print(json.dumps(known, indent=2))
    else:
        heads = ("id", "family", "dialect", "licence", "about")
        for model in known:  # one column, so that the last has room in a narrow terminal
            model["family"] = " ".join(filter(None, (model["family"], model["size"])))
        print_table(heads, [[model[head] or "-" for head in heads] for model in known], sys.stdout)
        sys.stdout.flush()
        warn("any other image-text-to-text model can be named by its hub id or folder")
    return ExitCode.OK
