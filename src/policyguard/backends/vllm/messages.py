"""What is sent: the dialect's prompt as chat messages, and the picture in them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.dialects import Dialect, Prompt
    from policyguard.policy import ResolvedPolicy

__all__ = ["chat_messages", "continuing", "render"]

_CONTROL_TOKEN = re.compile(
    r"<[|｜][\w▁ -]{1,40}[|｜]>|</?s>|<[be]os>|<(start|end)_of_(turn|image)>|<end_of_utterance>"
    r"|<image>|<image_soft_token>|<fake_token_around_image>|\[/?INST\]"
)
"""Control tokens of the model families in use. Which ones a server's model has cannot be asked."""


def render(dialect: Dialect, policy: ResolvedPolicy) -> Prompt:
    """The dialect's prompt. Raises ConfigurationError where the dialect does, and for a text that holds a
    control token: a policy with ``<|im_end|>`` in it would end its own turn and speak in another's name."""
    if dialect.world is not None and policy.world != dialect.world:
        raise ConfigurationError(
            f"the dialect '{dialect.name}' judges policies of 'world: {dialect.world}' and nothing else; "
            f"policy '{policy.id}' is not one"
        )
    prompt = dialect.render(policy)
    for part in (part for message in prompt.messages for part in message.parts):
        if isinstance(part, str) and (found := _CONTROL_TOKEN.search(part)) is not None:
            raise ConfigurationError(
                f"the prompt for policy '{policy.id}' holds {found[0]!r}, a control token of models",
                hint="take it out of the policy's texts",
            )
    return prompt


def chat_messages(prompt: Prompt, picture: str) -> list[dict[str, Any]]:
    """The turns before the assistant's. Texts go out as they are, so that equal policies are equal bytes."""
    turns = []
    for message in prompt.messages:
        parts = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": picture}}
            for part in message.parts
        ]
        only = message.parts[0] if len(message.parts) == 1 else None
        turns.append({"role": message.role, "content": only if isinstance(only, str) else parts})
    return turns


def continuing(messages: list[dict[str, Any]], said: str) -> dict[str, Any]:
    """The fields of a request in which the assistant goes on after ``said``, which may be empty."""
    if not said:
        return {"messages": messages, "add_generation_prompt": True}
    return {
        "messages": [*messages, {"role": "assistant", "content": said}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
