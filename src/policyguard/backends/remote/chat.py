"""The calls that a guard makes of a server: chat completions, tokens, the list of models.

No picture is ever given an id of ours (``uuid``): a server answers for the first picture it saw under one.

What is sent: the dialect's prompt as chat messages, and the picture in them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.assessment import FailureKind
from policyguard.backends.remote.answers import read_tokens
from policyguard.backends.remote.errors import CallError, is_too_long, refusal
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.remote.errors import Reply
    from policyguard.backends.remote.servers import Servers
    from policyguard.dialects import Prompt
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "Chat",
    "NoScoresError",
    "Topic",
    "chat_messages",
    "continuing",
]


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


_SCORING = re.compile(r"logprob|continue_final_message|add_generation_prompt", re.IGNORECASE)


class NoScoresError(ConfigurationError):
    """The server cannot give the log-probabilities of labels at a place in the answer."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One picture under one policy: what stays the same through the conversation about it."""

    policy: ResolvedPolicy
    prompt: Prompt
    messages: list[dict[str, Any]]
    thought: str = ""


class Chat:
    """One model, on one or several servers. Raises ConfigurationError and CallError, see ``faults``.

    ``cache_salt`` keeps the server's prefix cache apart from that of clients with another one.
    """

    def __init__(self, servers: Servers, model: str, *, cache_salt: str | None = None) -> None:
        self.model = model
        self._servers = servers
        self._always: dict[str, Any] = {"model": model, "temperature": 0}
        if cache_salt is not None:
            self._always["cache_salt"] = cache_salt
        self._has_tokenize = True

    async def go_on(
        self, topic: Topic, said: str, fields: dict[str, Any], *, optional: str | None = None
    ) -> Reply:
        """Let the model go on after ``said``. The reply is 200, or the refusal of the field ``optional``."""
        template = {"chat_template_kwargs": dict(topic.prompt.template)} if topic.prompt.template else {}
        reply = await self.complete(continuing(topic.messages, said) | template | fields)
        if reply.status == 200:
            return reply
        if is_too_long(reply):
            raise await self._too_long(topic, said, reply)
        complaint = f"{reply.parameter} {reply.message}"
        if optional is not None and reply.status in (400, 422) and optional in complaint:
            return reply
        error = refusal(reply, self.model)
        if (
            reply.status in (400, 422)
            and isinstance(error, ConfigurationError)
            and _SCORING.search(complaint)
        ):
            raise NoScoresError(error.message, hint=error.hint)
        raise error

    async def answer(self, topic: Topic, fields: dict[str, Any]) -> Reply:
        """Let the model answer from the start, in the plain OpenAI API and no more. The reply is 200."""
        reply = await self.complete({"messages": topic.messages, **fields})
        if reply.status in (400, 422) and "max_completion_tokens" in reply.message and "max_tokens" in fields:
            renamed = {
                "max_completion_tokens" if name == "max_tokens" else name: fields[name] for name in fields
            }
            return await self.answer(topic, renamed)
        if reply.status == 200:
            return reply
        if is_too_long(reply):
            raise await self._too_long(topic, "", reply)
        raise refusal(reply, self.model)

    async def complete(self, fields: dict[str, Any]) -> Reply:
        """One chat completion; the reply may be a refusal of any kind below 500."""
        return await self._servers.call("POST", "/chat/completions", self._always | fields)

    async def tokenize(self, text: str) -> tuple[list[int], int | None] | None:
        """Token ids of ``text`` and the model's context length; None from a server that does not tell."""
        if not self._has_tokenize:
            return None
        payload = {"model": self.model, "prompt": text, "add_special_tokens": False}
        reply = await self._servers.call("POST", "/tokenize", payload)
        if reply.status != 200:
            self._has_tokenize = False
            return None
        return read_tokens(reply.data)

    def quote(self, words: object) -> str:
        """Words of a server or an exception, fit for a message."""
        return self._servers.quote(words)

    async def find_model(self) -> None:
        """Raises ConfigurationError if a server lists its models and ours is not among them.

        A server that cannot be asked is passed by, as long as another one answers.
        """
        replies = await self._servers.call_each("GET", "/models")
        answers = [reply for reply in replies if not isinstance(reply, CallError)]
        for reply in answers:
            self._look_for_model(reply)
        if not answers:
            raise next(reply for reply in replies if isinstance(reply, CallError))

    def _look_for_model(self, reply: Reply) -> None:
        if reply.status in (404, 405):  # optional in servers; a wrong model or URL shows at the first picture
            return
        if reply.status != 200:
            raise refusal(reply, self.model)
        models = reply.data.get("data")
        entries = models if isinstance(models, list) else []
        served = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
        if self.model not in served:
            raise ConfigurationError(
                f"{reply.endpoint.host} does not serve the model '{self.model}'",
                hint=f"it serves: {reply.endpoint.quote(', '.join(served)) or 'nothing'}",
            )

    async def _too_long(self, topic: Topic, said: str, reply: Reply) -> Exception:
        """The policy's fault, for all pictures, if its text alone leaves no room; else this picture's."""
        policy, host = topic.policy.id, reply.endpoint.host
        texts = [part for message in topic.prompt.messages for part in message.parts if isinstance(part, str)]
        tokens, longest = await self.tokenize("".join([*texts, said])) or ([], None)
        if longest is not None and len(tokens) >= longest:
            return ConfigurationError(
                f"policy '{policy}' is too long for '{self.model}' on {host}: "
                f"{len(tokens)} tokens without a picture, of at most {longest}",
                hint="shorten the policy, split it, or serve the model with a larger --max-model-len",
            )
        return CallError(
            f"policy '{policy}' and this picture are too long together for '{self.model}' on {host}: "
            f"{reply.endpoint.quote(reply.message)}",
            kind=FailureKind.UNSCANNABLE,
        )
