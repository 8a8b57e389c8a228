"""Policy tests: images, and the answers that a policy is meant to give; the CI of a policy repository."""

from policyguard.authoring.cases.load import (
    CaseFile,
    Cases,
    Expectation,
    ImageCase,
    PairCase,
    PolicyUnderTest,
    load_cases,
)
from policyguard.authoring.cases.result import CaseReport, CaseResult, Status
from policyguard.authoring.cases.run import run_cases

__all__ = [
    "CaseFile",
    "CaseReport",
    "CaseResult",
    "Cases",
    "Expectation",
    "ImageCase",
    "PairCase",
    "PolicyUnderTest",
    "Status",
    "load_cases",
    "run_cases",
]
