"""Policy tests: pictures, and the answers that a policy is meant to give; the CI of a policy repository."""

from policyguard.policy.cases.junit import junit
from policyguard.policy.cases.load import Cases, load_cases
from policyguard.policy.cases.result import CaseReport, CaseResult, Status
from policyguard.policy.cases.run import run_cases
from policyguard.policy.cases.schema import CaseFile, Expectation, ImageCase, PairCase, PolicyUnderTest

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
    "junit",
    "load_cases",
    "run_cases",
]
