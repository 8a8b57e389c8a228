"""Edit pairs: unsafe images and their edited safe twins, for training and testing under many policies.

SafeGuard-VL's SafeEditBench (section 3.1), as a job: find what violates, have an image editor make the
smallest change that removes it, check the twin, let people review, write rows.
"""

from __future__ import annotations

from policyguard.train.pairs.candidate import Candidate, EditError, Editor, Order, read_candidates
from policyguard.train.pairs.difference import Difference, Limits, compare
from policyguard.train.pairs.export import export_pairs
from policyguard.train.pairs.job import Report, make_pairs
from policyguard.train.pairs.review import Decision, read_review, review_csv
from policyguard.train.pairs.sheet import review_page

__all__ = [
    "Candidate",
    "Decision",
    "Difference",
    "EditError",
    "Editor",
    "Limits",
    "Order",
    "Report",
    "compare",
    "export_pairs",
    "make_pairs",
    "read_candidates",
    "read_review",
    "review_csv",
    "review_page",
]
