"""Rules and items that contradict or repeat each other."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from policyguard.policy.lint.remark import Level, Remark, Step
from policyguard.policy.lint.words import alternatives, content, same_words, without_permission
from policyguard.policy.schema import Status

if TYPE_CHECKING:
    from policyguard.policy.schema import Policy, Rule

__all__ = ["overlaps"]


def overlaps(policy: Policy) -> Iterator[Remark]:
    """Contradictions, duplicates, and exceptions that repeat what they are an exception from."""
    for index, rule in enumerate(policy.rules):
        yield from _repeated_items(index, rule)
        if rule.status is Status.ACTIVE:
            yield from _empty_exceptions(index, rule)
    for (first, one), (second, other) in combinations(enumerate(policy.rules), 2):
        yield from _two_rules(first, one, second, other)


def _repeated_items(index: int, rule: Rule) -> Iterator[Remark]:
    for name in ("unsafe", "safe"):
        seen: dict[str, int] = {}
        for place, item in enumerate(getattr(rule, name)):
            earlier = seen.setdefault(same_words(item), place)
            if earlier != place:
                message = f"says the same as item {earlier + 1}: delete one of the two"
                yield _remark(Level.WARNING, "duplicate-item", message, index, name, place)


def _empty_exceptions(index: int, rule: Rule) -> Iterator[Remark]:
    same = {same_words(item): item for item in rule.unsafe}
    named = {words for item in rule.unsafe for words in alternatives(item)}
    for place, item in enumerate(rule.safe):
        if same_words(item) in same:
            message = f"the rule forbids and permits the same: {_quote(item)} is under `unsafe:` too"
            yield _remark(Level.ERROR, "contradiction", message, index, "safe", place)
        elif content(item) in named:
            message = f"the rule forbids and permits the same: `unsafe:` names {_quote(item)} as well"
            yield _remark(Level.ERROR, "contradiction", message, index, "safe", place)
        elif without_permission(content(item)) in named or not without_permission(content(item)):
            message = (
                f"{_quote(item)} repeats the prohibition, and no picture shows what is allowed about it: "
                "say what the exception looks like"
            )
            yield _remark(Level.WARNING, "empty-exception", message, index, "safe", place)


def _two_rules(first: int, one: Rule, second: int, other: Rule) -> Iterator[Remark]:
    if same_words(one.title) == same_words(other.title):
        message = f"rule '{one.id}' has this title too, so that a model cannot tell the two apart"
        yield _remark(Level.WARNING, "duplicate-rule", message, second, "title")
    mine, theirs = ({same_words(item): place for place, item in enumerate(r.unsafe)} for r in (one, other))
    shared = [item for item in theirs if item in mine]
    statuses = {one.status, other.status}
    if shared and len(shared) == len(mine) == len(theirs) and len(statuses) == 1:
        message = f"forbids exactly what rule '{one.id}' forbids: delete one of the two"
        yield _remark(Level.WARNING, "duplicate-rule", message, second)
    else:
        for item in shared:
            place = theirs[item]
            if Status.EXEMPT in statuses and len(statuses) > 1:
                allows, forbids = (one, other) if one.status is Status.EXEMPT else (other, one)
                message = (
                    f"rule '{allows.id}' declares this non-violating, and rule '{forbids.id}' forbids it"
                )
                yield _remark(Level.ERROR, "contradiction", message, second, "unsafe", place)
            elif len(statuses) == 1:
                message = f"rule '{one.id}' forbids this too, and a finding names either of the two"
                yield _remark(Level.WARNING, "duplicate-item", message, second, "unsafe", place)
    yield from _safe_elsewhere(first, one, other)
    yield from _safe_elsewhere(second, other, one)


def _safe_elsewhere(index: int, rule: Rule, other: Rule) -> Iterator[Remark]:
    """An exception excuses its own rule only; one that another rule forbids changes nothing."""
    if rule.status is not Status.ACTIVE or other.status is Status.EXEMPT:
        return
    forbidden = {same_words(item) for item in other.unsafe}
    for place, item in enumerate(rule.safe):
        if same_words(item) in forbidden:
            message = f"rule '{other.id}' forbids this, and an exception excuses its own rule only"
            yield _remark(Level.WARNING, "contradiction", message, index, "safe", place)


def _remark(level: Level, code: str, message: str, index: int, *path: Step) -> Remark:
    return Remark(level, code, message, ("rules", index, *path))


def _quote(item: str) -> str:
    return f"'{item if len(item) <= 60 else item[:57] + '...'}'"
