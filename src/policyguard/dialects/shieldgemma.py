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
from policyguard.dialects.rule_by_rule import active_rules
from policyguard.errors import AnswerError, ConfigurationError

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy, Rule

__all__ = ["ShieldGemmaDialect", "rule_text"]

_RATINGS = {"Yes": Rating.UNSAFE, "No": Rating.SAFE}
_MARKS = ("<BEGIN_SAFETY_POLICY>", "</END_SAFETY_POLICY>", "<END_SAFETY_POLICY>")


def rule_text(rule: Rule) -> str:
    """One rule in the shape of the policies the model knows: a name, and what the image must not show."""
    parts = [f"{rule.title}: The image must not show {'; '.join(rule.unsafe) or rule.description}."]
    if rule.unsafe and rule.description:
        parts.append(rule.description)
    if rule.safe:
        verb = "It must not show these either" if rule.status == "sensitive" else "It may show"
        parts.append(f"{verb}: {'; '.join(rule.safe)}.")
    return " ".join(parts)


class ShieldGemmaDialect(Dialect):
    """See the module's docstring."""

    name = "shieldgemma"
    version = "1"
    layout = "image-first"
    wording = "template"
    limits = Limits(None, ("rules other than its makers' three are outside of what it was trained on",))

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """One prompt for each rule. Raises ConfigurationError for a rule that holds the template's marks."""
        prompts = []
        for rule in active_rules(policy):
            text = rule_text(policy.rule(rule))
            if mark := next((mark for mark in _MARKS if mark in text), None):
                raise ConfigurationError(
                    f"rule '{rule}' holds {mark!r}, which ends the policy for this model",
                    hint="take it out of the rule's texts",
                )
            prompts.append(
                Prompt(
                    messages=(Message("user", (FRAME, text)),),
                    prefill="",
                    ratings=_RATINGS,
                    category_prefill="",
                    categories={},
                    max_new_tokens=2,
                    rule=rule,
                )
            )
        return tuple(prompts)

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read ``Yes`` or ``No``. Raises AnswerError on anything else."""
        rating = _RATINGS.get(text.strip())
        if rating is None:
            raise AnswerError(f"the answer is not Yes or No: {text.strip()[:60]!r}")
        return Answer(rating, prompt.rule if rating is Rating.UNSAFE else None)
