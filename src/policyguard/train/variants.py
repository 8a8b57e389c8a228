"""The same policy in other forms, for training: exempt, cut down, renamed, reordered, reworded.

``reorder``, ``rename`` and ``reword`` change no label. ``without`` and ``assess_data.with_exemptions``
change the label of images that violate the rules taken away, and of no others. Rule ids never change; the
letters that the model sees follow the order.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from policyguard.errors import ConfigurationError
from policyguard.policy import ResolvedPolicy, Rule
from policyguard.strict.jsontext import JsonError, parse_json

__all__ = ["read_wordings", "rename", "reorder", "reword", "without"]

_POLICY_TITLES = ("House rules", "Content policy", "Picture standards", "What may be shown", "Service terms")
_RULE_TITLES = ("Rule", "Section", "Topic", "Clause", "Matter")


def without(policy: ResolvedPolicy, rules: Collection[str]) -> ResolvedPolicy:
    """``policy`` cut down to the rules that are not named. At least one must stay."""
    return replace(policy, rules=tuple(rule for rule in policy.rules if rule.id not in rules))


def reorder(policy: ResolvedPolicy, random_: random.Random) -> ResolvedPolicy:
    """The rules in another order, and so under other letters."""
    return replace(policy, rules=tuple(random_.sample(policy.rules, len(policy.rules))))


def rename(policy: ResolvedPolicy, random_: random.Random) -> ResolvedPolicy:
    """Titles that say nothing, where the rule's lists or description say it all."""
    word = random_.choice(_RULE_TITLES)
    numbers = random_.sample(range(1, 100), len(policy.rules))
    rules = tuple(
        _changed(rule, title=f"{word} {number}") if rule.unsafe or rule.description else rule
        for rule, number in zip(policy.rules, numbers, strict=True)
    )
    return replace(policy, title=random_.choice(_POLICY_TITLES), rules=rules)


def reword(
    policy: ResolvedPolicy, random_: random.Random, wordings: Mapping[str, Sequence[str]]
) -> ResolvedPolicy:
    """Items of each list in another order, and in another wording where ``wordings`` gives some."""

    def vary(items: Sequence[str]) -> tuple[str, ...]:
        chosen = [random_.choice([item, *wordings.get(item, ())]) for item in items]
        return tuple(random_.sample(chosen, len(chosen)))

    rules = tuple(_changed(rule, unsafe=vary(rule.unsafe), safe=vary(rule.safe)) for rule in policy.rules)
    return replace(policy, rules=rules)


def read_wordings(path: str | None) -> dict[str, list[str]]:
    """Item of a policy -> other wordings of it, from a JSON object in a file. Raises ConfigurationError."""
    if path is None:
        return {}
    try:
        wordings = parse_json(Path(path).expanduser().read_bytes())
    except OSError as error:
        raise ConfigurationError(f"variants.wordings: {path} cannot be read: {error}") from error
    except JsonError as error:
        raise ConfigurationError(f"variants.wordings: {path} {error}") from error
    if not isinstance(wordings, dict) or not all(
        isinstance(others, list) and all(isinstance(other, str) and other for other in others)
        for others in wordings.values()
    ):
        raise ConfigurationError(
            f"variants.wordings: {path} is not a JSON object of lists of texts",
            hint='for example {"firearms": ["guns and rifles", "weapons that shoot"]}',
        )
    return wordings


def _changed(rule: Rule, **changes: object) -> Rule:
    return Rule(**{name: getattr(rule, name) for name in Rule.model_fields} | changes)
