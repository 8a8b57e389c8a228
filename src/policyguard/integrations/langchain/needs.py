"""Which of LangChain's packages are there."""

from __future__ import annotations

from policyguard.errors import MissingExtraError

__all__ = ["agents", "core"]


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
