"""What a change of policy does: to its text (``compare_policies``), and to pictures (``compare_on``)."""

from policyguard.policy.diff.behaviour import BehaviourDiff, ImageChange, compare_on
from policyguard.policy.diff.change import Change, Effect, Kind, PolicyDiff
from policyguard.policy.diff.remember import RememberingBackend
from policyguard.policy.diff.structure import compare_policies

__all__ = [
    "BehaviourDiff",
    "Change",
    "Effect",
    "ImageChange",
    "Kind",
    "PolicyDiff",
    "RememberingBackend",
    "compare_on",
    "compare_policies",
]
