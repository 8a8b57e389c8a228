"""Policies as people read them, and what is doubtful about them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from policyguard.cli.text import one_line, printable
from policyguard.errors import PolicyError, Problem
from policyguard.policy import Policy, Rule, Status
from policyguard.policy.document import Document
from policyguard.policy.load import locate, read_document
from policyguard.policy.validate import validate_document

__all__ = ["lint_lines", "policy_lines"]

_WIDTH = 100


def policy_lines(policy: Policy) -> Iterator[str]:
    """One policy, whole: head, settings, rules in order."""
    resolved = policy.resolve()
    yield f"{policy.id} {policy.version}: {printable(policy.title)}"
    yield from _wrapped(policy.description, indent="  ")
    yield ""
    yield f"world         {policy.world or 'photographs and all else'}"
    yield f"decision      {resolved.action} from a score of {resolved.threshold:g}, unless a rule differs"
    if resolved.undecided_band is not None:
        low, high = resolved.undecided_band
        yield f"undecided     scores from {low:g} to {high:g}"
    yield f"label floor   {resolved.min_label_mass:g}"
    yield f"frames        {resolved.frames}"
    yield "outcomes      " + ", ".join(
        f"{outcome}: {action}" for outcome, action in resolved.outcomes.items()
    )
    for name, value in (
        ("owner", policy.owner),
        ("licence", policy.licence),
        ("sources", "; ".join(policy.sources)),
    ):
        if value:
            yield f"{name:<13} {printable(value)}"
    yield f"fingerprint   {resolved.fingerprint}"
    for key, rule in zip(resolved.keys, policy.rules, strict=True):
        yield ""
        yield from _rule_lines(key, rule)


def _rule_lines(key: str, rule: Rule) -> Iterator[str]:
    settings = [] if rule.status is Status.ACTIVE else [str(rule.status)]
    settings += [] if rule.threshold is None else [f"threshold {rule.threshold:g}"]
    settings += [] if rule.action is None else [f"action {rule.action}"]
    yield f"{key}. {printable(rule.title)} ({', '.join((rule.id, *settings))})"
    yield from _wrapped(rule.description, indent="   ")
    yield from _items("must not show", rule.unsafe)
    yield from _items("may show", rule.safe)


def _items(head: str, items: Iterable[str]) -> Iterator[str]:
    for number, item in enumerate(items):
        yield from _wrapped(item, indent=" " * 19, first=f"   {'' if number else head:<14}- ")


def _wrapped(text: str, *, indent: str, first: str | None = None) -> list[str]:
    return textwrap.wrap(
        one_line(text), _WIDTH, initial_indent=indent if first is None else first, subsequent_indent=indent
    )


def lint_lines(name: str) -> Iterator[tuple[str, str]]:
    """(severity, line) of everything worth saying about one policy; severity is error, hint or warning."""
    try:
        document = read_document(locate(name))
        policy = validate_document(document)
    except PolicyError as error:
        for problem in error.problems:
            yield "error", _line(problem, "error")
        if error.hint:
            yield "hint", f"  hint: {printable(error.hint)}"
        return
    for problem in _doubts(policy, document):
        yield "warning", _line(problem, "warning")


def _line(problem: Problem, severity: str) -> str:
    place = ":".join(str(part) for part in (problem.file, problem.line, problem.column) if part is not None)
    field = f"{problem.field}: " if problem.field else ""
    return printable(f"{place}: {severity}: {field}{problem.message}")


def _doubts(policy: Policy, document: Document) -> Iterator[Problem]:
    """What makes a policy harder to apply or to answer for, though it can be used."""
    for index, rule in enumerate(policy.rules):
        place = document.root.locate(("rules", index))
        if rule.status is not Status.EXEMPT and not rule.unsafe:
            yield Problem(f"rule '{rule.id}' gives no example under `unsafe:`", document.file, *place)
        if rule.status is Status.ACTIVE and not rule.safe:
            yield Problem(
                f"rule '{rule.id}' gives no example under `safe:` of what looks alike and may pass",
                document.file,
                *place,
            )
    for field, purpose in (("owner", "who answers for it"), ("licence", "what others may do with it")):
        if getattr(policy, field) is None:
            yield Problem(f"there is no `{field}:`, {purpose}", document.file, *document.root.place)
