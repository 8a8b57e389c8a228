"""What a server can do: a handful of small requests, once per server, each of which shows one thing.

A probe gives None where the server's answer does not tell, and raises CallError where there is no answer.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from policyguard.backends.remote.answers import (
    NoLogprobsError,
    is_same_model,
    prompt_tokens,
    read_models,
    read_partial_text,
    read_probabilities,
    read_text,
    whole_number,
)
from policyguard.backends.remote.chat import Chat, continuing
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError, refusal
from policyguard.backends.remote.forms import response_format
from policyguard.backends.remote.retry import Retries
from policyguard.backends.remote.servers import Servers
from policyguard.backends.remote.sight import Look
from policyguard.errors import BackendError, ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from policyguard.backends.remote.errors import Reply

__all__ = [
    "Capabilities",
    "Logprobs",
    "Served",
    "cached_tokens",
    "capabilities",
    "connect",
    "examine_server",
    "look",
]

Logprobs = Literal["exact", "likeliest", "none"]
_ASKED = "Is water wet? Answer safe or unsafe."
_QUESTION = [{"role": "user", "content": _ASKED}]
_PREFILL = "The answer is"
_LONG = "This line is here to be remembered by the server. " * 24
_SCHEMA = {
    "type": "object",
    "properties": {"rating": {"type": "string", "enum": ["safe", "unsafe"]}},
    "required": ["rating"],
    "additionalProperties": False,
}


async def probe_api(chat: Chat) -> None:
    """Raises ConfigurationError where the address, the key or the model's name is wrong."""
    reply = await chat.complete({"messages": _QUESTION, "max_tokens": 1})
    error = None if reply.status == 200 else refusal(reply, chat.model)
    if isinstance(error, ConfigurationError) and reply.status not in (400, 422):
        raise error


async def probe_label_ids(chat: Chat) -> list[int] | None:
    words = [await chat.tokenize(word) for word in ("safe", "unsafe")]
    ids = [tokens[0][0] for tokens in words if tokens is not None and tokens[0]]
    return ids if len(ids) == len(words) else None


async def probe_continues(chat: Chat) -> bool | None:
    """By how much a prefilled answer lengthens the prompt: a template that closes its turn adds tokens."""
    fresh = _prompt_tokens(await chat.complete({"messages": _QUESTION, "max_tokens": 1}))
    once, twice = [
        _prompt_tokens(await chat.complete(continuing(_QUESTION, prefill) | {"max_tokens": 1}))
        for prefill in (_PREFILL, f"{_PREFILL} {_PREFILL}")
    ]
    if fresh is None or once is None or twice is None:
        return None
    return once > fresh and abs((once - fresh) - (twice - once)) <= 1


async def probe_logprobs(chat: Chat, ids: list[int] | None) -> Logprobs | None:
    fields: dict[str, Any] = {"messages": _QUESTION, "max_tokens": 1, "logprobs": True}
    if ids is not None:
        exact = {"logprob_token_ids": ids, "return_tokens_as_token_ids": True}
        if (reply := await chat.complete(fields | exact)).status == 200:
            try:
                by_id = read_probabilities(reply.data).by_id or {}
            except NoLogprobsError:
                return "none"
            if set(ids) <= set(by_id):
                return "exact"
    reply = await chat.complete(fields | {"top_logprobs": 5})
    if reply.status != 200:
        return "none"
    try:
        tokens = read_probabilities(reply.data)
    except NoLogprobsError:
        return "none"
    return "none" if tokens.only_sampled else "likeliest"


async def probe_constrains(chat: Chat) -> bool:
    fields = {"messages": _QUESTION, "max_tokens": 8, "structured_outputs": {"regex": "(yes|no)"}}
    reply = await chat.complete(fields)
    return reply.status == 200 and re.fullmatch("yes|no", read_text(reply.data)) is not None


async def probe_response_format(chat: Chat) -> bool:
    """By an answer in the form, or cut off within it: models that are bad at JSON fill it with blanks."""
    fields = {"messages": _QUESTION, "max_tokens": 40, "response_format": response_format(_SCHEMA)}
    reply = await chat.complete(fields)
    if reply.status != 200:
        return False
    text, complete = read_partial_text(reply.data)
    compact = "".join(text.split())
    forms = [f'{{"rating":"{label}"}}' for label in ("safe", "unsafe")]
    return compact in forms if complete else compact != "" and any(form.startswith(compact) for form in forms)


async def look(chat: Chat, frame_uri: bytes, *, free: bool) -> Look:
    """Whether the model sees the frame; ``free``: it answers questions of any kind. Raises CallError."""
    parts = [{"type": "image_url", "image_url": {"url": frame_uri}}, {"type": "text", "text": _ASKED}]
    sent = {"messages": [{"role": "user", "content": parts}], "max_tokens": 1}
    reply = await chat.complete(sent)
    if reply.status != 200:
        quote = reply.endpoint.quote(reply.message)
        return Look(None, f"whether the model sees images is unknown: one is refused ({quote})")
    return await chat.sight.look(sent, reply, free=free)


async def probe_prefix_cache(chat: Chat) -> bool | None:
    messages = [{"role": "system", "content": _LONG}, *_QUESTION]
    for question in ("again", "and again"):
        reply = await chat.complete(
            {"messages": [*messages[:1], {"role": "user", "content": question}], "max_tokens": 1}
        )
    cached = cached_tokens(reply.data)
    return None if cached is None else cached > 0


def _prompt_tokens(reply: Reply) -> int | None:
    return prompt_tokens(reply.data) if reply.status == 200 else None


def cached_tokens(data: Mapping[str, Any]) -> int | None:
    """How many tokens of the prompt came from the server's prefix cache; None if it does not say."""
    usage = data.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return whole_number(details.get("cached_tokens")) if isinstance(details, dict) else None


@dataclass(frozen=True, slots=True)
class Served:
    """A model on the server, and its context length in tokens, where that is given."""

    id: str
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server that runs ``model`` can do. None: not known.

    Attributes:
        version: of vLLM; None for other servers.
        served: all models on the server; empty where it has no list of them.
        tokenize: whether it gives token ids.
        continues: whether it continues a prefilled assistant's turn.
        logprobs: of tokens requested by id, of the most likely ones, or of none.
        constrains: whether ``structured_outputs`` holds an explanation to a form.
        response_format: whether ``response_format`` with a JSON schema does so.
        prefix_cache: whether a text sent twice is computed once.
    """

    host: str
    model: str | None
    version: str | None
    served: tuple[Served, ...]
    tokenize: bool | None = None
    continues: bool | None = None
    logprobs: Logprobs | None = None
    constrains: bool | None = None
    response_format: bool | None = None
    prefix_cache: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        return plain | {"served": [{"id": entry.id, "context": entry.context} for entry in self.served]}


_known: dict[tuple[str, str | None, str | None], Capabilities] = {}


def capabilities(
    base_url: str, *, model: str | None = None, api_key: str | None = None, timeout: float = 30.0
) -> Capabilities:
    """What the server at ``base_url`` can do; asked once per process. Without ``model``: its only one.

    Raises ConfigurationError for a wrong URL, key or path, and UnavailableError if it does not answer. Not to
    be called where an event loop runs.
    """
    endpoint = Endpoint.parse(base_url, api_key)
    key = (endpoint.base, endpoint.api_key, model)
    if key not in _known:

        async def examine() -> Capabilities:
            servers = connect(endpoint, timeout=timeout)
            try:
                return await examine_server(servers, endpoint, model)
            finally:
                await servers.close()

        try:
            _known[key] = asyncio.run(examine())
        except CallError as error:
            kind = UnavailableError if error.failure.retryable else BackendError
            raise kind(error.failure.reason, hint="is the server up?") from None
    return _known[key]


def connect(endpoint: Endpoint, *, timeout: float) -> Servers:
    """The server, with calls that are not repeated, so that every problem shows."""
    retries = Retries(attempts=1, cool_down=0.0)
    return Servers([endpoint], timeout=timeout, total=10 * timeout, concurrency=4, retries=retries)


async def examine_server(servers: Servers, endpoint: Endpoint, model: str | None) -> Capabilities:
    """See ``capabilities``. Raises ConfigurationError, and CallError if the server cannot be asked."""
    served = await _list_served(servers, model or "")
    if model is None and not served:
        raise ConfigurationError(
            f"there is no list of models at {endpoint.base}",
            hint="base_url usually ends in /v1; if it is right, name the model with --model",
        )
    if model is None:
        model = served[0].id if len(served) == 1 else None
    version = await _version(servers)
    if model is None or (served and not any(is_same_model(model, entry.id) for entry in served)):
        return Capabilities(endpoint.host, model, version, served)
    chat = Chat(servers, model)
    if not served:
        await probe_api(chat)
    ids = await _or_none(probe_label_ids(chat))
    return Capabilities(
        endpoint.host,
        model,
        version,
        served,
        tokenize=ids is not None,
        continues=await _or_none(probe_continues(chat)),
        logprobs=await _or_none(probe_logprobs(chat, ids)),
        constrains=await _or_none(probe_constrains(chat)),
        response_format=await _or_none(probe_response_format(chat)),
        prefix_cache=await _or_none(probe_prefix_cache(chat)),
    )


async def _list_served(servers: Servers, model: str) -> tuple[Served, ...]:
    """The models of the server; none from one that has no list. Raises ConfigurationError and CallError."""
    reply = await servers.call("GET", "/models")
    if reply.status in (404, 405):
        return ()
    if reply.status != 200:
        raise refusal(reply, model)
    return tuple(Served(*model) for model in read_models(reply.data).items())


async def _or_none(probe: Any) -> Any:
    """The result of a probe; None where the server refuses, or its answer cannot be read."""
    try:
        return await probe
    except (CallError, NoLogprobsError):
        return None


async def _version(servers: Servers) -> str | None:
    try:
        reply = await servers.call("GET", "/version")
    except CallError:
        return None
    version = reply.data.get("version") if reply.status == 200 else None
    return version if isinstance(version, str) else None
