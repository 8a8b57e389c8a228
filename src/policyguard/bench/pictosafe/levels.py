"""The five packaged policies of the benchmark, and the table of what each of them forbids."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from policyguard.bench.pictosafe.rules import PictoPolicy
from policyguard.bench.pictosafe.world import CONTEXTS, GROUP_NAMES, MEMBERS
from policyguard.policy import load_policy

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["LEVELS", "group_table", "load_level", "symbolic_level"]

LEVELS: Final = tuple(f"pictosafe/l{number}" for number in range(1, 6))
"""Their packaged names, by rising share of unsafe scenes; what one forbids, a later one may allow."""


@cache
def load_level(name: str) -> ResolvedPolicy:
    """A level's policy, as guards take it."""

    return load_policy(name).resolve()


@cache
def symbolic_level(name: str) -> PictoPolicy:
    """A level's policy as symbols."""
    return PictoPolicy.from_resolved(load_level(name))


def group_table() -> str:
    """A Markdown table: how many pictograms of each group each level forbids, free, framed and prohibited."""
    head = ["group", "pictograms", *(name.rpartition("/")[2].upper() for name in LEVELS)]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    policies = [symbolic_level(name) for name in LEVELS]
    rows += [
        [group, str(len(MEMBERS[group])), *(_cell(policy, group) for policy in policies)]
        for group in GROUP_NAMES
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(policy: PictoPolicy, group: str) -> str:
    counts = [
        sum(any(rule.is_broken_by(name, context=context) for rule in policy.rules) for name in MEMBERS[group])
        for context in (None, *CONTEXTS)
    ]
    return " / ".join(map(str, counts)) if any(counts) else "–"
