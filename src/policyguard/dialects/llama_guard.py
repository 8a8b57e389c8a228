"""The ``llama-guard`` dialect: Llama Guard 3 Vision and 4, a word and a list of codes.

Source: Meta's llama-stack (safety provider) and the PurpleLlama cards. The chat template puts the task, the
marks ``<BEGIN UNSAFE CONTENT CATEGORIES>`` and a list ``S1: ...`` around the conversation it is given, so all
that is given is the image, and the policy as the template's argument ``categories``. A template without such
an argument leaves the policy out; that is refused before anything is asked.

The answer follows two line ends: ``safe``, or ``unsafe`` and, on a second line, codes parted by commas.

What is lost: ``safe`` lists are written into the category's text, where the models were trained on names
alone. Llama Guard 3 Vision is not meant as a classifier of images by themselves (its card). Of several codes
the one with the most severe action is reported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import active_rules, refuse_marks, rule_text
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["LlamaGuardDialect"]

_MARKS = ("<BEGIN ", "<END ")
_UNSAFE = re.compile(r"unsafe\n(S[0-9]{1,2}(?:, ?S[0-9]{1,2})*)")


class LlamaGuardDialect(Dialect):
    """See the module's docstring."""

    name = "llama-guard"
    version = "1"
    layout = "image-first"
    wording = "template"
    limits = Limits(None, ("its categories are names; lists of what is allowed are outside of its training",))

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """Raises ConfigurationError for a rule that holds one of the template's marks."""
        active = set(active_rules(policy))
        codes = {str(number): rule for number, rule in enumerate(policy.rules, 1) if rule.id in active}
        categories = {f"S{number}": rule_text(rule) for number, rule in codes.items()}
        for rule, text in zip(codes.values(), categories.values(), strict=True):
            refuse_marks(rule.id, text, _MARKS)
        prompt = Prompt(
            messages=(Message("user", (FRAME,)),),
            prefill="\n\n",
            ratings={"safe": Rating.SAFE, "unsafe": Rating.UNSAFE},
            category_prefill="\nS",
            categories={number: rule.id for number, rule in codes.items()},
            max_new_tokens=32,
            template={"categories": categories},
        )
        return (prompt,)

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read exactly ``safe``, or ``unsafe`` and known codes. Raises AnswerError on anything else."""
        answer = text.strip()
        if answer == "safe":
            return Answer(Rating.SAFE)
        match = _UNSAFE.fullmatch(answer)
        if match is None:
            raise AnswerError(f"the answer is not 'safe', nor 'unsafe' and codes: {answer[:60]!r}")
        codes = [code.strip().removeprefix("S") for code in match[1].split(",")]
        if unknown := next((code for code in codes if code not in prompt.categories), None):
            raise AnswerError(f"the answer names S{unknown}, which is not a category of the policy")
        if len(set(codes)) < len(codes):
            raise AnswerError("the answer names a category twice")
        rules = [prompt.categories[code] for code in codes]
        return Answer(
            Rating.UNSAFE,
            max(rules, key=lambda rule: (policy.rule(rule).action or policy.action).severity),
        )
