"""For those who write policies: find mistakes, compare two policies, test one, have an editor check it.

Importing this package loads nothing; each name loads what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyguard.strict.lazy import lazily

if TYPE_CHECKING:
    from policyguard.authoring.bands import band_of, measure_band
    from policyguard.authoring.cases import CaseReport, CaseResult, Cases, Status, load_cases, run_cases
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
    from policyguard.authoring.linter import Level, Remark, TokenCounter, doubts, lint

__all__ = [
    "BehaviourDiff",
    "CaseReport",
    "CaseResult",
    "Cases",
    "Change",
    "Effect",
    "ImageChange",
    "Level",
    "PolicyDiff",
    "Remark",
    "Status",
    "TokenCounter",
    "band_of",
    "compare_on",
    "compare_policies",
    "diff_page",
    "doubts",
    "json_schema",
    "lint",
    "load_cases",
    "measure_band",
    "run_cases",
]

_CASES = ("CaseReport", "CaseResult", "Cases", "Status", "load_cases", "run_cases")
_DIFF = ("BehaviourDiff", "Change", "Effect", "ImageChange", "PolicyDiff", "compare_on", "compare_policies")
_HOMES = {
    **dict.fromkeys(("band_of", "measure_band"), ".bands"),
    **dict.fromkeys(_CASES, ".cases"),
    **dict.fromkeys(_DIFF, ".diff"),
    **dict.fromkeys(("Level", "Remark", "TokenCounter", "doubts", "lint"), ".linter"),
    "diff_page": ".diff.page",
    "json_schema": ".editor",
}
__getattr__ = lazily(__name__, _HOMES)
