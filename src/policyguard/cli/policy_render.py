"""``policyguard policy render``: the prompt, as the model reads it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.exits import ExitCode
from policyguard.cli.options import DIALECT, PARAMETERS, ROOT, TextOrJson
from policyguard.cli.policy_load import load
from policyguard.cli.text import printable

if TYPE_CHECKING:
    from policyguard.dialects import Dialect, Prompt

__all__ = ["render"]


@command
def render(
    policy: Annotated[
        str, typer.Argument(metavar="POLICY", help="A packaged policy such as pictosafe/l3, or a YAML file.")
    ],
    dialect: DIALECT = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Print the whole text with this model's own chat template and control tokens: pico, or "
            "the folder of a model.",
        ),
    ] = None,
    style: Annotated[TextOrJson, typer.Option("--format", "-f", help="text or json.")] = TextOrJson.TEXT,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Print what a model reads of a policy, word for word.

    In text, a line in square brackets begins each turn, and <picture> stands for the picture.
    The number of tokens goes to stderr.
    """
    from policyguard.dialects import get_dialect
    from policyguard.policy.lint.tokens import TokenCounter, default_dialect

    resolved = load(policy, root=root, given=values).resolve()
    counter = TokenCounter(model)
    spoken = get_dialect(dialect) if dialect is not None else default_dialect(resolved, model)
    prompt = spoken.render(resolved)
    text = counter.text(prompt) if counter.exact else None
    if style is TextOrJson.JSON:
        print(json.dumps(_as_dict(spoken, prompt) | {"text": text}, indent=2))
    elif text is not None:
        print("\n".join(map(printable, text.split("\n"))))
    else:
        print("\n".join(_lines(prompt)))
    sys.stdout.flush()
    how = f"counted by the tokenizer of {counter.model}" if counter.exact else "estimated"
    said = f"dialect {spoken.name} {spoken.version}, {counter.count(prompt):,} tokens without the picture"
    print(f"{said} ({how})", file=sys.stderr)
    return ExitCode.OK


def _lines(prompt: Prompt) -> Iterator[str]:
    for message in prompt.messages:
        yield f"[{message.role}]"
        for part in message.parts:
            yield from map(printable, part.split("\n") if isinstance(part, str) else [str(part)])
    yield "[assistant]"
    if prompt.prefill:
        yield printable(prompt.prefill)


def _as_dict(dialect: Dialect, prompt: Prompt) -> dict[str, object]:
    return {
        "dialect": dialect.name,
        "version": dialect.version,
        "layout": dialect.layout,
        "messages": [
            {
                "role": message.role,
                "parts": [
                    {"text": part} if isinstance(part, str) else {"picture": True} for part in message.parts
                ],
            }
            for message in prompt.messages
        ],
        "prefill": prompt.prefill,
        "ratings": {label: rating.value for label, rating in prompt.ratings.items()},
        "category_prefill": prompt.category_prefill,
        "categories": dict(prompt.categories),
    }
