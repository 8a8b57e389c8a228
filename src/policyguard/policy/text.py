"""A policy in plain language: what dialects put in front of a guard model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from policyguard.policy.characters import one_line
from policyguard.policy.schema import Status

if TYPE_CHECKING:
    from policyguard.policy.resolved import ResolvedPolicy
    from policyguard.policy.schema import Rule

__all__ = ["KEYS", "TEXT_VERSION", "render"]

KEYS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
TEXT_VERSION = "1"
"""Raise it with every change to what ``render`` writes: it is part of each policy's fingerprint."""

_SCOPE = 'What a rule lists under "May show" is excused from that rule only, and only what it describes.'


def render(policy: ResolvedPolicy) -> str:
    """Title, description and rules, keyed A to Z in order. Every text is put on one line of its own.

    One line each, so that a text cannot pass for a rule or a heading.
    """
    head = [f"Policy: {policy.title}"]
    if policy.description:
        head.append(one_line(policy.description))
    if any(rule.safe and rule.status is Status.ACTIVE for rule in policy.rules):
        head.append(_SCOPE)
    rules = ("\n".join(_rule(key, rule)) for key, rule in zip(KEYS, policy.rules, strict=False))
    return "\n\n".join(["\n".join(head), *rules])


def _rule(key: str, rule: Rule) -> Iterable[str]:
    yield f"{key}. {rule.title}" + (f" — {one_line(rule.description)}" if rule.description else "")
    if rule.status is Status.EXEMPT:
        yield "Declared non-violating: this rule forbids nothing."
        yield from _items("May show:", (*rule.unsafe, *rule.safe))
    elif rule.status is Status.SENSITIVE:
        yield "Declared sensitive: anything that touches this rule violates it, with no exception."
        yield from _items("Must not show:", rule.unsafe)
        yield from _items("Must not show either, although it is often allowed:", rule.safe)
    else:
        yield from _items("Must not show:", rule.unsafe)
        yield from _items("May show:", rule.safe)


def _items(heading: str, items: Iterable[str]) -> Iterable[str]:
    lines = [f"- {item}" for item in items]
    return [heading, *lines] if lines else []
