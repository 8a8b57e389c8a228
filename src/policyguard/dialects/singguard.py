"""The ``singguard`` dialect: SingGuard, whose chat template takes the policy as an argument.

Source: SingGuard's README (Apache-2.0) and arXiv 2606.22873. The template holds the system prompt; the user
turn is the image alone; ``policy`` replaces the default categories and ``thinking_type`` is ``fast`` or
``slow``. The first line of an answer is ``safe`` or ``unsafe``, and ``<answer>B. Title</answer>`` or
``<answer>Safe</answer>`` comes later.

- ``mode="fast"``: the rating is read at the first word, the category behind ``<answer>``.
- ``mode="slow"``: the model thinks first; the rating is what it puts behind ``<answer>``.

What is lost: in slow mode no rule is named, since all letters together make the rating. The makers' default,
which decides by itself when to think, is not offered: its cost cannot be bounded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import active_rules, refuse_marks
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy, Rule

__all__ = ["SingGuardDialect"]

_MARKS = ("###", "<answer>", "</answer>")
_ANSWER = re.compile(r"<answer>([^<]*)</answer>")


class SingGuardDialect(Dialect):
    """See the module's docstring."""

    name = "singguard"
    version = "1"
    layout = "policy-first"
    wording = "template"
    limits = Limits(26)

    def __init__(self, *, mode: Literal["fast", "slow"] = "fast") -> None:
        self.mode = mode
        if mode == "slow":
            self.version = f"{self.version}+slow"

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        active = set(active_rules(policy))
        keys = {key: rule for key, rule in policy.keys.items() if rule in active}
        sections = [_section(key, policy.rule(rule)) for key, rule in keys.items()]
        for rule, section in zip(keys.values(), sections, strict=True):
            refuse_marks(rule, section.removeprefix("###"), _MARKS)
        sections.append("### Safe\n  - Anything that falls under none of the categories above.")
        ratings = {"safe": Rating.SAFE, "unsafe": Rating.UNSAFE}
        if self.mode == "slow":
            ratings = {"Safe": Rating.SAFE} | dict.fromkeys(keys, Rating.UNSAFE)
        prompt = Prompt(
            messages=(Message("user", (FRAME,)),),
            prefill="",
            ratings=ratings,
            category_prefill="\n<answer>" if self.mode == "fast" else "",
            categories=keys if self.mode == "fast" else {},
            max_new_tokens=512,
            template={"policy": "\n\n".join(sections), "thinking_type": self.mode},
            thinks_until="<answer>" if self.mode == "slow" else None,
            max_thought_tokens=2048,
        )
        return (prompt,)

    def contradicts(self, thought: str, rating: Rating) -> bool:
        first = thought.strip().partition("\n")[0].strip()
        return first in ("safe", "unsafe") and Rating(first) is not rating

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read the first line and the one ``<answer>``, which must agree. Raises AnswerError otherwise."""
        tags = _ANSWER.findall(text)
        if len(tags) != 1 or text.count("<answer>") != 1:
            raise AnswerError(f"the answer holds {len(tags)} verdicts between <answer> and </answer>")
        names = {f"{key}. {policy.rule(rule).title}": rule for key, rule in policy.keys.items()}
        tag = tags[0].strip()
        if tag != "Safe" and tag not in names:
            raise AnswerError(f"the answer names {tag[:60]!r}, which is not a category of the policy")
        rating = Rating.SAFE if tag == "Safe" else Rating.UNSAFE
        if self.contradicts(text, rating):
            raise AnswerError(f"the first line says otherwise than <answer>{tag[:40]}</answer>")
        if self.mode == "fast":
            first = text.strip().partition("\n")[0].strip()
            if first not in ("safe", "unsafe"):
                raise AnswerError(f"the first line is {first[:40]!r}, not safe or unsafe")
        return Answer(rating, names.get(tag) if self.mode == "fast" else None)


def _section(key: str, rule: Rule) -> str:
    items = [*rule.unsafe] or [rule.description]
    if rule.status == "sensitive":
        items += rule.safe
        allowed: tuple[str, ...] = ()
    else:
        allowed = rule.safe
    lines = [f"### {key}. {rule.title}", *(f"  - {item}" for item in items)]
    return "\n".join([*lines, *(f"  - Not this: {item}" for item in allowed)])
