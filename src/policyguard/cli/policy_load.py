"""Policies as a command line names them: a source, a root, and values for parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from policyguard.errors import UsageError

if TYPE_CHECKING:
    from policyguard.policy import Policy

__all__ = ["load", "parameters"]


def parameters(given: Iterable[str] | None) -> dict[str, str]:
    """``["min_age=18"]`` as a mapping. Raises UsageError for what is not of this form, or given twice."""
    values: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE, not '{text}'", hint="such as --set min_age=18")
        if name in values:
            raise UsageError(f"--set gives '{name}' twice")
        values[name] = value
    return values


def load(source: str, *, root: str | None = None, given: Iterable[str] | None = None) -> Policy:
    """The composed policy. Raises PolicyError."""
    from policyguard.policy import load_policy

    return load_policy(source, root=root, parameters=parameters(given))
