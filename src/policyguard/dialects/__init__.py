"""How each model family is spoken to."""

from __future__ import annotations

from policyguard.dialects.base import (
    FRAME,
    Answer,
    Dialect,
    FrameSlot,
    Layout,
    Limits,
    Message,
    Prompt,
    render_one,
)
from policyguard.dialects.pico import PicoDialect
from policyguard.dialects.rule_by_rule import PerRule, merge
from policyguard.dialects.safeguard import SafeguardDialect
from policyguard.errors import ConfigurationError

__all__ = [
    "FRAME",
    "Answer",
    "Dialect",
    "FrameSlot",
    "Layout",
    "Limits",
    "Message",
    "PerRule",
    "PicoDialect",
    "Prompt",
    "SafeguardDialect",
    "dialect_names",
    "get_dialect",
    "merge",
    "render_one",
]

_DIALECTS = {dialect.name: dialect for dialect in (SafeguardDialect, PicoDialect)}


def dialect_names() -> tuple[str, ...]:
    """The known dialects, sorted."""
    return tuple(sorted(_DIALECTS))


def get_dialect(name: str) -> Dialect:
    """The dialect called ``name``. Raises ConfigurationError for an unknown one."""
    try:
        return _DIALECTS[name]()
    except KeyError:
        raise ConfigurationError(
            f"there is no dialect '{name}'", hint=f"choose one of: {', '.join(dialect_names())}"
        ) from None
