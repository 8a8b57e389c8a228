"""The ``instruct`` dialect: any vision-language model that follows instructions, here or behind an API.

The words are those of the dialect ``safeguard``; the layout differs: everything stands in one user turn,
policy first and image after it, because some chat templates and services have no system turn or rank it below
the user's. The answer is one JSON object and nothing else; SafeGuard-VL's bare word is refused.
On servers that hold an answer to a JSON schema, the model has no other choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.dialects.base import FRAME, Answer, Message, Prompt
from policyguard.dialects.safeguard import SafeguardDialect
from policyguard.errors import AnswerError

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["InstructDialect"]


class InstructDialect(SafeguardDialect):
    """See the module's docstring."""

    name = "instruct"
    version = "1"

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """Raises ConfigurationError for a policy without rules."""
        (prompt,) = super().render(policy)
        if self.layout == "image-first":
            return (prompt,)
        brief, (_, question) = prompt.messages[0].parts[0], prompt.messages[1].parts
        return (replace(prompt, messages=(Message("user", (brief, FRAME, question)),)),)

    def parse(self, text: str, policy: ResolvedPolicy, prompt: Prompt | None = None) -> Answer:
        """Read one JSON object. Raises AnswerError on anything else."""
        if not text.lstrip().startswith("{"):
            raise AnswerError(f"the answer is not one JSON object: {text.strip()[:60]!r}")
        return super().parse(text, policy, prompt)
