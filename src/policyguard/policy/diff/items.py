"""The lists of one rule, compared: items added, removed, reworded, or moved from one list to the other."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from policyguard.policy.diff.change import Change, Effect, Kind
from policyguard.policy.lint.words import content
from policyguard.policy.schema import Status

if TYPE_CHECKING:
    from policyguard.policy.schema import Rule

__all__ = ["compare_items"]

_SHARED_WORDS = 0.5
_SHARED_LETTERS = 0.85
"""From either share on, an item counts as an old one in other words, or spelt otherwise."""


def compare_items(old: Rule, new: Rule) -> Iterator[Change]:
    """What changed in ``unsafe`` and ``safe``. The order of items counts only where nothing else changed."""
    gone = {name: [item for item in getattr(old, name) if item not in getattr(new, name)] for name in _LISTS}
    come = {name: [item for item in getattr(new, name) if item not in getattr(old, name)] for name in _LISTS}
    for source, target in (("unsafe", "safe"), ("safe", "unsafe")):
        for item in [item for item in gone[source] if item in come[target]]:
            gone[source].remove(item)
            come[target].remove(item)
            # A sensitive rule forbids both of its lists.
            unclear = new.status is Status.SENSITIVE
            effect = Effect.UNCLEAR if unclear else _effect(new, stronger=target == "unsafe")
            yield Change(Kind.MOVED, effect, new.id, f"{source} to {target}", None, item)
    for name in _LISTS:
        for before, after in _reworded(gone[name], come[name]):
            yield Change(Kind.REWORDED, Effect.UNCLEAR, new.id, name, before, after)
        for item in gone[name]:
            yield _change(new, name, item, added=False)
        for item in come[name]:
            yield _change(new, name, item, added=True)
        before_items, after_items = getattr(old, name), getattr(new, name)
        if before_items != after_items and sorted(before_items) == sorted(after_items):
            yield Change(Kind.MOVED, Effect.UNCLEAR, new.id, f"order of {name}")


_LISTS = ("unsafe", "safe")


def _change(rule: Rule, name: str, item: str, *, added: bool) -> Change:
    # In a sensitive rule, what is listed as safe is forbidden too.
    forbids = name == "unsafe" or rule.status is Status.SENSITIVE
    effect = _effect(rule, stronger=added == forbids)
    kinds = {Effect.STRONGER: Kind.STRENGTHENED, Effect.WEAKER: Kind.WEAKENED}
    kind = kinds.get(effect, Kind.CHANGED)
    return Change(kind, effect, rule.id, name, None if added else item, item if added else None)


def _effect(rule: Rule, *, stronger: bool) -> Effect:
    if rule.status is Status.EXEMPT:
        return Effect.UNCLEAR  # it forbids nothing, and a model reads its lists all the same
    return Effect.STRONGER if stronger else Effect.WEAKER


def _reworded(gone: list[str], come: list[str]) -> Iterator[tuple[str, str]]:
    """Pairs of an old item and the new one most like it; both are taken out of the lists."""
    alike = ((_likeness(before, after), before, after) for before in gone for after in come)
    for likeness, before, after in sorted(alike, key=lambda found: (-found[0], found[1], found[2])):
        if likeness > 0 and before in gone and after in come:
            gone.remove(before)
            come.remove(after)
            yield before, after


def _likeness(before: str, after: str) -> float:
    """0 for two different items, else how much they have in common."""
    one, other = content(before), content(after)
    words = len(one & other) / (len(one | other) or 1)
    letters = difflib.SequenceMatcher(None, before.lower(), after.lower(), autojunk=False).ratio()
    return words + letters if words >= _SHARED_WORDS or letters >= _SHARED_LETTERS else 0.0
