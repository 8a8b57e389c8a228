"""The rules of a run's policies, each with a number and its part of the policy's text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyguard.ci.run import PolicyInfo
    from policyguard.policy import ResolvedPolicy
    from policyguard.policy.schema import Rule
    from policyguard.verdict import Action

__all__ = ["RunRule", "number_rules", "run_rules"]


@dataclass(frozen=True, slots=True)
class RunRule:
    """A rule as a policy of the run has it. ``text`` is what the model reads of it, a few lines."""

    policy: ResolvedPolicy
    rule: Rule
    text: str

    @property
    def name(self) -> str:
        return f"{self.policy.id}/{self.rule.id}"

    @property
    def action(self) -> Action:
        return self.rule.action or self.policy.action

    @property
    def threshold(self) -> float:
        return self.policy.threshold if self.rule.threshold is None else self.rule.threshold


def run_rules(policies: Iterable[PolicyInfo]) -> tuple[RunRule, ...]:
    """All rules of all policies, in order; a policy that is there twice counts once."""
    rules: dict[tuple[str, str], RunRule] = {}
    for info in policies:
        # The text is a heading and then the rules in order, with a blank line before each of them.
        parts = info.policy.text.split("\n\n")[1:]
        for rule, text in zip(info.policy.rules, parts, strict=True):
            rules.setdefault((info.policy.id, rule.id), RunRule(info.policy, rule, text))
    return tuple(rules.values())


def number_rules(rules: Iterable[RunRule]) -> Mapping[tuple[str, str], int]:
    """(policy id, rule id) -> place in ``rules``."""
    return {(rule.policy.id, rule.rule.id): number for number, rule in enumerate(rules)}
