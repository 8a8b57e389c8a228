"""What a server can do, found out by a handful of small requests without a picture, once per server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from policyguard.backends.vllm import probes
from policyguard.backends.vllm.answers import NoLogprobsError
from policyguard.backends.vllm.chat import Chat
from policyguard.backends.vllm.client import Client
from policyguard.backends.vllm.endpoint import Endpoint
from policyguard.backends.vllm.faults import CallError, refusal
from policyguard.backends.vllm.retry import Retries
from policyguard.errors import BackendError, UnavailableError

__all__ = [
    "Capabilities",
    "Served",
    "capabilities",
    "connect",
    "examine_server",
]


@dataclass(frozen=True, slots=True)
class Served:
    """A model on the server, and how many tokens it takes, where that is told."""

    id: str
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the server that runs ``model`` can do. None: it does not tell.

    Attributes:
        version: of vLLM; None for other servers.
        served: all models on the server.
        tokenize: whether it tells token ids.
        continues: whether it goes on from an assistant's turn that was begun.
        logprobs: of tokens asked for by id, of the likeliest ones, or of none.
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
    logprobs: probes.Logprobs | None = None
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

    Raises ConfigurationError for a wrong URL, key or path, and UnavailableError if nobody answers. Not to be
    called where an event loop runs.
    """
    endpoint = Endpoint.parse(base_url, api_key)
    key = (endpoint.base, endpoint.api_key, model)
    if key not in _known:

        async def ask() -> Capabilities:
            client = connect(endpoint, timeout=timeout)
            try:
                return await examine_server(client, endpoint, model)
            finally:
                await client.close()

        try:
            _known[key] = asyncio.run(ask())
        except CallError as error:
            kind = UnavailableError if error.failure.retryable else BackendError
            raise kind(error.failure.reason, hint="is the server up?") from None
    return _known[key]


def connect(endpoint: Endpoint, *, timeout: float) -> Client:
    """A client that repeats nothing: what is wrong shall show."""
    retries = Retries(attempts=1, cool_down=0.0)
    return Client([endpoint], timeout=timeout, total=10 * timeout, concurrency=4, retries=retries)


async def examine_server(client: Client, endpoint: Endpoint, model: str | None) -> Capabilities:
    """See ``capabilities``. Raises ConfigurationError, and CallError if the models cannot be asked for."""
    served = await _list_served(client, model or "")
    version = await _version(client)
    if model is None:
        model = served[0].id if len(served) == 1 else None
    if model is None or (served and model not in {entry.id for entry in served}):
        return Capabilities(endpoint.host, model, version, served)
    chat = Chat(client, model)
    ids = await _quietly(probes.label_ids(chat))
    return Capabilities(
        endpoint.host,
        model,
        version,
        served,
        tokenize=ids is not None,
        continues=await _quietly(probes.continues(chat)),
        logprobs=await _quietly(probes.logprobs(chat, ids)),
        constrains=await _quietly(probes.constrains(chat)),
        response_format=await _quietly(probes.holds_response_format(chat)),
        prefix_cache=await _quietly(probes.prefix_cache(chat)),
    )


async def _list_served(client: Client, model: str) -> tuple[Served, ...]:
    """The models of the server; none from one that has no list. Raises ConfigurationError and CallError."""
    reply = await client.call("GET", "/models")
    if reply.status in (404, 405):
        return ()
    if reply.status != 200:
        raise refusal(reply, model)
    data = reply.data.get("data")
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    return tuple(
        Served(entry["id"], probes.whole_number(entry.get("max_model_len")))
        for entry in entries
        if isinstance(entry.get("id"), str)
    )


async def _quietly(probe: Any) -> Any:
    """What a probe finds; None where the server does not play along."""
    try:
        return await probe
    except (CallError, NoLogprobsError):
        return None


async def _version(client: Client) -> str | None:
    try:
        reply = await client.call("GET", "/version")
    except CallError:
        return None
    version = reply.data.get("version") if reply.status == 200 else None
    return version if isinstance(version, str) else None
