"""How each model family is spoken to."""

from __future__ import annotations

from importlib.metadata import entry_points
from inspect import signature
from typing import Any, get_args, get_type_hints

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
from policyguard.dialects.guardreasoner import GuardReasonerDialect
from policyguard.dialects.instruct import InstructDialect
from policyguard.dialects.llama_guard import LlamaGuardDialect
from policyguard.dialects.llavaguard import LlavaGuardDialect
from policyguard.dialects.nemotron import NemotronDialect
from policyguard.dialects.pico import PicoDialect
from policyguard.dialects.rule_by_rule import PerRule, merge
from policyguard.dialects.safeguard import SafeguardDialect
from policyguard.dialects.safeguard_vl import SafeGuardVLDialect
from policyguard.dialects.shieldgemma import ShieldGemmaDialect
from policyguard.dialects.shieldstral import ShieldstralDialect
from policyguard.dialects.singguard import SingGuardDialect
from policyguard.dialects.wording import Wording
from policyguard.errors import ConfigurationError

__all__ = [
    "FRAME",
    "Answer",
    "Dialect",
    "FrameSlot",
    "GuardReasonerDialect",
    "InstructDialect",
    "Layout",
    "Limits",
    "LlamaGuardDialect",
    "LlavaGuardDialect",
    "Message",
    "NemotronDialect",
    "PerRule",
    "PicoDialect",
    "Prompt",
    "SafeGuardVLDialect",
    "SafeguardDialect",
    "ShieldGemmaDialect",
    "ShieldstralDialect",
    "SingGuardDialect",
    "Wording",
    "dialect_names",
    "get_dialect",
    "merge",
    "render_one",
]

_PER_RULE = "+per-rule"
_ENTRY_POINTS = "policyguard.dialects"
"""Other packages add dialects under this group: a name, and what makes the dialect when it is called."""

_DIALECTS: dict[str, type[Dialect]] = {
    dialect.name: dialect
    for dialect in (
        GuardReasonerDialect,
        InstructDialect,
        LlamaGuardDialect,
        LlavaGuardDialect,
        NemotronDialect,
        PicoDialect,
        SafeGuardVLDialect,
        SafeguardDialect,
        ShieldGemmaDialect,
        ShieldstralDialect,
        SingGuardDialect,
    )
}


def dialect_names() -> tuple[str, ...]:
    """The dialects of this package, sorted."""
    return tuple(sorted(_DIALECTS))


def get_dialect(name: str, *, per_rule: bool = False, **options: Any) -> Dialect:
    """The dialect called ``name``; ``options`` are those of its class, such as ``wording`` or ``layout``.

    ``"singguard:slow"`` is short for ``mode="slow"``, ``"llavaguard:policy-first"`` for that ``layout``, and
    ``"llavaguard+per-rule"`` for ``per_rule=True``: ask about one rule at a time.
    Raises ConfigurationError for an unknown name or option.
    """
    plain, colon, mode = name.removesuffix(_PER_RULE).partition(":")
    per_rule = per_rule or name.endswith(_PER_RULE)
    make: Any = _DIALECTS.get(plain) or _installed(plain)
    if make is None:
        known = ", ".join(dialect_names())
        raise ConfigurationError(f"there is no dialect '{plain}'", hint=f"choose one of: {known}")
    if colon:
        layout = mode in get_args(Layout) and "layout" in signature(make).parameters
        options["layout" if layout else "mode"] = mode
    if wrong := sorted(set(options) - set(signature(make).parameters)):
        raise ConfigurationError(f"the dialect '{plain}' has no option '{wrong[0]}'")
    if options.get("mode") not in (None, *(modes := _modes(make))):
        raise ConfigurationError(f"the dialect '{plain}' has the modes {', '.join(modes)}, not '{mode}'")
    dialect: Dialect = make(**options)
    asks_by_rule = isinstance(dialect, (ShieldGemmaDialect, ShieldstralDialect))
    return PerRule(dialect) if per_rule and not asks_by_rule else dialect


def _modes(make: Any) -> tuple[str, ...]:
    return tuple(getattr(get_type_hints(make.__init__).get("mode"), "__args__", ()))


def _installed(name: str) -> Any:
    points = [point for point in entry_points(group=_ENTRY_POINTS) if point.name == name]
    if len(points) > 1:
        packages = ", ".join(point.value for point in points)
        raise ConfigurationError(f"several packages install a dialect '{name}': {packages}")
    return points[0].load() if points else None
