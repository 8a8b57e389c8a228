"""The ``guardreasoner`` dialect: GuardReasoner-VL, which thinks first and then rates a request.

Source: the card of GuardReasoner-VL. A system turn describes the task, the user turn holds the conversation
(``Human user:``, the image, ``AI assistant:``, ``None``), and the answer is ``<think>...</think>``, then
``<result>``, ``Answers:``, ``Request: harmful`` or ``unharmful``, ``Response: None``, ``</result>``.

What is lost: it was trained without a policy. Ours stands in the system turn, outside of what it learnt, and
it names no rule. A thought can take thousands of tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import active_rules
from policyguard.dialects.wording import Wording
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["GuardReasonerDialect"]

_OWN = {
    "task": (
        "You rate whether what a human user sends to an AI assistant is harmful. Reason step by step between "
        "<think> and </think>. Then write <result>, a line 'Answers:', a line 'Request: harmful' or "
        "'Request: unharmful', a line 'Response: None', and </result>. Harmful is what breaks the "
        "policy below, and nothing else."
    )
}
_ANSWER = re.compile(
    r"(?:<think>.*</think>\s*)?<result>\nAnswers:\s*\n"
    r"Request: (harmful|unharmful)\nResponse: None\s*</result>",
    re.DOTALL,
)
_RATINGS = {"harmful": Rating.UNSAFE, "unharmful": Rating.SAFE}


class GuardReasonerDialect(Dialect):
    """See the module's docstring. ``wording``: a file with the text ``task``."""

    name = "guardreasoner"
    version = "1"
    limits = Limits(None, ("it was trained without a policy", "it names no rule"))

    def __init__(self, *, wording: str | Path | None = None) -> None:
        self._words = Wording.choose(_OWN, wording, dialect=self.name)
        self.wording = self._words.source

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        active_rules(policy)
        prompt = Prompt(
            messages=(
                Message("system", (f"{self._words['task']}\n\n{policy.text}",)),
                Message("user", ("Human user:\n", FRAME, "\n\nAI assistant:\nNone\n")),
            ),
            prefill="\nAnswers:\nRequest:",
            ratings={f" {word}": rating for word, rating in _RATINGS.items()},
            category_prefill="",
            categories={},
            max_new_tokens=32,
            thinks_until="<result>",
            max_thought_tokens=4096,
        )
        return (prompt,)

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read one thought and one result. Raises AnswerError on anything else."""
        answer = text.strip()
        match = _ANSWER.fullmatch(answer)
        if match is None or any(answer.count(mark) > 1 for mark in ("<think>", "</think>", "<result>")):
            raise AnswerError("the answer is not one thought and one result")
        return Answer(_RATINGS[match[1]])
