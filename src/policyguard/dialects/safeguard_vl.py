"""The ``safeguard-vl`` dialect: the formats that SafeGuard-VL-RL was evaluated and trained in.

Source: github adorableChowhound/SafeGuard-VL (README, eval/, training reward). One user turn: the image, a
question, ``Policy:`` and the policy. Two answers:

- ``mode="word"``: one word, ``safe`` or ``unsafe``. Its benchmark asks for ``unsafe.`` with a full stop, and
  models capitalise; each of these spellings counts.
- ``mode="think"``: ``<think>...</think><answer>yes</answer>``, as in GRPO training, where **yes means safe**.
  The thought is decoded first (slow), and the rating read behind ``<answer>``.

What is lost: the model names no rule, so there are no rule scores; ask rule by rule where rules have
thresholds or actions of their own. It has no way to say that it cannot decide.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import active_rules
from policyguard.dialects.wording import Wording
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["SafeGuardVLDialect"]

_OWN = {
    "question": "Decide by the policy below whether this image is safe or unsafe. Answer with that one word.",
    "thinking_question": (
        "Decide by the policy below whether this image is safe. Think first, between <think> and </think>; "
        "then answer between <answer> and </answer>: yes if it is safe, no if it is not."
    ),
}
_WORDS = dict.fromkeys(("safe", "Safe"), Rating.SAFE) | dict.fromkeys(("unsafe", "Unsafe"), Rating.UNSAFE)
_THOUGHT = re.compile(r"<think>.+</think>\s*<answer>(yes|no)</answer>", re.DOTALL)


class SafeGuardVLDialect(Dialect):
    """See the module's docstring. ``wording``: a file with ``question`` and ``thinking_question``."""

    name = "safeguard-vl"
    version = "1"
    layout = "image-first"
    limits = Limits(None, ("the model names no rule: without rule-by-rule asking there are no rule scores",))

    def __init__(self, *, mode: Literal["word", "think"] = "word", wording: str | Path | None = None) -> None:
        self.mode = mode
        self._words = Wording.choose(_OWN, wording, dialect=self.name)
        self.wording = self._words.source
        if mode == "think":
            self.version = f"{self.version}+think"

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        active_rules(policy)
        thinking = self.mode == "think"
        question = self._words["thinking_question" if thinking else "question"]
        prompt = Prompt(
            messages=(Message("user", (FRAME, f"{question}\n\nPolicy: {policy.text}")),),
            prefill="",
            ratings={"yes": Rating.SAFE, "no": Rating.UNSAFE} if thinking else _WORDS,
            category_prefill="",
            categories={},
            max_new_tokens=512 if thinking else 4,
            thinks_until="<answer>" if thinking else None,
            max_thought_tokens=512,
        )
        return (prompt,)

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read one of the words, or one thought and one answer. Raises AnswerError on anything else."""
        answer = text.strip()
        if self.mode == "think":
            match = _THOUGHT.fullmatch(answer)
            if match is None or any(answer.count(mark) != 1 for mark in ("<think>", "</think>", "<answer>")):
                raise AnswerError("the answer is not one thought and one yes or no")
            return Answer(Rating.SAFE if match[1] == "yes" else Rating.UNSAFE)
        rating = _WORDS.get(answer.removesuffix("."))
        if rating is None:
            raise AnswerError(f"the answer is not the word safe or unsafe: {answer[:60]!r}")
        return Answer(rating)
