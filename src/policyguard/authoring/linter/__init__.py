"""Lint: what is doubtful about a policy that can be used, and what is wrong with one that cannot.

``lint`` reads a file or a packaged policy; ``doubts`` looks at a policy that is already loaded. No check asks
a model about images; a model's tokenizer is used where its prompt is measured.
"""

from policyguard.authoring.linter.budget import TokenCounter
from policyguard.authoring.linter.remark import Level, Remark
from policyguard.authoring.linter.run import doubts, lint

__all__ = ["Level", "Remark", "TokenCounter", "doubts", "lint"]
