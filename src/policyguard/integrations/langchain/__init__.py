"""Guards for LangChain: a step of a chain (``GuardRunnable``), a middleware of agents (``GuardMiddleware``).

``GuardRunnable`` needs langchain-core alone (the extra ``langchain``), ``GuardMiddleware`` needs langchain v1
(the extra ``agents``). Neither is imported before its class is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyguard.errors import MissingExtraError
from policyguard.integrations.screen import FileLedger

if TYPE_CHECKING:
    from policyguard.integrations.langchain.middleware import GuardMiddleware
    from policyguard.integrations.langchain.runnable import GuardRunnable

__all__ = ["FileLedger", "GuardMiddleware", "GuardRunnable"]


def core() -> None:
    """Raise MissingExtraError without langchain-core."""
    try:
        import langchain_core.runnables  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("langchain-core", "langchain") from error


def agents() -> None:
    """Raise MissingExtraError without langchain v1."""
    try:
        import langchain.agents.middleware  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("langchain, version 1.4 or later,", "agents") from error


def __getattr__(name: str) -> Any:
    if name == "GuardRunnable":
        core()
        from policyguard.integrations.langchain.runnable import GuardRunnable

        return GuardRunnable
    if name == "GuardMiddleware":
        core()
        agents()
        from policyguard.integrations.langchain.middleware import GuardMiddleware

        return GuardMiddleware
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
