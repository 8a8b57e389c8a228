"""The form of a random policy: everything about it but the concepts. Also, what is held out from training."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from policyguard.pictosafe.language import DETERMINERS, MANNERS
from policyguard.pictosafe.rules import RuleStatus
from policyguard.pictosafe.world import CONTEXTS, GROUP_NAMES, MEMBERS, Context

__all__ = [
    "HELD_NAMES",
    "Difficulty",
    "RuleForm",
    "Slot",
    "draw_forms",
    "is_held_pair",
    "is_held_wording",
]

HELD_NAMES: Final = frozenset(
    members[place] for members in MEMBERS.values() for place in (2, 5) if len(members) > place + 1
)
"""Pictograms that no training policy names singly (it may name their group)."""

_NUMBER: Final = {group: number for number, group in enumerate(GROUP_NAMES)}


def is_held_pair(one: str, other: str) -> bool:
    """Whether two groups never stand together in one rule of a training policy."""
    a, b = _NUMBER[one], _NUMBER[other]
    return a != b and (a * b + a + b) % 5 == 0


def is_held_wording(unsafe: int, safe: int, manner: int) -> bool:
    """Whether a training rule never has these determiners in its two lists with this word for a context."""
    return (unsafe + 2 * safe + 3 * manner) % 5 == 0


@dataclass(frozen=True, slots=True)
class Difficulty:
    """How involved random policies and their scenes may be. A curriculum grows from small values to these."""

    rules: int = 8
    unsafe: int = 4
    safe: int = 3
    items: int = 18
    """The most items of a policy in all."""
    exceptions: bool = True
    """Whether there are safe lists, and items that speak of a context."""
    statuses: bool = True
    """Whether rules may be exempt or sensitive."""
    pictograms: int = 6
    contexts: tuple[Context, ...] = CONTEXTS
    """The contexts that pictograms stand in and items speak of."""
    overlap: bool = True
    """Whether pictograms may cover each other in part."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The form of one item. ``about`` is the (rule, place) of an unsafe item that it speaks of, if any."""

    group: bool
    context: Context | None
    about: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class RuleForm:
    """The form of one rule."""

    unsafe: tuple[Slot, ...]
    safe: tuple[Slot, ...]
    status: RuleStatus
    wordings: tuple[int, ...]


def draw_forms(rng: Random, difficulty: Difficulty, *, held: bool) -> tuple[RuleForm, ...]:
    """The form of a policy, at least one rule of which forbids something."""
    random = rng.random
    while True:
        forms: list[RuleForm] = []
        left = difficulty.items
        count = 1 + int(random() * min(difficulty.rules, left))
        for following in range(count - 1, -1, -1):  # each rule leaves one item for every rule after it
            unsafe_count = min(1 + int(random() * difficulty.unsafe), left - following)
            left -= unsafe_count
            safe_count = 0
            if difficulty.exceptions and random() < 0.6:
                safe_count = min(1 + int(random() * difficulty.safe), left - following)
                left -= safe_count
            unsafe = tuple(
                Slot(random() < 0.5, _context(rng, difficulty, 0.06 if difficulty.exceptions else 0))
                for _ in range(unsafe_count)
            )
            lists = [form.unsafe for form in forms] + [unsafe]
            safe = tuple(_safe_slot(rng, difficulty, lists) for _ in range(safe_count))
            chance = random() if difficulty.statuses else 1.0
            status: RuleStatus = "exempt" if chance < 0.10 else "sensitive" if chance < 0.14 else "active"
            forms.append(RuleForm(unsafe, safe, status, _wordings(rng, unsafe_count, safe_count, held=held)))
        if any(form.status != "exempt" for form in forms):
            return tuple(forms)


def _context(rng: Random, difficulty: Difficulty, share: float) -> Context | None:
    """Mostly None; each of the difficulty's contexts alike in a ``share`` of the draws."""
    random = rng.random
    if random() >= share:
        return None
    return difficulty.contexts[int(random() * len(difficulty.contexts))]


def _safe_slot(rng: Random, difficulty: Difficulty, lists: list[tuple[Slot, ...]]) -> Slot:
    """Mostly about something the same rule forbids, sometimes about what an earlier rule forbids."""
    random = rng.random
    chance = random()
    if chance > 0.75:
        return Slot(random() < 0.5, _context(rng, difficulty, 0.3))
    if chance > 0.65 and len(lists) > 1:  # excused here, and still forbidden there
        rule = int(random() * (len(lists) - 1))
        place = int(random() * len(lists[rule]))
        return Slot(lists[rule][place].group, _context(rng, difficulty, 0.3), (rule, place))
    rule = len(lists) - 1
    place = int(random() * len(lists[rule]))
    if not lists[rule][place].group:
        return Slot(random() < 0.25, _context(rng, difficulty, 1), (rule, place))
    if random() < 0.6:
        return Slot(random() < 0.7, _context(rng, difficulty, 1), (rule, place))
    return Slot(False, None, (rule, place))


def _wordings(rng: Random, unsafe: int, safe: int, *, held: bool) -> tuple[int, ...]:
    """One manner of speaking for each list; in a quarter of the training rules every item has its own."""
    random = rng.random
    determiners, manners = len(DETERMINERS), MANNERS
    if not held and random() < 0.25:
        return tuple([int(random() * determiners * manners) for _ in range(unsafe + safe)])
    while True:
        first, second = int(random() * determiners), int(random() * determiners)
        manner = int(random() * manners)
        if is_held_wording(first, second, manner) == held:
            return (first * manners + manner,) * unsafe + (second * manners + manner,) * safe
