"""Policies: what they hold, how they are read from YAML, and what a guard model is shown of them.

A policy goes file -> ``document`` (YAML with positions) -> ``Policy`` (validated) -> ``ResolvedPolicy``
(flat, immutable, fingerprinted). Importing this package loads pydantic and PyYAML, and no model library.
"""

from policyguard.policy.library import packaged_policies
from policyguard.policy.load import load_policy
from policyguard.policy.resolved import ResolvedPolicy
from policyguard.policy.schema import Defaults, Policy, Rule, Status

__all__ = [
    "Defaults",
    "Policy",
    "ResolvedPolicy",
    "Rule",
    "Status",
    "load_policy",
    "packaged_policies",
]
