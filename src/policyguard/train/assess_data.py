"""From label rows to what ``assess`` learns: LlavaGuard's augmentation (sections 4 and F), in our own words.

Three changes: *exceptions* (the violated rules are declared exempt, and unsafe turns into safe; only where a
row lists all of them, because the label would be a guess otherwise), *irrelevant exemptions* (other rules
are; the label stays), *decision sentences* (what decides, at the end of each rationale). Then the rarer label
is repeated until both are equally frequent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from policyguard.assessment import Rating
from policyguard.dialects import Answer
from policyguard.policy import ResolvedPolicy, Status
from policyguard.train.data import LabelRow
from policyguard.train.recipe import Augment
from policyguard.train.rows import Located

__all__ = ["AssessItem", "augment", "decision_sentence", "with_exemptions"]


@dataclass(frozen=True, slots=True)
class AssessItem:
    """One example: an image under a policy, the answer, and how it came to be."""

    path: Path
    policy: ResolvedPolicy
    answer: Answer
    kind: str = "given"


def augment(items: Sequence[Located[LabelRow]], settings: Augment, *, seed: int) -> list[AssessItem]:
    """All examples, shuffled. Unsafe rows name a broken rule; ``assess`` skips those that do not."""
    random_ = random.Random(f"assess/{seed}")
    examples: list[AssessItem] = []
    for item in items:
        assert item.policy is not None
        row, policy = item.row, item.policy
        examples.append(_example(item, policy, settings, "given"))
        violated = row.violated or ()
        others = [
            rule.id for rule in policy.rules if rule.id not in violated and rule.status is not Status.EXEMPT
        ]
        draws_exception = row.label == "unsafe" and random_.random() < settings.exceptions
        if draws_exception and row.knows_all:  # else the image may break a rule that is still there
            extra = _some(random_, others, at_most=settings.exempt_up_to - 1)
            flipped = with_exemptions(policy, (*violated, *extra))
            examples.append(_example(item, flipped, settings, "exception"))
        if not others or (settings.irrelevant_of == "unsafe" and row.label == "safe"):
            continue
        times = int(settings.irrelevant) + (random_.random() < settings.irrelevant % 1)
        for _ in range(times):
            chosen = _some(random_, others, at_most=settings.exempt_up_to) or [random_.choice(others)]
            examples.append(_example(item, with_exemptions(policy, chosen), settings, "irrelevant"))
    if settings.balance:
        examples += _missing(examples, random_)
    random_.shuffle(examples)
    return examples


def with_exemptions(policy: ResolvedPolicy, rules: Sequence[str]) -> ResolvedPolicy:
    """``policy`` with ``rules`` declared non-violating."""
    for rule in rules:
        policy = policy.with_rule_status(rule, Status.EXEMPT)
    return policy


def decision_sentence(policy: ResolvedPolicy, rating: Rating, category: str | None) -> str:
    """What decides, in one sentence.

    Four cases: no rule applies, one is kept, one is broken, one is exempt.
    """
    if category is None:
        return "No rule of the policy speaks of what is shown, so the picture complies."
    rule = policy.rule(category)
    if rating is Rating.UNSAFE:
        return f"That breaks the rule on {rule.title}, so the picture violates the policy."
    if rule.status is Status.EXEMPT:
        return (
            f"The rule on {rule.title} would apply, but the policy declares it exempt: the picture complies."
        )
    return f"It belongs to the rule on {rule.title} and stays within what that rule allows: it complies."


def _example(item: Located[LabelRow], policy: ResolvedPolicy, settings: Augment, kind: str) -> AssessItem:
    row = item.row
    rating = Rating.SAFE if kind == "exception" else Rating(row.label)
    category = row.category or (row.violated or (None,))[0]
    agrees = row.rationale_rating in (None, row.label) and kind != "exception"  # it argued for another rating
    parts = [row.rationale] if row.rationale and agrees else []
    if settings.decision_sentences and policy.world is None:
        parts.append(decision_sentence(policy, rating, category))
    return AssessItem(item.path, policy, Answer(rating, category, " ".join(parts) or None), kind)


def _some(random_: random.Random, names: Sequence[str], *, at_most: int) -> list[str]:
    return random_.sample(list(names), random_.randint(0, max(0, min(at_most, len(names)))))


def _missing(items: Sequence[AssessItem], random_: random.Random) -> list[AssessItem]:
    """Repeats of the rarer label, each item as often as any other, give or take one."""
    by_rating = {rating: [item for item in items if item.answer.rating is rating] for rating in Rating}
    safe, unsafe = by_rating[Rating.SAFE], by_rating[Rating.UNSAFE]
    rare, target = (safe, len(unsafe)) if len(safe) < len(unsafe) else (unsafe, len(safe))
    if not rare:
        return []
    rounds, rest = divmod(target - len(rare), len(rare))
    return [*(rare * rounds), *random_.sample(rare, rest)]
