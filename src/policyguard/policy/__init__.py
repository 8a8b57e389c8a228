"""Policies: what they hold, how they are read from YAML, and what a guard model is shown of them.

A file becomes a ``Document`` (YAML with positions); ``load`` reads what it extends and fills in parameters;
``compose`` makes one ``Policy`` (flat, validated), which resolves to a ``ResolvedPolicy`` (immutable, with
fingerprints). Importing this package loads pydantic and PyYAML, and no model library.
"""

from policyguard.policy.files import packaged_policies
from policyguard.policy.load import extend_policy, load_policy, parse_policy
from policyguard.policy.policy import Policy
from policyguard.policy.resolved import ResolvedPolicy
from policyguard.policy.schema import Defaults, Origin, Rule, Status, Weakening

__all__ = [
    "Defaults",
    "Origin",
    "Policy",
    "ResolvedPolicy",
    "Rule",
    "Status",
    "Weakening",
    "extend_policy",
    "load_policy",
    "packaged_policies",
    "parse_policy",
]
