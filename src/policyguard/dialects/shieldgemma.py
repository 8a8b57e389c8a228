"""The ``shieldgemma`` dialect: ShieldGemma 2, one question for each rule.

Source: ShieldGemma 2 in transformers (processing and modelling code) and its chat template. The template
itself holds the role, the marks ``<BEGIN_SAFETY_POLICY>`` and the question; a user turn of image and text is
put inside of it, so all that is given is one rule. The model answers ``Yes`` or ``No``: **Yes means that the
image violates the rule** (class 0 of the published head).

What is lost: it was trained on three policies of its makers (dangerous content, sexually explicit content,
violence and gore), each a sentence on what an image must not hold; others are accepted and untrained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import ask_each_rule, read_word

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["ShieldGemmaDialect"]

_MARKS = ("<BEGIN_SAFETY_POLICY>", "</END_SAFETY_POLICY>", "<END_SAFETY_POLICY>")


class ShieldGemmaDialect(Dialect):
    """See the module's docstring."""

    name = "shieldgemma"
    version = "1"
    layout = "image-first"
    wording = "template"
    limits = Limits(None, ("rules other than its makers' three are outside of what it was trained on",))

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """One prompt for each rule. Raises ConfigurationError for a rule that holds the template's marks."""
        return ask_each_rule(
            policy,
            lambda text: (Message("user", (FRAME, text)),),
            ratings={"Yes": Rating.UNSAFE, "No": Rating.SAFE},
            marks=_MARKS,
        )

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read ``Yes`` or ``No``. Raises AnswerError on anything else."""
        return read_word(text, prompt)
