"""Policies as people read them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from policyguard.cli.text import one_line, printable
from policyguard.policy import Policy, Rule, Status
from policyguard.policy.library import find_library
from policyguard.policy.provenance import Origin

__all__ = ["policy_lines"]

_WIDTH = 100
_HEAD = 14


def policy_lines(policy: Policy) -> Iterator[str]:
    """One policy, whole: head, settings, rules in order, reasons for what was weakened.

    Where it was composed of several files, with the file and line of each part.
    """
    resolved = policy.resolve()
    origins = _Origins(policy.origins)
    yield f"{policy.id} {policy.version}: {printable(policy.title)}{origins('title')}"
    yield from _wrapped(policy.description, indent="  ", last=origins("description"))
    yield ""
    yield f"world         {policy.world or 'photographs and all else'}{origins('world')}"
    deciding = f"{resolved.action} from a score of {resolved.threshold:g}, unless a rule differs"
    yield f"decision      {deciding}{origins('defaults.threshold', 'defaults.action')}"
    if resolved.undecided_band is not None:
        low, high = resolved.undecided_band
        yield f"undecided     scores from {low:g} to {high:g}{origins('defaults.undecided_band')}"
    yield f"label floor   {resolved.min_label_mass:g}{origins('defaults.min_label_mass')}"
    yield f"frames        {resolved.frames}{origins('defaults.frames')}"
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
            place = origins.shown(Origin(weakening.file, weakening.line))
            yield from _wrapped(f"{weakening.change} {place}", indent=" " * 5, first="   - ")
            yield from _wrapped(f"because: {weakening.reason}", indent=" " * 5)


class _Origins:
    """``[file:line]`` of a field, or nothing where all fields come from one file."""

    def __init__(self, origins: Mapping[str, Origin]) -> None:
        self._several = len({origin.file for origin in origins.values()}) > 1
        self._origins = origins
        self._folders = (find_library(), Path.cwd())

    def __call__(self, *fields: str) -> str:
        if not self._several:
            return ""
        found = [self.shown(self._origins[field]) for field in fields if field in self._origins]
        return "".join(f" {place}" for place in dict.fromkeys(found))

    def shown(self, origin: Origin) -> str:
        file = Path(origin.file)
        for folder in self._folders:
            if file.is_absolute() and file.is_relative_to(folder):
                file = file.relative_to(folder)
        return printable(f"[{Origin(str(file), origin.line)}]")


def _rule_lines(key: str, rule: Rule, origins: _Origins) -> Iterator[str]:
    field = f"rules.{rule.id}"
    settings = [] if rule.status is Status.ACTIVE else [f"{rule.status}{origins(f'{field}.status')}"]
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
    if rule.status is Status.EXEMPT:
        yield from _items("may show", [*unsafe, *safe])
    else:
        yield from _items("must not show", unsafe)
        sensitive = rule.status is Status.SENSITIVE
        yield from _items("nor, though often allowed" if sensitive else "may show", safe)


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
