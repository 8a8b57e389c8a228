"""For those who write policies: find mistakes, compare two policies, test one, have an editor check it.

Importing this package loads nothing; each name loads what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.authoring.bands import band_of, measure_band
    from policyguard.authoring.calibrate import CalibrationReport, calibrate_guard, write_overlay
    from policyguard.authoring.cases import CaseReport, CaseResult, Cases, Status, load_cases, run_cases
    from policyguard.authoring.compare import Comparison, GuardResult, Pair, compare_guards
    from policyguard.authoring.compare_page import comparison_page
    from policyguard.authoring.diff import (
        BehaviourDiff,
        Change,
        Effect,
        ImageChange,
        PolicyDiff,
        compare_on,
        compare_policies,
    )
    from policyguard.authoring.diff.page import diff_page
    from policyguard.authoring.editor import json_schema
    from policyguard.authoring.labels import Label, Labels, load_labels
    from policyguard.authoring.linter import Level, Remark, TokenCounter, doubts, lint
    from policyguard.authoring.thresholds import Target
    from policyguard.metrics import Figure, Figures

__all__ = [
    "BehaviourDiff",
    "CalibrationReport",
    "CaseReport",
    "CaseResult",
    "Cases",
    "Change",
    "Comparison",
    "Effect",
    "Figure",
    "Figures",
    "GuardResult",
    "ImageChange",
    "Label",
    "Labels",
    "Level",
    "Pair",
    "PolicyDiff",
    "Remark",
    "Status",
    "Target",
    "TokenCounter",
    "band_of",
    "calibrate_guard",
    "compare_guards",
    "compare_on",
    "compare_policies",
    "comparison_page",
    "diff_page",
    "doubts",
    "json_schema",
    "lint",
    "load_cases",
    "load_labels",
    "measure_band",
    "run_cases",
    "write_overlay",
]

_CASES = ("CaseReport", "CaseResult", "Cases", "Status", "load_cases", "run_cases")
_DIFF = ("BehaviourDiff", "Change", "Effect", "ImageChange", "PolicyDiff", "compare_on", "compare_policies")
_COMPARE = ("Comparison", "GuardResult", "Pair", "compare_guards")
_HOMES = {
    **dict.fromkeys(("band_of", "measure_band"), ".bands"),
    **dict.fromkeys(_CASES, ".cases"),
    **dict.fromkeys(_DIFF, ".diff"),
    **dict.fromkeys(("CalibrationReport", "calibrate_guard", "write_overlay"), ".calibrate"),
    **dict.fromkeys(_COMPARE, ".compare"),
    "Target": ".thresholds",
    **dict.fromkeys(("Figure", "Figures"), "policyguard.metrics"),
    **dict.fromkeys(("Label", "Labels", "load_labels"), ".labels"),
    "comparison_page": ".compare_page",
    **dict.fromkeys(("Level", "Remark", "TokenCounter", "doubts", "lint"), ".linter"),
    "diff_page": ".diff.page",
    "json_schema": ".editor",
}
__getattr__ = lazily(__name__, _HOMES)
