"""Ways past the HTTP client of an SDK, closed where that client is guarded.

Covered: the sockets of OpenAI (``responses.connect()``, Realtime, Live) and Google GenAI (Live, music,
interactions), whose messages no HTTP client sees; and the asynchronous calls of a GenAI client that was given
a guarded ``httpx_client`` alone (by default they leave through aiohttp), and the other way round. They raise
ConfigurationError. To that end these classes of the SDKs are changed when the first client is guarded, or
when they are loaded later; on SDK clients that are not guarded they work as ever. Not covered: sockets of
other SDKs, and those that an app opens by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache, wraps
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.family import family_of
from policyguard.integrations.http.flow import Flow

__all__ = ["close_ways_out", "is_guarded"]

_PACKAGES = ("openai.resources.", "google.genai.")
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
        elif (module.__name__, kind.__name__) == ("google.genai._api_client", "BaseApiClient"):
            kind.__init__ = _whole(kind.__init__)  # type: ignore[misc]
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


def _whole(initial: Any) -> Any:
    """A GenAI client has two HTTP clients. Where one of them is guarded, the other must not send."""

    @wraps(initial)
    def whole(self: Any, *args: Any, **kwargs: Any) -> None:
        initial(self, *args, **kwargs)
        options = self._http_options
        sync = is_guarded(options.httpx_client)
        waiting = is_guarded(options.httpx_async_client) or is_guarded(
            getattr(options, "aiohttp_client", None)
        )
        if sync and not waiting:
            module = family_of(options.httpx_client, "Client").module
            refused = _refused("httpx_client", "an httpx_async_client (guarded_async_client)")
            client = module.AsyncClient(transport=module.MockTransport(refused))
            self._http_options = options.model_copy(update={"httpx_async_client": client})
            self._async_httpx_client = client
        elif waiting and not sync:
            module = family_of(self._httpx_client, "Client").module
            refused = _refused("asynchronous client", "an httpx_client (guarded_client)")
            client = module.Client(transport=module.MockTransport(refused))
            self._http_options = options.model_copy(update={"httpx_client": client})
            self._httpx_client = client

    return whole


def _refused(guarded: str, missing: str) -> Any:
    def refused(_request: Any) -> Any:
        raise ConfigurationError(
            f"only the {guarded} of this GenAI client is guarded, and this call would not go through it",
            hint=f"give HttpOptions {missing} too",
        )

    return refused
