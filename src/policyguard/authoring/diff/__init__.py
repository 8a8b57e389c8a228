"""What a change of policy does: to its text (``compare_policies``), and to images (``compare_on``)."""

from policyguard.authoring.diff.behaviour import BehaviourDiff, ImageChange, compare_on
from policyguard.authoring.diff.structure import Change, Effect, Kind, PolicyDiff, compare_policies

__all__ = [
    "BehaviourDiff",
    "Change",
    "Effect",
    "ImageChange",
    "Kind",
    "PolicyDiff",
    "compare_on",
    "compare_policies",
]
