"""Comparisons and test results as people read them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, TextIO

from policyguard.authoring.cases.result import Status
from policyguard.cli.output import print_table
from policyguard.strict.text import one_line, printable

if TYPE_CHECKING:
    from policyguard.authoring.cases import CaseReport, CaseResult
    from policyguard.authoring.diff import BehaviourDiff, PolicyDiff
    from policyguard.verdict import Verdict

__all__ = ["behaviour_lines", "case_lines", "structure_lines"]


def structure_lines(diff: PolicyDiff) -> Iterator[str]:
    """The differences rule by rule, then what they add up to."""
    yield f"{diff.before} -> {diff.after}"
    for rule, changes in groupby(diff.changes, key=lambda change: change.rule):
        yield f"  {rule or '(the policy)'}"
        for change in changes:
            yield f"    {change.kind:<13} {one_line(change.said)}"
    for reason in diff.weakenings:
        yield f"  reason given: {one_line(reason)}"
    if not diff.changes:
        yield "  no difference"
        return
    effects = [f"{effect} {number}" for effect, number in _effects(diff)]
    yield f"{len(diff.changes)} changes: {', '.join(effects)}"
    if diff.same_prompt:
        said = "and decides the same" if diff.same_decisions else "so its scores stay, and are decided anew"
        yield f"the model reads the same, {said}"


def _effects(diff: PolicyDiff) -> Iterator[tuple[str, int]]:
    from policyguard.authoring.diff import Effect

    for effect in Effect:
        if number := sum(change.effect is effect for change in diff.changes):
            yield effect.value, number


def behaviour_lines(diff: BehaviourDiff, stream: TextIO) -> None:
    """The images that change, as a table, and how many they are."""
    changed = diff.changed
    if changed:
        rows = [
            (image.source, _side(image.before), _side(image.after), _why(image.after) or _why(image.before))
            for image in changed
        ]
        print_table(("image", "before", "after", "why"), rows, stream)
    moves = ", ".join(
        f"{number} {old} -> {new}" if old is not new else f"{number} {old} for another reason"
        for (old, new), number in sorted(diff.moves.items())
    )
    total = len(diff.images)
    said = f"{len(changed)} of {total} image{'' if total == 1 else 's'} change" + (
        f": {moves}" if moves else ""
    )
    print(
        f"{said}; {diff.asked} judgements by {printable(diff.model)}, {diff.known} known already", file=stream
    )
    shifts = [abs(image.shift) for image in diff.images if not image.changed and image.shift is not None]
    if shifts and max(shifts) >= 0.05:
        print(f"scores of images that do not change move by up to {max(shifts):.2f}", file=stream)


def _side(verdict: Verdict) -> str:
    score = "" if verdict.score is None else f" {verdict.score:.3f}"
    return f"{verdict.action} ({verdict.outcome}{score})"


def _why(verdict: Verdict) -> str:
    broken = ", ".join(finding.rule for finding in verdict.findings if finding.violates)
    return verdict.reason or broken


def case_lines(report: CaseReport, *, verbose: bool) -> Iterator[str]:
    """What is not as expected, in full; with ``verbose``, every case; then the counts."""
    for result in report.results:
        if verbose or not result.status.good:
            yield from _case(result, report.file)
    counts = report.counts
    names = {Status.XFAILED: "failing as known", Status.XPASSED: "no longer failing", Status.ERROR: "errors"}
    parts = [f"{counts[s]} {names.get(s, s.value)}" for s in Status if counts[s] or s is Status.PASSED]
    yield f"{printable(report.file)} with {printable(report.model)}: {', '.join(parts)}"


def _case(result: CaseResult, file: str) -> Iterator[str]:
    place = printable(file) if result.line is None else f"{printable(file)}:{result.line}"
    found = ", ".join(_side(verdict) for verdict in result.verdicts)
    yield f"{result.status.upper():<8} {place}: {printable(result.name)} under {result.policy}: {found}"
    if result.status is Status.XPASSED:
        yield f"         this holds now: delete `xfail:` ({one_line(result.xfail or '')})"
    elif result.status is Status.ERROR:
        yield from (f"         {one_line(v.reason)}" for v in result.verdicts if v.reason)
    else:
        yield from (f"         {one_line(failure)}" for failure in result.failures)
    if result.status is Status.XFAILED:
        yield f"         known: {one_line(result.xfail or '')}"
    elif result.note and not result.status.good:
        yield f"         note: {one_line(result.note)}"
