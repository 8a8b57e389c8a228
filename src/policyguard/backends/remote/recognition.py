"""Is the model on a server a guard that asks a question of its own?

A name such as ``guard`` says nothing about the weights behind it, and a guard in a foreign dialect answers
all the same. So where no dialect is given by hand, each server is asked once what it tells of the model:
its other names (vLLM and SGLang: ``root``), and its chat template (llama.cpp: ``/props``, Ollama:
``/api/show``) or what that makes of two short messages (vLLM: ``/tokenize`` and ``/detokenize``).

Not covered: a server that tells none of this, such as a hosted API, is taken at its word.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from policyguard.backends import registry
from policyguard.backends.remote.errors import CallError
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from policyguard.backends.remote.endpoint import Endpoint
    from policyguard.backends.remote.servers import Servers
    from policyguard.dialects import Dialect

__all__ = ["require_own_dialect"]

_SYSTEM, _USER = "policyguard system text", "policyguard user text"
_MOST_WORDS = 40
"""Some chat templates add a date, or a line on how to answer; those of guards add a task and categories."""


async def require_own_dialect(servers: Servers, model: str, dialect: Dialect) -> bool:
    """Whether any server could be asked what ``model`` is.

    Raises ConfigurationError where one told that it is to be asked in another dialect.
    """
    answers = await servers.call_each("GET", "/models")
    replies = [answer for answer in answers if not isinstance(answer, CallError)]
    for reply in replies:
        place, entries = f"'{model}' on {reply.endpoint.host}", reply.data.get("data")
        listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        entry = next((entry for entry in listed if entry.get("id") == model), {})
        for name in (entry.get("root"), entry.get("parent")):
            if isinstance(name, str):
                _require_named(place, name, dialect)
        ask = _Asker(servers, reply.endpoint)
        rendered = await _rendered(ask, model)
        props, shown = await ask("GET", "/props"), await ask("POST", "/api/show", {"model": model})
        for text in (rendered, props.get("chat_template"), shown.get("template")):
            registry.require_own_question(
                f"{model}@{reply.endpoint.host}", text if isinstance(text, str) else None, dialect
            )
        words = len(re.findall(r"[^\W\d_]{2,}", re.sub(r"<[^<>]*>", " ", rendered)))
        if words > _MOST_WORDS and dialect.wording != "template":
            raise ConfigurationError(
                f"the chat template of {place} puts {words} words of its own around a prompt, "
                "as guards do that ask a question of their own",
                hint="give its own with dialect= (--dialect; docs/guards.md lists them), or by name "
                f"'{dialect.name}' if you know that it fits",
            )
    return bool(replies)


def _require_named(place: str, name: str, dialect: Dialect) -> None:
    own = registry.resolve_served(name).dialect
    if own not in ("", registry.DEFAULT_DIALECT, "instruct", dialect.name):
        raise ConfigurationError(
            f"{place} is {name[:200]!r}, which speaks the dialect '{own}', not '{dialect.name}'",
            hint=f"give dialect='{own}' (--dialect), or by name '{dialect.name}' if you know that it fits",
        )


async def _rendered(ask: _Asker, model: str) -> str:
    """What the chat template puts around two messages; empty where the server does not show it."""
    turns = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    for messages in (turns, turns[1:]):
        fields = {"model": model, "messages": messages, "add_generation_prompt": True}
        if isinstance(tokens := (await ask("POST", "/tokenize", fields)).get("tokens"), list):
            text = (await ask("POST", "/detokenize", {"model": model, "tokens": tokens})).get("prompt")
            return str(text or "").replace(_SYSTEM, "").replace(_USER, "")
    return ""


class _Asker:
    """Calls to one server, which may know nothing of what is asked: an empty object then."""

    def __init__(self, servers: Servers, endpoint: Endpoint) -> None:
        self._servers, self._endpoint = servers, endpoint

    async def __call__(
        self, method: Literal["GET", "POST"], path: str, payload: object = None
    ) -> dict[str, Any]:
        (reply,) = await self._servers.call_each(method, path, payload, only=self._endpoint)
        return {} if isinstance(reply, CallError) or reply.status != 200 else reply.data
