"""Ways past the HTTP client of an SDK, closed where that client is guarded.

Covered: the sockets of OpenAI (``responses.connect()``, Realtime, Live) and Google GenAI (Live, music,
interactions), whose messages no HTTP client sees; and the asynchronous calls of a GenAI client or a
``ChatOpenAI`` whose blocking half alone is guarded, and the other way round. They raise ConfigurationError.
To that end these classes are changed when the first client is guarded, or when they are loaded later; on
clients that are not guarded they work as ever. Not covered: sockets of other SDKs, and those that an app
opens by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.family import family_of
from policyguard.integrations.http.flow import Flow

__all__ = ["close_ways_out", "is_guarded"]

_PACKAGES = ("openai.resources.", "google.genai.", "langchain_openai.chat_models.")
_CHANGED = "_policyguard_changed"


@cache
def close_ways_out() -> None:
    """Change the SDKs that are loaded, and those that will be. Does so once."""
    sys.meta_path.insert(0, _Watch())
    for name, module in list(sys.modules.items()):
        if name.startswith(_PACKAGES):
            _change(module)


def is_guarded(client: object) -> bool:
    """Whether a client of httpx or httpx2, or a session of aiohttp, judges what it sends."""
    state = getattr(client, "__dict__", {})
    mounts = state.get("_mounts")
    senders = [
        state.get("_flow"),
        state.get("_transport"),
        *(mounts.values() if isinstance(mounts, dict) else ()),
    ]
    return any(isinstance(sender, Flow) for sender in senders)


class _Watch(MetaPathFinder):
    """Finds nothing itself; sees to it that modules of the SDKs are changed once they are loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(_PACKAGES):
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                if spec.loader is not None:
                    _change_after(spec.loader)
                return spec
        return None


def _change_after(loader: Any) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        _change(module)

    loader.exec_module = exec_module


def _change(module: ModuleType) -> None:
    for kind in list(vars(module).values()):
        if not isinstance(kind, type) or kind.__module__ != module.__name__ or _CHANGED in vars(kind):
            continue
        if callable(connect := vars(kind).get("connect")):
            kind.connect = _refusing(connect)  # type: ignore[attr-defined]
            setattr(kind, _CHANGED, True)
        elif (close := _HALVES.get((module.__name__, kind.__name__))) is not None:
            kind.__init__ = _then(kind.__init__, close)  # type: ignore[misc]
            setattr(kind, _CHANGED, True)


def _refusing(connect: Any) -> Any:
    @wraps(connect)
    def refusing(self: Any, *args: Any, **kwargs: Any) -> Any:
        owners = [getattr(self, name, None) for name in ("_client", "_api_client")]
        names = ("_client", "_httpx_client", "_async_httpx_client")
        if any(is_guarded(getattr(owner, name, None)) for owner in owners for name in names):
            raise ConfigurationError(
                f"{type(self).__name__}.connect() opens a socket beside the guarded HTTP client, and images "
                "would go through it unjudged",
                hint="use the calls over HTTP; where a socket is needed, make an SDK client of its own for "
                "it, without a guard, and judge with guard.check what you send",
            )
        return connect(self, *args, **kwargs)

    return refusing


def _then(initial: Any, close: Callable[[Any], None]) -> Any:
    @wraps(initial)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 (a method)
        initial(self, *args, **kwargs)
        close(self)

    return __init__


def _close_genai(client: Any) -> None:
    """A GenAI client has two HTTP clients. Where one of them is guarded, the other must not send.

    Without an ``httpx_async_client``, asynchronous calls would leave through aiohttp.
    """
    options = vars(client)["_http_options"]
    blocking = is_guarded(options.httpx_client)
    waiting = is_guarded(options.httpx_async_client) or is_guarded(getattr(options, "aiohttp_client", None))
    if blocking == waiting:
        return
    module = family_of(vars(client)["_httpx_client"], "Client").module
    name, kind = ("httpx_async_client", "AsyncClient") if blocking else ("httpx_client", "Client")

    def refused(_request: Any) -> Any:
        raise _half_guarded("GenAI client", f"give HttpOptions a guarded {name} too")

    other = getattr(module, kind)(transport=module.MockTransport(refused))
    vars(client)["_http_options"] = options.model_copy(update={name: other})
    vars(client)["_async_httpx_client" if blocking else "_httpx_client"] = other


def _close_langchain(model: Any) -> None:
    blocking, waiting = is_guarded(model.http_client), is_guarded(model.http_async_client)
    if blocking and not waiting:
        model.root_async_client = model.async_client = _Unguarded("http_async_client")
    elif waiting and not blocking:
        model.root_client = model.client = _Unguarded("http_client")


class _Unguarded:
    """Stands for the half of a chat model that has no guarded client."""

    def __init__(self, missing: str) -> None:
        self._missing = missing

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise _half_guarded("chat model", f"give it a guarded {self._missing} too")


def _half_guarded(what: str, hint: str) -> ConfigurationError:
    return ConfigurationError(
        f"the {what} has one HTTP client that is guarded, and this call would not go through it", hint=hint
    )


_HALVES: dict[tuple[str, str], Callable[[Any], None]] = {
    ("google.genai._api_client", "BaseApiClient"): _close_genai,
    ("langchain_openai.chat_models.base", "BaseChatOpenAI"): _close_langchain,
}
