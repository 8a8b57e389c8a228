"""The ``nemotron`` dialect: Nemotron content safety, with a policy of the caller's own.

Source: the cards of Nemotron-3 and 3.5 Content Safety and two users' code (see docs/guards.md: the final card
was not read). The user turn is the image and the policy, one block a rule: ``### Policy``, ``Name:``,
``Description:``, ``Disallowed Behaviors:``, ``Allowed Behaviors:``. The answer's first line is
``User Safety: safe`` or ``User Safety: unsafe``; ``Response Safety:`` and ``Safety Categories:`` may follow.
Thinking is switched off through the chat template.

What is lost: categories are names that begin alike, so no rule has a score; ask rule by rule where rules have
thresholds or actions of their own. Its makers warn that naming an allowed thing makes it match words.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import active_rules, refuse_marks
from policyguard.dialects.wording import Wording
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy, Rule

__all__ = ["NemotronDialect"]

_OWN = {"instruction": "Judge whether the image is safe under the following policy, and under no other."}
_ANSWER = re.compile(
    r"User Safety: (safe|unsafe)(?:\nResponse Safety: (?:safe|unsafe))?(?:\nSafety Categories: [^\n]+)?"
)


class NemotronDialect(Dialect):
    """See the module's docstring. ``wording``: a file with the text ``instruction``."""

    name = "nemotron"
    version = "1"
    layout = "image-first"
    limits = Limits(None, ("no rule has a score of its own unless it is asked rule by rule",))

    def __init__(self, *, wording: str | Path | None = None) -> None:
        self._words = Wording.choose(_OWN, wording, dialect=self.name)
        self.wording = self._words.source

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        blocks = [_block(policy.rule(rule)) for rule in active_rules(policy)]
        for rule, block in zip(active_rules(policy), blocks, strict=True):
            refuse_marks(rule, block.removeprefix("###"), ("###",))
        text = "\n\n".join([self._words["instruction"], *blocks])
        prompt = Prompt(
            messages=(Message("user", (FRAME, text)),),
            prefill="User Safety:",
            ratings={" safe": Rating.SAFE, " unsafe": Rating.UNSAFE},
            category_prefill="",
            categories={},
            max_new_tokens=64,
            template={"enable_thinking": False, "request_categories": "/categories"},
        )
        return (prompt,)

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read the lines of an answer, the first of which rates. Raises AnswerError on anything else."""
        match = _ANSWER.fullmatch(text.strip())
        if match is None:
            raise AnswerError(f"the answer is not the line 'User Safety: ...': {text.strip()[:60]!r}")
        return Answer(Rating(match[1]))


def _block(rule: Rule) -> str:
    unsafe = (*rule.unsafe, *rule.safe) if rule.status == "sensitive" else rule.unsafe
    lines = ["### Policy", f"Name: {rule.title}"]
    lines += [f"Description: {rule.description}"] if rule.description else []
    lines += ["Disallowed Behaviors:", *(f"- {item}" for item in unsafe)] if unsafe else []
    if rule.safe and rule.status != "sensitive":
        lines += ["Allowed Behaviors:", *(f"- {item}" for item in rule.safe)]
    return "\n".join(lines)
