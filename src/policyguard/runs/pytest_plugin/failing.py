"""Why an image is not allowed, in full, for the reader of a failing test."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from policyguard.outcomes import Outcome
from policyguard.strict.text import one_line, printable
from policyguard.verdict import Finding, Verdict

if TYPE_CHECKING:
    from policyguard.policy import ResolvedPolicy
    from policyguard.runs.baseline import BaselineEntry

__all__ = ["ImageNotAllowedError", "failure_message"]


class ImageNotAllowedError(AssertionError):
    """An image that should be allowed is not, or could not be judged. ``verdict`` says why."""

    def __init__(self, message: str, verdict: Verdict) -> None:
        super().__init__(message)
        self.verdict = verdict


def failure_message(
    verdict: Verdict,
    policies: Sequence[ResolvedPolicy],
    *,
    path: str | None = None,
    expired: Sequence[BaselineEntry] = (),
    problems: Sequence[str] = (),
) -> str:
    """Several lines: what is wrong, with which scores, what the rules say, and how to accept it.

    ``path``: where the image lies, if it is a file; ``expired``: entries of the baseline that have expired;
    ``problems``: problems of the baseline.
    """
    return "\n".join(_lines(verdict, policies, path, expired, problems))


def _lines(
    verdict: Verdict,
    policies: Sequence[ResolvedPolicy],
    path: str | None,
    expired: Sequence[BaselineEntry],
    problems: Sequence[str],
) -> Iterator[str]:
    evidence = verdict.evidence
    judged = verdict.outcome.judged and not verdict.degraded
    yield f"{printable(path or verdict.source)} {'is not allowed' if judged else 'could not be judged'}"
    if verdict.reason:
        yield f"  {one_line(verdict.reason.removeprefix(f'{verdict.source}: '))}"
    if evidence.size is not None:
        width, height = evidence.size
        frames = f", {evidence.frames} frames" if evidence.frames > 1 else ""
        yield f"  image: {width} x {height}{frames}, sha256 {evidence.image_sha256}"
    score = "" if verdict.score is None else f", score {verdict.score:.3f}"
    yield f"  verdict: {verdict.action} ({verdict.outcome}{score}) by {printable(evidence.model.id)}"
    by_id = {policy.id: policy for policy in policies}
    for finding in verdict.findings:
        if finding.violates and finding.policy in by_id:
            yield from _finding(finding, by_id[finding.policy], verdict)
    if verdict.rationale:
        yield f"  the model's reasons: {one_line(verdict.rationale)}"
    for reason in evidence.unexplained:
        if reason != verdict.reason:
            yield f"  not explained by a rule: {one_line(reason)}"
    for problem in problems:
        yield f"  baseline: {one_line(problem)}"
    for entry in expired:
        yield f"  accepted by {printable(entry.by)} until {entry.until}: {one_line(entry.reason)}"
    if verdict.degraded:
        yield "  the policy lets it through unjudged; to allow that in this test: degraded='allow'"
    elif path is not None and verdict.outcome is Outcome.VIOLATES and not evidence.unexplained:
        argument = shlex.quote(printable(path))
        yield f"  to accept it: policyguard baseline update {argument} --reason WHY --until DATE"


def _finding(finding: Finding, policy: ResolvedPolicy, verdict: Verdict) -> Iterator[str]:
    rule = policy.rule(finding.rule)
    threshold = policy.threshold if rule.threshold is None else rule.threshold
    head = f"  {policy.id} {policy.version}, rule {rule.id}: {rule.title}"
    if finding.score is None:
        yield f"{head} (the model gives no score)"
    elif finding.attributed:
        yield f"{head} (score {finding.score:.3f}, violates from {threshold:g})"
    else:
        whole = "" if verdict.score is None else f"; the image scores {verdict.score:.3f}"
        yield f"{head} (the closest, score {finding.score:.3f}{whole}, violates from {policy.threshold:g})"
    if rule.description:
        yield f"    {one_line(rule.description)}"
    yield from (f"    must not show: {one_line(item)}" for item in rule.unsafe)
    often = "nor, though often allowed" if rule.status == "sensitive" else "may show"
    yield from (f"    {often}: {one_line(item)}" for item in rule.safe)
