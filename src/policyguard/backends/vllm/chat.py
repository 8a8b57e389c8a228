"""The calls that a guard makes of a server: chat completions, tokens, the list of models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.assessment import FailureKind
from policyguard.backends.vllm.answers import read_tokens
from policyguard.backends.vllm.faults import CallError, is_too_long, refusal
from policyguard.backends.vllm.messages import continuing
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.vllm.client import Client, Reply
    from policyguard.dialects import Prompt
    from policyguard.policy import ResolvedPolicy

__all__ = ["Chat", "Topic"]


@dataclass(frozen=True, slots=True)
class Topic:
    """One picture under one policy: what stays the same through the conversation about it."""

    policy: ResolvedPolicy
    prompt: Prompt
    messages: list[dict[str, Any]]


class Chat:
    """One model on one server. Raises ConfigurationError and CallError, see ``faults``."""

    def __init__(self, client: Client, model: str) -> None:
        self.endpoint = client.endpoint
        self.model = model
        self._client = client
        self._has_tokenize = True

    async def go_on(
        self, topic: Topic, said: str, fields: dict[str, Any], *, optional: str | None = None
    ) -> Reply:
        """Let the model go on after ``said``. The reply is 200, or the refusal of the field ``optional``."""
        payload = {"model": self.model, "temperature": 0, **continuing(topic.messages, said), **fields}
        reply = await self._client.call("POST", f"{self.endpoint.base}/chat/completions", payload)
        if reply.status == 200:
            return reply
        if is_too_long(reply):
            raise await self._too_long(topic, said, reply)
        if (
            optional is not None
            and reply.status in (400, 422)
            and optional in f"{reply.parameter} {reply.message}"
        ):
            return reply
        raise refusal(reply, self.endpoint, self.model)

    async def tokenize(self, text: str) -> tuple[list[int], int | None] | None:
        """Token ids of ``text`` and the model's context length; None from a server that does not tell."""
        if not self._has_tokenize:
            return None
        payload = {"model": self.model, "prompt": text, "add_special_tokens": False}
        reply = await self._client.call("POST", f"{self.endpoint.root}/tokenize", payload)
        if reply.status != 200:
            self._has_tokenize = False
            return None
        return read_tokens(reply.data)

    async def find_model(self) -> None:
        """Raises ConfigurationError if the server lists its models and ours is not among them."""
        reply = await self._client.call("GET", f"{self.endpoint.base}/models")
        if reply.status in (404, 405):  # optional in servers; a wrong model or URL shows at the first picture
            return
        if reply.status != 200:
            raise refusal(reply, self.endpoint, self.model)
        models = reply.data.get("data")
        entries = models if isinstance(models, list) else []
        served = [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]
        if self.model not in served:
            raise ConfigurationError(
                f"{self.endpoint.host} does not serve the model '{self.model}'",
                hint=f"it serves: {self.endpoint.quote(', '.join(served)) or 'nothing'}",
            )

    async def _too_long(self, topic: Topic, said: str, reply: Reply) -> Exception:
        """The policy's fault, for all pictures, if its text alone leaves no room; else this picture's."""
        policy, host = topic.policy.id, self.endpoint.host
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
            f"{self.endpoint.quote(reply.message)}",
            kind=FailureKind.UNSCANNABLE,
        )
