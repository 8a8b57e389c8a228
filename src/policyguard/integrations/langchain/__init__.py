"""Guards for LangChain: a step of a chain (``GuardRunnable``), a middleware of agents (``GuardMiddleware``).

``GuardRunnable`` needs langchain-core alone (the extra ``langchain``), ``GuardMiddleware`` needs langchain v1
(the extra ``agents``). Neither is imported before its class is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .middleware import GuardMiddleware
    from .runnable import GuardRunnable

__all__ = ["GuardMiddleware", "GuardRunnable"]


def __getattr__(name: str) -> Any:
    if name == "GuardRunnable":
        from .needs import core

        core()
        from .runnable import GuardRunnable

        return GuardRunnable
    if name == "GuardMiddleware":
        from .needs import agents, core

        core()
        agents()
        from .middleware import GuardMiddleware

        return GuardMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
