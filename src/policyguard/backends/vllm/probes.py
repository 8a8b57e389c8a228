"""Small questions to a server, each of which shows one thing that it can do. None: it does not tell.

Each raises CallError where the server does not answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from policyguard.backends.vllm.answers import NoLogprobsError, read_listing, read_text
from policyguard.backends.vllm.messages import continuing
from policyguard.backends.vllm.schema import response_format

if TYPE_CHECKING:
    from policyguard.backends.vllm.chat import Chat
    from policyguard.backends.vllm.connection import Reply

__all__ = [
    "Logprobs",
    "cached_tokens",
    "constrains",
    "continues",
    "holds_response_format",
    "label_ids",
    "logprobs",
    "prefix_cache",
    "whole_number",
]

Logprobs = Literal["exact", "likeliest", "none"]

_ASKED = [{"role": "user", "content": "Is water wet? Answer safe or unsafe."}]
_SAID = "The answer is"
_LONG = "This line is here to be remembered by the server. " * 24
_SCHEMA = {
    "type": "object",
    "properties": {"rating": {"type": "string", "enum": ["safe", "unsafe"]}},
    "required": ["rating"],
    "additionalProperties": False,
}


async def label_ids(chat: Chat) -> list[int] | None:
    words = [await chat.tokenize(word) for word in ("safe", "unsafe")]
    ids = [tokens[0][0] for tokens in words if tokens is not None and tokens[0]]
    return ids if len(ids) == len(words) else None


async def continues(chat: Chat) -> bool | None:
    """By how much a begun answer lengthens the prompt: closing its turn and opening another takes tokens."""
    fresh = _prompt_tokens(await chat.complete({"messages": _ASKED, "max_tokens": 1}))
    once, twice = [
        _prompt_tokens(await chat.complete(continuing(_ASKED, said) | {"max_tokens": 1}))
        for said in (_SAID, f"{_SAID} {_SAID}")
    ]
    if fresh is None or once is None or twice is None:
        return None
    return once > fresh and abs((once - fresh) - (twice - once)) <= 1


async def logprobs(chat: Chat, ids: list[int] | None) -> Logprobs | None:
    asked: dict[str, Any] = {"messages": _ASKED, "max_tokens": 1, "logprobs": True}
    if ids is not None:
        exact = {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        if (reply := await chat.complete(asked | exact)).status == 200:
            try:
                by_id = read_listing(reply.data).by_id or {}
            except NoLogprobsError:
                return "none"
            if set(ids) <= set(by_id):
                return "exact"
    reply = await chat.complete(asked | {"top_logprobs": 5})
    if reply.status != 200:
        return "none"
    try:
        listing = read_listing(reply.data)
    except NoLogprobsError:
        return "none"
    return "likeliest" if len(listing.by_text) > 1 else "none"


async def constrains(chat: Chat) -> bool:
    fields = {"messages": _ASKED, "max_tokens": 8, "structured_outputs": {"regex": "(yes|no)"}}
    reply = await chat.complete(fields)
    return reply.status == 200 and re.fullmatch("yes|no", read_text(reply.data)) is not None


async def holds_response_format(chat: Chat) -> bool:
    fields = {"messages": _ASKED, "max_tokens": 40, "response_format": response_format(_SCHEMA)}
    reply = await chat.complete(fields)
    if reply.status != 200:
        return False
    try:
        found = json.loads(read_text(reply.data))
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("rating") in ("safe", "unsafe") and len(found) == 1


async def prefix_cache(chat: Chat) -> bool | None:
    messages = [{"role": "system", "content": _LONG}, *_ASKED]
    for question in ("again", "and again"):
        reply = await chat.complete(
            {"messages": [*messages[:1], {"role": "user", "content": question}], "max_tokens": 1}
        )
    cached = cached_tokens(reply.data)
    return None if cached is None else cached > 0


def _prompt_tokens(reply: Reply) -> int | None:
    usage = reply.data.get("usage") if reply.status == 200 else None
    return whole_number(usage.get("prompt_tokens")) if isinstance(usage, dict) else None


def cached_tokens(data: Mapping[str, Any]) -> int | None:
    """How many tokens of the prompt came from the server's prefix cache; None where it does not tell."""
    usage = data.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return whole_number(details.get("cached_tokens")) if isinstance(details, dict) else None


def whole_number(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
