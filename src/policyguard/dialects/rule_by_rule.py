"""Asking about one rule at a time: how the readings of several prompts become one assessment.

``merge`` is pure and fails closed: a rule that could not be read makes the whole reading a Failure, unless
another rule violates already with an action that nothing can exceed; the rules left unread are then named in
``Assessment.unchecked``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.assessment import Assessment, Failure, Rating, Result
from policyguard.dialects.base import Answer, Dialect, Layout, Limits, Message, Prompt
from policyguard.errors import AnswerError, ConfigurationError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.policy import ResolvedPolicy, Rule

__all__ = [
    "PerRule",
    "active_rules",
    "ask_each_rule",
    "merge",
    "only_rule",
    "read_word",
    "refuse_marks",
    "rule_text",
]


def active_rules(policy: ResolvedPolicy) -> list[str]:
    """The ids of the rules that can be broken. Raises ConfigurationError if there is none to ask about."""
    rules = [rule.id for rule in policy.rules if rule.status != "exempt"]
    if not rules:
        raise ConfigurationError(f"policy '{policy.id}' has no rules to judge by")
    return rules


def only_rule(policy: ResolvedPolicy, rule: str) -> ResolvedPolicy:
    """``policy`` with one rule and nothing else."""
    return replace(policy, rules=(policy.rule(rule),))


def rule_text(rule: Rule) -> str:
    """One rule as one sentence or two: a name, what the image must not show, and what it may."""
    parts = [f"{rule.title}: The image must not show {'; '.join(rule.unsafe) or rule.description}."]
    if rule.unsafe and rule.description:
        parts.append(rule.description)
    if rule.safe:
        verb = "It must not show these either" if rule.status == "sensitive" else "It may show"
        parts.append(f"{verb}: {'; '.join(rule.safe)}.")
    return " ".join(parts)


def refuse_marks(rule: str, text: str, marks: Sequence[str]) -> None:
    """Raises ConfigurationError for a rule whose text holds a mark that parts this model's prompt."""
    if mark := next((mark for mark in marks if mark in text), None):
        raise ConfigurationError(
            f"rule '{rule}' holds {mark!r}, which begins or ends a part of this model's prompt",
            hint="take it out of the rule's texts",
        )


def ask_each_rule(
    policy: ResolvedPolicy,
    messages: Callable[[str], tuple[Message, ...]],
    *,
    ratings: Mapping[str, Rating],
    marks: Sequence[str],
) -> tuple[Prompt, ...]:
    """A prompt for each rule that can be broken, one word to answer; ``messages`` are given the rule's text.

    Raises ConfigurationError for a rule that holds one of ``marks``.
    """
    prompts = []
    for rule in active_rules(policy):
        text = rule_text(policy.rule(rule))
        refuse_marks(rule, text, marks)
        prompts.append(
            Prompt(
                messages=messages(text),
                prefill="",
                ratings=ratings,
                category_prefill="",
                categories={},
                max_new_tokens=2,
                rule=rule,
            )
        )
    return tuple(prompts)


def read_word(text: str, prompt: Prompt) -> Answer:
    """Read one of the words that rate in ``prompt``. Raises AnswerError on anything else."""
    rating = prompt.ratings.get(text.strip())
    if rating is None:
        words = " or ".join(prompt.ratings)
        raise AnswerError(f"the answer is not {words}: {text.strip()[:60]!r}")
    return Answer(rating, prompt.rule if rating is Rating.UNSAFE else None)


class PerRule(Dialect):
    """``dialect``, asked about one rule at a time: a prompt for each rule that can be broken.

    More reliable than one joint question, and as many times as expensive. Each rule is read by its own
    probability (``scoring="per_rule"``).
    """

    def __init__(self, dialect: Dialect) -> None:
        self.inner = dialect
        self.name = dialect.name
        self.version = f"{dialect.version}+per-rule"
        self.layout: Layout = dialect.layout
        self.world = dialect.world
        self.wording = dialect.wording
        self.limits = Limits(None, dialect.limits.lost)

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """One prompt for each rule that is not exempt. Raises ConfigurationError as ``dialect`` does."""
        prompts = []
        for rule in active_rules(policy):
            (prompt,) = self.inner.render(only_rule(policy, rule))
            prompts.append(replace(prompt, rule=rule))
        return tuple(prompts)

    def precheck(self, frame: PILImage) -> str | None:
        return self.inner.precheck(frame)

    def contradicts(self, thought: str, rating: Rating) -> bool:
        return self.inner.contradicts(thought, rating)

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        assert prompt.rule is not None  # every prompt of ``render`` is about one
        return self.inner.parse(text, only_rule(policy, prompt.rule), prompt)


def merge(policy: ResolvedPolicy, readings: Sequence[tuple[Prompt, Result]]) -> Result:
    """One result from the readings of all prompts of ``policy``, in the order of ``render``.

    A single prompt about the whole policy gives its own result. Otherwise: r_k is each rule's own P(unsafe),
    p_unsafe their maximum, ``label_mass`` the smallest; exempt rules get 0. Without scores, the rating is
    UNSAFE if any rule's is.
    """
    if len(readings) == 1 and readings[0][0].rule is None:
        return readings[0][1]
    by_rule = {prompt.rule: result for prompt, result in readings if prompt.rule is not None}
    missing = [rule for rule in active_rules(policy) if rule not in by_rule]
    read = {rule: result for rule, result in by_rule.items() if isinstance(result, Assessment)}
    decided = {rule: result for rule, result in read.items() if result.rating is not Rating.UNDECIDED}
    if len(decided) < len(by_rule) or missing:
        gravest = max(_severity(policy, rule) for rule in active_rules(policy))
        if not any(
            _violates(policy, rule, result) and _severity(policy, rule) == gravest
            for rule, result in decided.items()
        ):
            failure = next((result for result in by_rule.values() if isinstance(result, Failure)), None)
            if failure is not None:
                return failure
            if missing:
                raise ValueError(f"no reading of rule '{missing[0]}'")
            return next(result for result in read.values() if result.rating is Rating.UNDECIDED)
        read = decided
    return _merged(policy, read, [rule for rule in active_rules(policy) if rule not in read])


def _merged(policy: ResolvedPolicy, read: dict[str, Assessment], unread: list[str]) -> Assessment:
    scores = {rule: result.p_unsafe for rule, result in read.items() if result.p_unsafe is not None}
    if scores and len(scores) < len(read):
        raise ValueError("some rules were read with scores and some without")
    unsafe = [rule for rule, result in read.items() if result.rating is Rating.UNSAFE]
    if scores:
        best = max(scores, key=lambda rule: scores[rule])
    else:
        best = max(unsafe or read, key=lambda rule: _severity(policy, rule))
    masses = [result.label_mass for result in read.values() if result.label_mass is not None]
    first = read[best]
    return Assessment(
        rating=first.rating,
        p_unsafe=scores[best] if scores else None,
        label_mass=min(masses, default=None),
        p_undecided=max(result.p_undecided for result in read.values()),
        rule_scores=dict.fromkeys((rule.id for rule in policy.rules), 0.0) | scores if scores else None,
        scoring="per_rule",
        reading=first.reading,
        category=best if first.rating is Rating.UNSAFE else None,
        rationale=first.rationale,
        notes=tuple(dict.fromkeys(note for result in read.values() for note in result.notes)),
        blind_below=max(result.blind_below for result in read.values()),
        unchecked=tuple(unread),
    )


def _severity(policy: ResolvedPolicy, rule: str) -> int:
    return (policy.rule(rule).action or policy.action).severity


def _violates(policy: ResolvedPolicy, rule: str, result: Assessment) -> bool:
    if result.label_mass is not None and result.label_mass < policy.min_label_mass:
        return False
    if result.p_unsafe is None:
        return result.rating is Rating.UNSAFE
    threshold = policy.rule(rule).threshold
    return result.p_unsafe >= policy.raw(policy.threshold if threshold is None else threshold)
