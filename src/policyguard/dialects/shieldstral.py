"""The ``shieldstral`` dialect: Shieldstral, one yes-or-no question for each rule.

Source: github mistralai/cookbook, shieldstral_policy_moderation.ipynb. A system sentence (the user's copy; it
is a reranker's, with one word changed), then ``<Instruct>: ... <Query>: ... <Document>: `` with the image
last, in the place of the document. One token answers: ``yes`` (flagged) or ``no``.

What is lost: nothing of a rule; there are no words beside the verdict. The three slots are not escaped, so a
rule that holds one of their marks is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from policyguard.assessment import Rating
from policyguard.dialects.base import FRAME, Answer, Dialect, Limits, Message, Prompt
from policyguard.dialects.rule_by_rule import ask_each_rule, read_word
from policyguard.dialects.wording import Wording

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["ShieldstralDialect"]

_OWN = {
    "system": "Say whether the Document is what the Query asks for, by the Instruct. Answer yes or no only.",
    "instruct": "You moderate images under one rule. Go by what is visible, and keep to the rule as written.",
    "query": "Does the image break this rule?",
}
_MARKS = ("<Instruct>", "<Query>", "<Document>")


class ShieldstralDialect(Dialect):
    """See the module's docstring. ``wording``: a file with the texts ``system``, ``instruct``, ``query``."""

    name = "shieldstral"
    version = "1"
    limits = Limits(None, ("there is no rationale",))

    def __init__(self, *, wording: str | Path | None = None) -> None:
        self._words = Wording.choose(_OWN, wording, dialect=self.name)
        self.wording = self._words.source

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """One prompt for each rule. Raises ConfigurationError for a rule that holds a slot's mark."""
        system, instruct, query = (self._words[slot] for slot in _OWN)

        def messages(text: str) -> tuple[Message, ...]:
            user = f"<Instruct>: {instruct}\n\n<Query>: {query} {text}\n\n<Document>: "
            return Message("system", (system,)), Message("user", (user, FRAME))

        return ask_each_rule(
            policy, messages, ratings={"yes": Rating.UNSAFE, "no": Rating.SAFE}, marks=_MARKS
        )

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt) -> Answer:
        """Read ``yes`` or ``no``. Raises AnswerError on anything else."""
        return read_word(text, prompt)
