"""Settings that a caller gives, checked for type and range where they come in; and ``InOneProcess``, for
objects that cannot be handed to another process."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NoReturn, Self, SupportsIndex

from policyguard.errors import ConfigurationError

__all__ = ["InOneProcess", "count", "seconds", "switch", "text", "texts"]


def seconds(name: str, value: object) -> float:
    """``value``, a finite number above 0. Raises ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < math.inf:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, not {value!r}")
    return float(value)


def count(name: str, value: object) -> int:
    """``value``, a whole number of at least 1. Raises ConfigurationError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


def switch(name: str, value: object) -> bool:
    """``value``, True or False and nothing that merely counts as one. Raises ConfigurationError."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value


def text(name: str, value: object) -> str:
    """``value``, a text of at least one character that UTF-8 can encode. It is not shown.

    Raises ConfigurationError.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a text, not of type {type(value).__name__}")
    if not value:
        raise ConfigurationError(f"{name} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{name} holds characters that are broken (lone surrogates)") from None
    return value


def texts(name: str, value: object) -> list[str]:
    """``value``, one text or several, as a list. Raises ConfigurationError."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [text(name, value)]
    values = [text(name, item) for item in value]
    if not values:
        raise ConfigurationError(f"{name} is an empty list")
    return values


class InOneProcess:
    """A base of what holds weights, connections or locks: who pickles it is told so, and what to do."""

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise ConfigurationError(
            f"a {type(self).__name__} cannot be pickled or copied deeply: it holds locks, and weights or "
            "connections",
            hint="make one in each process, for instance in the initializer of a process pool, or where a "
            "task of Spark or Ray begins; hand over policies and images instead",
        )
