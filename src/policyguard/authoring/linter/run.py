"""Runs every check over one policy, and finds the place of each remark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.authoring.linter.budget import TokenCounter, length, pixels
from policyguard.authoring.linter.remark import Level, Remark
from policyguard.authoring.linter.settings import Places, examples, people, settings, worlds
from policyguard.authoring.linter.texts import overlaps
from policyguard.errors import PolicyError

if TYPE_CHECKING:
    from policyguard.policy.policy import Policy

__all__ = ["doubts", "lint"]

Parameter = str | int | float | bool


def doubts(
    policy: Policy, *, counter: TokenCounter | None = None, budget: int | None = None
) -> tuple[Remark, ...]:
    """Everything doubtful about a policy that is valid, worst first; the remarks have paths and no places.

    ``counter`` measures the prompt (default: an estimate); ``budget`` is in tokens.
    """
    checks = (
        worlds(policy),
        overlaps(policy),
        pixels(policy),
        settings(policy),
        examples(policy),
        people(policy),
        length(policy.resolve(), counter or TokenCounter(), budget),
    )
    return tuple(sorted(_named(policy, checks), key=lambda remark: -remark.level.severity))


def lint(
    source: str | Path,
    *,
    root: str | Path | None = None,
    parameters: Mapping[str, Parameter | None] | None = None,
    counter: TokenCounter | None = None,
    budget: int | None = None,
    text: str | None = None,
) -> tuple[Remark, ...]:
    """Everything wrong or doubtful about a policy file, or a packaged policy, in the order of its lines.

    A file that cannot be used gives remarks of the code ``invalid`` and level error, and no doubts.
    ``text``: what would stand in the file, in place of what does; without ``root`` and ``parameters``.
    """
    from policyguard.policy.load import load_edited, load_policy

    try:
        if text is None:
            policy = load_policy(source, root=root, parameters=parameters)
        else:
            policy = load_edited(source, text)
        places = Places(policy, source, text)
    except PolicyError as error:
        return tuple(_invalid(error))
    remarks = [places.find(remark) for remark in doubts(policy, counter=counter, budget=budget)]
    remarks += places.swallowed()
    return tuple(
        sorted(remarks, key=lambda remark: (remark.file or "", remark.line or 0, remark.column or 0))
    )


def _invalid(error: PolicyError) -> Iterator[Remark]:
    last = len(error.problems) - 1
    for number, problem in enumerate(error.problems):
        hint = f" (hint: {error.hint})" if error.hint and number == last else ""
        place = (problem.file, problem.line, problem.column, problem.field)
        yield Remark(Level.ERROR, "invalid", f"{problem.message}{hint}", (), *place)


def _named(policy: Policy, checks: Iterable[Iterable[Remark]]) -> Iterator[Remark]:
    """The remarks of all checks, each with the path as people write it: ``rules.weapons.safe[0]``."""
    for remark in (remark for check in checks for remark in check):
        field = ""
        for place, step in enumerate(remark.path):
            if isinstance(step, str):
                field += f".{step}"
            elif place == 1 and remark.path[0] == "rules":
                field += f".{policy.rules[step].id}"
            else:
                field += f"[{step}]"
        yield replace(remark, field=field.lstrip(".") or None)
