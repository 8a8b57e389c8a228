"""LiteLLM, guarded whatever the provider: every HTTP client that it makes from now on judges.

Covered: ``completion``, ``responses``, image and file calls and their asynchronous twins, on all providers
that LiteLLM calls through its own HTTP handlers or through the SDK of OpenAI; clients that exist already. So
every client of that SDK that is made without an ``http_client`` judges, too, whoever makes it. Not covered:
providers that it calls through an SDK of their own (SageMaker by boto3, ``aiohttp_openai``), a ``client=``
that the caller hands in, and sockets.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Unpack
from weakref import WeakKeyDictionary

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.clients import guard_client
from policyguard.integrations.http.settings import Options, Settings

if TYPE_CHECKING:
    from policyguard.guard import Guard

__all__ = ["guard_litellm"]

_ORIGINAL = "_policyguard_original"
_OWN_CLIENTS = ("OpenAIHTTPClient", "OpenAIAsyncHTTPClient")  # of newer versions


def guard_litellm(guard: Guard, **options: Unpack[Options]) -> Callable[[], None]:
    """Make LiteLLM judge the images of all its calls from now on, in this process.

    Takes the options of ``guarded_client``; returns a function that undoes it. Raises ConfigurationError
    where LiteLLM is not installed, is guarded already or sends in another way.
    """
    try:
        module: Any = import_module("litellm")
        handlers: Any = import_module("litellm.llms.custom_httpx.http_handler")
        kinds = (handlers.HTTPHandler, handlers.AsyncHTTPHandler)
        sdk: Any = import_module("openai._base_client")
        own: Any = import_module("litellm.llms.openai.common_utils")
        classes = [sdk.SyncHttpxClientWrapper, sdk.AsyncHttpxClientWrapper]
        classes += [getattr(own, name) for name in _OWN_CLIENTS if hasattr(own, name)]
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"LiteLLM is needed, and not as it is here: {error}") from error
    Settings(guard=guard, **options)  # what is wrong with them is said here, and not at the first call
    if any(hasattr(kind.create_client, _ORIGINAL) for kind in kinds):
        raise ConfigurationError("LiteLLM is guarded already")
    if module.client_session is not None or module.aclient_session is not None:
        raise ConfigurationError(
            "litellm.client_session is set", hint="guard it with guard_client, and leave it away here"
        )
    guarded: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def judging(client: Any) -> Any:
        if client not in guarded:
            guarded[client] = {name: vars(client)[name] for name in ("_transport", "_mounts")}
            guard_client(client, guard, **options)
        return client

    for item in gc.get_objects():
        if type(item) in kinds:
            judging(item.client)
    originals = {kind: kind.create_client for kind in kinds}
    for kind, original in originals.items():
        kind.create_client = _guarding(original, judging)
    initials = {kind: kind.__init__ for kind in classes}
    for kind, initial in initials.items():
        kind.__init__ = _guarding_itself(initial, judging)
    module.client_session, module.aclient_session = (kind().client for kind in kinds)
    module.in_memory_llm_clients_cache.flush_cache()

    def undo() -> None:
        for kind, original in originals.items():
            kind.create_client = original
        for kind, initial in initials.items():
            kind.__init__ = initial
        for client, parts in guarded.items():
            vars(client).update(parts)
        module.client_session = module.aclient_session = None
        module.in_memory_llm_clients_cache.flush_cache()

    return undo


def _guarding(original: Any, judging: Callable[[Any], Any]) -> Any:
    def create_client(self: Any, *args: Any, **kwargs: Any) -> Any:
        return judging(original(self, *args, **kwargs))

    setattr(create_client, _ORIGINAL, original)
    return create_client


def _guarding_itself(initial: Any, judging: Callable[[Any], Any]) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 (a method)
        initial(self, *args, **kwargs)
        judging(self)

    return __init__
