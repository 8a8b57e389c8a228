"""The requests that a guard makes: chat completions, token ids, the list of models.

A chat completion holds the dialect's prompt as messages, with the frame in them. Covered: the frame gets no
id of ours (``uuid``), under which a server would answer for the first image that it saw; a server that leaves
out the chat template's arguments, such as the policy, is refused; one without ``/tokenize`` or a list of
models is used without them.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.assessment import FailureKind
from policyguard.backends.remote.answers import (
    is_same_model,
    prompt_tokens,
    read_aliases,
    read_models,
    read_partial_text,
    read_token_ids,
)
from policyguard.backends.remote.errors import SCORING, CallError, is_too_long, refusal
from policyguard.backends.remote.sight import Lengths, Sight
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.remote.endpoint import Endpoint
    from policyguard.backends.remote.errors import Reply
    from policyguard.backends.remote.servers import Servers
    from policyguard.dialects import Prompt
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "Chat",
    "Conversation",
    "NoScoresError",
    "chat_messages",
    "continuing",
    "template_fields",
]

_WORDS = 8
"""How many words longer each argument of a chat template gets, to see whether it reaches the model."""

_THOUGHT = 2048
"""Tokens that models may think with, out of sight: those that take ``max_completion_tokens`` alone, and those
whose answer was cut off."""
_SETTING = re.compile(r"\b(temperature|max_tokens)\b")


def chat_messages(prompt: Prompt, frame_uri: bytes) -> list[dict[str, Any]]:
    """The turns before the assistant's. Texts are sent unchanged, so that equal policies are equal bytes."""
    turns = []
    for message in prompt.messages:
        parts = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": frame_uri}}
            for part in message.parts
        ]
        only = message.parts[0] if len(message.parts) == 1 else None
        turns.append({"role": message.role, "content": only if isinstance(only, str) else parts})
    return turns


def continuing(messages: list[dict[str, Any]], prefill: str) -> dict[str, Any]:
    """The fields of a request in which the assistant continues after ``prefill``, which may be empty."""
    if not prefill:
        return {"messages": messages, "add_generation_prompt": True}
    return {
        "messages": [*messages, {"role": "assistant", "content": prefill}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }


def template_fields(prompt: Prompt) -> dict[str, Any]:
    """The field of a request with the chat template's arguments, if there are any."""
    return {"chat_template_kwargs": dict(prompt.template)} if prompt.template else {}


def _lengthened(value: object) -> tuple[Any, int]:
    """``value`` with _WORDS words more in each text of several words, and the number of those texts."""
    if isinstance(value, str):
        return (value + _WORDS * " also", 1) if len(value.split()) > 1 else (value, 0)
    if isinstance(value, Mapping):
        longer = {key: _lengthened(item) for key, item in value.items()}
        return {key: item for key, (item, _) in longer.items()}, sum(number for _, number in longer.values())
    if isinstance(value, (list, tuple)):
        items = [_lengthened(item) for item in value]
        return [item for item, _ in items], sum(number for _, number in items)
    return value, 0


def _refused_setting(reply: Reply) -> str | None:
    """The setting of every request that the server refuses for this model, if it refuses one."""
    if reply.status not in (400, 422):
        return None
    named = _SETTING.fullmatch(reply.parameter) or _SETTING.search(reply.message)
    unsupported = re.search(r"support|deprecated|only the default", reply.message, re.IGNORECASE)
    return named[1] if named and unsupported else None


class NoScoresError(ConfigurationError):
    """The server cannot give the log-probabilities of labels at a place in the answer."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """One frame under one prompt for a policy: what all requests about it share.

    ``size``: of the frame as it is sent, in pixels.
    """

    policy: ResolvedPolicy
    prompt: Prompt
    frame_uri: bytes
    size: tuple[int, int] = (0, 0)
    thought: str = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        return chat_messages(self.prompt, self.frame_uri)


class Chat:
    """One model, on one or several servers. Raises ConfigurationError and CallError, see ``errors``.

    ``cache_salt`` keeps the server's prefix cache apart from that of clients with another one.
    """

    def __init__(self, servers: Servers, model: str, *, cache_salt: str | None = None) -> None:
        self.model = model
        self._servers = servers
        self._fields: dict[str, Any] = {"model": model, "temperature": 0}
        if cache_salt is not None:
            self._fields["cache_salt"] = cache_salt
        self.sight = Sight(model, self.ask_one)
        self._lengths = Lengths()
        self._refused: set[str] = set()
        self._thinks = False
        self._has_tokenize = True
        self._argument_lock = asyncio.Lock()
        self._passed_on: set[tuple[Endpoint, str]] = set()
        self._names = {model}
        """The names under which the model is known to answer."""

    async def continue_answer(
        self, conversation: Conversation, prefill: str, fields: dict[str, Any], *, optional: str | None = None
    ) -> Reply:
        """Let the model continue after ``prefill``. The reply is 200, or refuses the field ``optional``."""
        sent = continuing(conversation.messages, prefill) | template_fields(conversation.prompt) | fields
        reply = await self._own_answer(conversation, (prefill, repr(fields)), sent)
        if reply.status == 200:
            await self._require_all_sent(conversation, sent, reply)
            return reply
        if is_too_long(reply):
            raise await self._too_long(conversation, prefill, reply)
        complaint = f"{reply.parameter} {reply.message}"
        if optional is not None and reply.status in (400, 422) and optional in complaint:
            return reply
        error = refusal(reply, self.model)
        if (
            reply.status in (400, 403, 422)
            and isinstance(error, ConfigurationError)
            and SCORING.search(complaint)
        ):
            raise NoScoresError(error.message, hint=error.hint)
        raise error

    async def answer(self, conversation: Conversation, fields: dict[str, Any]) -> Reply:
        """Let the model answer from the start, with the plain OpenAI API and no more. The reply is 200.

        Once an answer was cut off, the model is taken to think out of sight, as on Gemini and Ollama, and
        gets more tokens for it.

        A prompt that needs the chat template's arguments is no plain one, and is sent with them.
        """
        sent = {"messages": conversation.messages, **template_fields(conversation.prompt), **fields}
        if self._thinks and "max_tokens" in fields:
            sent["max_tokens"] += _THOUGHT
        reply = await self._own_answer(conversation, (None, repr(fields)), sent)
        if reply.status == 200 and not self._thinks and not read_partial_text(reply.data)[1]:
            self._thinks = True
            return await self.answer(conversation, fields)
        if reply.status == 200:
            await self._require_all_sent(conversation, sent, reply)
            return reply
        if is_too_long(reply):
            raise await self._too_long(conversation, "", reply)
        raise refusal(reply, self.model)

    async def _own_answer(self, conversation: Conversation, request: Hashable, sent: dict[str, Any]) -> Reply:
        """``complete``; an answer that counts another prompt is asked for once more, and then an error."""
        prompt = (conversation.policy.fingerprint, conversation.prompt.rule, conversation.size, request)
        for is_last in (False, True):
            reply = await self.complete(sent)
            if reply.status != 200 or self._lengths.fits(reply, prompt):
                return reply
            if is_last:
                self._lengths.forget(reply, prompt)
        raise CallError(
            f"the answer of {reply.endpoint.host} counts another prompt than was sent: it is that to another "
            "request",
            retryable=True,
        )

    async def complete(self, fields: dict[str, Any]) -> Reply:
        """One chat completion; the reply may be a refusal of any kind below 500.

        Raises CallError for the answer of another model.
        """
        while True:
            adapted = self._adapted(self._fields | fields)
            reply = await self._servers.call("POST", "/chat/completions", adapted)
            if reply.status == 200:
                await self._require_same_model(reply)
            refused = _refused_setting(reply)
            if refused not in adapted:
                return reply
            self._refused.add(refused)

    def _adapted(self, fields: dict[str, Any]) -> dict[str, Any]:
        """``fields`` as this model takes them: some refuse ``max_tokens`` or any temperature."""
        if not self._refused:
            return fields
        taken = {name: value for name, value in fields.items() if name not in self._refused}
        if (limit := fields.get("max_tokens")) is not None and "max_tokens" in self._refused:
            taken["max_completion_tokens"] = limit if limit == 1 else limit + _THOUGHT
        return taken

    async def tokenize(self, text: str) -> tuple[list[int], int | None] | None:
        """Token ids of ``text`` and the model's context length; None from a server without ``/tokenize``."""
        if not self._has_tokenize:
            return None
        payload: dict[str, Any] = {"model": self.model, "prompt": text, "add_special_tokens": False}
        reply = await self._servers.call("POST", "/tokenize", payload)
        tokens = read_token_ids(reply.data) if reply.status == 200 else ([], None)
        if not tokens[0] and text:
            # llama.cpp has another field for the text, and gives the tokens of none where that is missing.
            self._has_tokenize = False
            return None
        return tokens

    def quote(self, words: object) -> str:
        """Words of a server or an exception, fit for a message."""
        return self._servers.quote(words)

    async def find_model(self) -> None:
        """Raises ConfigurationError if a server lists its models and ours is not among them.

        A server that cannot be asked is skipped, as long as another one answers.
        """
        replies = await self._servers.call_each("GET", "/models")
        answers = [reply for reply in replies if not isinstance(reply, CallError)]
        for reply in answers:
            self._require_model(reply)
        if not answers:
            raise next(reply for reply in replies if isinstance(reply, CallError))

    def _require_model(self, reply: Reply) -> None:
        if reply.status in (404, 405):  # an optional list; the first image shows a wrong model or URL
            return
        if reply.status != 200:
            raise refusal(reply, self.model)
        served = read_models(reply.data)
        if not any(is_same_model(self.model, name) for name in served):
            raise ConfigurationError(
                f"{reply.endpoint.host} does not serve the model '{self.model}'",
                hint=f"it serves: {reply.endpoint.quote(', '.join(served)) or 'nothing'}",
            )

    async def _require_same_model(self, reply: Reply) -> None:
        answered, host = reply.data.get("model"), reply.endpoint.host
        if answered is None or answered in self._names:
            return
        # Azure answers with the name of the model that a deployment runs.
        if isinstance(answered, str) and (
            is_same_model(self.model, answered) or reply.endpoint.azure or answered in await self._aliases()
        ):
            self._names.add(answered)
            return
        raise CallError(
            f"{host} answers with the model '{reply.endpoint.quote(answered)}' instead of '{self.model}'"
        )

    async def ask_one(self, endpoint: Endpoint, fields: Mapping[str, Any]) -> Reply:
        """One chat completion of one server; the reply may be a refusal. Raises CallError."""
        payload = self._adapted(self._fields | dict(fields))
        (reply,) = await self._servers.call_each("POST", "/chat/completions", payload, only=endpoint)
        if isinstance(reply, CallError):
            raise reply
        return reply

    async def _require_all_sent(
        self, conversation: Conversation, sent: Mapping[str, Any], reply: Reply
    ) -> None:
        """Raises ConfigurationError unless the model got the frame and the chat template's arguments."""
        await self._require_arguments(conversation, sent, reply)
        await self.sight.require(sent, reply, free=conversation.prompt.schema is not None)

    async def _require_arguments(
        self, conversation: Conversation, sent: Mapping[str, Any], reply: Reply
    ) -> None:
        """Raises ConfigurationError unless the server that replied passes on the chat template's arguments.

        One that does not know them ignores them, and its model judges without what they hold, such as the
        policy. So the request is repeated with longer arguments, once per server and prompt: its prompt must
        be as much longer.
        """
        arguments = conversation.prompt.template
        longer, number = _lengthened(arguments)
        if number == 0:
            return
        host, key = reply.endpoint.host, (reply.endpoint, json.dumps(arguments, sort_keys=True))
        async with self._argument_lock:
            if key in self._passed_on:
                return
            longer_one = {**sent, "chat_template_kwargs": longer, "max_tokens": 1}
            other = await self.ask_one(reply.endpoint, longer_one)
            if other.status != 200:
                raise refusal(other, self.model)
            before, after = prompt_tokens(reply.data), prompt_tokens(other.data)
            if before is None or after is None:
                raise ConfigurationError(
                    f"{host} does not report the length of prompts, which would show whether '{self.model}' "
                    f"gets the arguments of its chat template: {', '.join(arguments)}",
                    hint="serve the model with vLLM",
                )
            if after - before < number * _WORDS:
                raise ConfigurationError(
                    f"the arguments of the chat template ({', '.join(arguments)}) do not reach "
                    f"'{self.model}' on {host}: it would judge without the policy",
                    hint="serve the model with vLLM and its own chat template",
                )
            self._passed_on.add(key)

    async def _aliases(self) -> frozenset[str]:
        with suppress(CallError):
            reply = await self._servers.call("GET", "/models")
            return read_aliases(reply.data, self.model)
        return frozenset()

    async def _too_long(self, conversation: Conversation, prefill: str, reply: Reply) -> Exception:
        """ConfigurationError if the policy's text alone leaves no room, for any image; else this image's."""
        policy, host = conversation.policy.id, reply.endpoint.host
        messages = conversation.prompt.messages
        texts = [part for message in messages for part in message.parts if isinstance(part, str)]
        tokens, context = await self.tokenize("".join([*texts, prefill])) or ([], None)
        if context is not None and len(tokens) >= context:
            return ConfigurationError(
                f"policy '{policy}' is too long for '{self.model}' on {host}: "
                f"{len(tokens)} tokens without an image, where the limit is {context}",
                hint="shorten the policy, split it, or serve the model with a larger --max-model-len",
            )
        return CallError(
            f"policy '{policy}' and this image are together too long for '{self.model}' on {host}: "
            f"{reply.endpoint.quote(reply.message)}",
            kind=FailureKind.UNSCANNABLE,
        )
