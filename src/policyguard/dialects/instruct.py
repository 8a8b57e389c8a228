"""The ``instruct`` dialect: any vision-language model that follows instructions, here or behind an API.

The words are those of the dialect ``safeguard``; the layout differs: everything stands in one user turn,
policy first and image after it, because some chat templates and services have no system turn or rank it below
the user's. The answer is one JSON object and nothing else; SafeGuard-VL's bare word is refused.
On servers that hold an answer to a JSON schema, the model has no other choice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from policyguard.dialects.base import FRAME, Message, Prompt
from policyguard.dialects.safeguard import SafeguardDialect

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy

__all__ = ["InstructDialect"]


class InstructDialect(SafeguardDialect):
    """See the module's docstring."""

    name = "instruct"
    version = "1"
    reads_words = False

    def render(self, policy: ResolvedPolicy) -> tuple[Prompt, ...]:
        """Raises ConfigurationError for a policy without rules."""
        (prompt,) = super().render(policy)
        if self.layout == "image-first":
            return (prompt,)
        brief, (_, question) = prompt.messages[0].parts[0], prompt.messages[1].parts
        return (replace(prompt, messages=(Message("user", (brief, FRAME, question)),)),)
