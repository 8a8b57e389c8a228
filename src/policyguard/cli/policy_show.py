"""A policy as text: composed (``policy show``), and as the prompt that a model gets (``policy render``)."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from policyguard.cli.errors import command
from policyguard.cli.options import (
    DIALECT,
    PARAMETERS,
    POLICY,
    ROOT,
    STYLE,
    TextOrJson,
    load_policy_with,
)
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import one_line, printable

if TYPE_CHECKING:
    from policyguard.dialects import Dialect, Prompt
    from policyguard.policy import Origin, Policy, Rule

__all__ = ["policy_lines", "render"]


_WIDTH = 100
_HEAD = 14


@command
def render(
    policy: POLICY,
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
    style: STYLE = TextOrJson.TEXT,
    root: ROOT = None,
    values: PARAMETERS = None,
) -> ExitCode:
    """Print what a model reads of a policy, word for word.

    In text, a line in square brackets begins each turn, and <image> stands for the image.
    The number of tokens goes to stderr.
    """
    from policyguard.authoring.linter.budget import TokenCounter, default_dialect
    from policyguard.dialects import get_dialect

    resolved = load_policy_with(policy, root=root, parameters=values).resolve()
    counter = TokenCounter(model)
    chosen = get_dialect(dialect) if dialect is not None else default_dialect(resolved, model)
    prompts = chosen.render(resolved)
    texts = [counter.text(prompt) if counter.exact else None for prompt in prompts]
    if style is TextOrJson.JSON:
        shapes = [
            _as_dict(chosen, prompt) | {"text": text} for prompt, text in zip(prompts, texts, strict=True)
        ]
        print(json.dumps(shapes[0] if len(shapes) == 1 else shapes, indent=2))
    else:
        for number, (prompt, text) in enumerate(zip(prompts, texts, strict=True), 1):
            if len(prompts) > 1:
                print(f"[prompt {number} of {len(prompts)}: rule {prompt.rule}]")
            print("\n".join(_lines(prompt) if text is None else map(printable, text.split("\n"))))
    sys.stdout.flush()
    how = f"counted by the tokenizer of {counter.model}" if counter.exact else "estimated"
    count = sum(map(counter.count, prompts))
    summary = f"dialect {chosen.name} {chosen.version}, {count:,} tokens without the image"
    print(f"{summary} ({how})", file=sys.stderr)
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
        "rule": prompt.rule,
        "template": dict(prompt.template),
        "thinks_until": prompt.thinks_until,
    }


def policy_lines(policy: Policy) -> Iterator[str]:
    """The whole policy: head, settings, rules in order, reasons for weakenings.

    If it is composed of several files, with the file and line of each part.
    """
    resolved = policy.resolve()
    origins = _Origins(policy.origins)
    yield f"{policy.id} {policy.version}: {printable(policy.title)}{origins('title')}"
    yield from _wrapped(policy.description, indent="  ", last=origins("description"))
    yield ""
    yield f"world         {policy.world or 'any image, drawn or photographed'}{origins('world')}"
    deciding = f"{resolved.action} from a score of {resolved.threshold:g}, unless a rule differs"
    yield f"decision      {deciding}{origins('defaults.threshold', 'defaults.action')}"
    if resolved.undecided_band is not None:
        low, high = resolved.undecided_band
        yield f"undecided     scores from {low:g} to {high:g}{origins('defaults.undecided_band')}"
    if resolved.calibration is not None:
        yield f"calibration   {printable(str(resolved.calibration))}{origins('defaults.calibration')}"
    yield f"label floor   {resolved.min_label_mass:g}{origins('defaults.min_label_mass')}"
    yield f"frames        {resolved.frames}{origins('defaults.frames')}"
    if resolved.needs_scores or resolved.without_scores == "ratings":
        how = {"refuse": "refused", "ratings": "ratings decide"}[resolved.without_scores]
        yield f"no scores     {how}{origins('defaults.without_scores')}"
    yield "outcomes      " + ", ".join(
        f"{outcome}: {action}{origins(f'outcomes.{outcome}')}"
        for outcome, action in resolved.outcomes.items()
    )
    parameters = ", ".join(f"{name}={value}" for name, value in policy.parameters.items())
    for name, value in (
        ("owner", policy.owner),
        ("licence", policy.licence),
        ("sources", "; ".join(policy.sources)),
        ("parameters", parameters),
    ):
        if value:
            yield f"{name:<13} {printable(value)}{origins(name)}"
    yield f"fingerprint   {resolved.fingerprint}"
    for key, rule in zip(resolved.keys, policy.rules, strict=True):
        yield ""
        yield from _rule_lines(key, rule, origins)
    if policy.weakenings:
        yield ""
        yield "weaker than what it extends, and why"
        for weakening in policy.weakenings:
            place = origins.place(weakening.file, weakening.line)
            yield from _wrapped(f"{weakening.change} {place}", indent=" " * 5, first="   - ")
            yield from _wrapped(f"because: {weakening.reason}", indent=" " * 5)


class _Origins:
    """``[file:line]`` of a field, or nothing if all fields come from one file."""

    def __init__(self, origins: Mapping[str, Origin]) -> None:
        from policyguard.policy.files import find_library

        self._several = len({origin.file for origin in origins.values()}) > 1
        self._origins = origins
        self._folders = (find_library(), Path.cwd())

    def __call__(self, *fields: str) -> str:
        if not self._several:
            return ""
        places = [
            self.place(origin.file, origin.line) for field in fields if (origin := self._origins.get(field))
        ]
        return "".join(f" {place}" for place in dict.fromkeys(places))

    def place(self, name: str, line: int | None) -> str:
        file = Path(name)
        for folder in self._folders:
            if file.is_absolute() and file.is_relative_to(folder):
                file = file.relative_to(folder)
        return printable(f"[{file}]" if line is None else f"[{file}:{line}]")


def _rule_lines(key: str, rule: Rule, origins: _Origins) -> Iterator[str]:
    field = f"rules.{rule.id}"
    settings = [] if rule.status == "active" else [f"{rule.status}{origins(f'{field}.status')}"]
    if rule.threshold is not None:
        settings.append(f"threshold {rule.threshold:g}{origins(f'{field}.threshold')}")
    if rule.action is not None:
        settings.append(f"action {rule.action}{origins(f'{field}.action')}")
    place = origins(f"{field}.title") or origins(field)
    yield f"{key}. {printable(rule.title)} ({', '.join((rule.id, *settings))}){place}"
    yield from _wrapped(rule.description, indent="   ", last=origins(f"{field}.description"))
    unsafe, safe = (
        [(item, origins(f"{field}.{name}[{place}]")) for place, item in enumerate(items)]
        for name, items in (("unsafe", rule.unsafe), ("safe", rule.safe))
    )
    if rule.status == "exempt":
        yield from _items("may show", [*unsafe, *safe])
    else:
        yield from _items("must not show", unsafe)
        sensitive = rule.status == "sensitive"
        yield from _items("nor, though often allowed" if sensitive else "may show", safe)
        signals = [(item, origins(f"{field}.signals[{place}]")) for place, item in enumerate(rule.signals)]
        yield from _items("signals", signals)


def _items(head: str, items: Iterable[tuple[str, str]]) -> Iterator[str]:
    for number, (item, place) in enumerate(items):
        if number == 0 and len(head) >= _HEAD:
            yield f"   {head}"
        first = f"   {head if number == 0 and len(head) < _HEAD else '':<{_HEAD}}- "
        yield from _wrapped(item, indent=" " * (_HEAD + 5), first=first, last=place)


def _wrapped(text: str, *, indent: str, first: str | None = None, last: str = "") -> list[str]:
    lines = textwrap.wrap(
        one_line(text), _WIDTH, initial_indent=indent if first is None else first, subsequent_indent=indent
    )
    return [*lines[:-1], lines[-1] + last] if lines else []
