"""PolicyGuard asks a guard model whether an image breaks a policy in plain language, and acts on the answer.

    from policyguard import Guard

    verdict = Guard(policy="pictosafe/l3").check("scene.png")
    verdict.allowed

Nothing heavy is imported here: policies and models load when a Guard needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyguard._version import __version__
from policyguard.assessment import Reading
from policyguard.errors import ConfigurationError, PolicyError, PolicyGuardError
from policyguard.guard import Guard, Shadow
from policyguard.outcomes import Action, Outcome
from policyguard.verdict import Finding, PolicyViolation, Verdict

if TYPE_CHECKING:
    from policyguard.policy import Policy

__all__ = [
    "Action",
    "ConfigurationError",
    "Finding",
    "Guard",
    "Outcome",
    "Policy",
    "PolicyError",
    "PolicyGuardError",
    "PolicyViolation",
    "Reading",
    "Shadow",
    "Verdict",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Policy":  # pydantic is slow to import, and not needed before a policy is
        from policyguard.policy import Policy

        return Policy
    raise AttributeError(f"module 'policyguard' has no attribute '{name}'")
