"""Checks of many images in a build: project file, baseline, reports, pytest plugin, generation gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policyguard.ci.gating import Attempt, GateResult, agate, gate

__all__ = ["Attempt", "GateResult", "agate", "gate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from policyguard.ci import gating

        return getattr(gating, name)
    raise AttributeError(f"module 'policyguard.ci' has no attribute '{name}'")
