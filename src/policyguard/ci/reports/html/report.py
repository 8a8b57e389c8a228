"""The HTML report: what goes into the page, as it comes in. ``page`` is what is around it.

Rows are JSON in the page, and a script shows a hundred of them at a time, so 100,000 stay usable. Pictures
are in it only if ``thumbnails`` is set: see ``policyguard.images.thumbnail``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policyguard.ci.reports.files import Spool, write_report
from policyguard.ci.reports.html import page
from policyguard.ci.reports.html.plot import ScorePlot
from policyguard.ci.reports.rules import RunRule, number_rules, run_rules
from policyguard.ci.reports.text import accepted_by, reasons, shown
from policyguard.ci.run import CheckedImage, ImageStatus, RunInfo, RunSummary
from policyguard.verdict import Finding

__all__ = ["HtmlReport"]


class HtmlReport:
    """See the module."""

    def __init__(self, path: Path, *, thumbnails: bool = False) -> None:
        self._path = path
        self._thumbnails = thumbnails
        self._rows = Spool()
        self._plot = ScorePlot(())
        self._rules: tuple[RunRule, ...] = ()
        self._numbers: Mapping[tuple[str, str], int] = {}
        self._policies: list[str] = []
        self._run: RunInfo

    def begin(self, run: RunInfo) -> None:
        self._run = run
        self._rules = run_rules(run.policies)
        self._numbers = number_rules(self._rules)
        self._policies = list(dict.fromkeys(info.policy.id for info in run.policies))
        self._plot = ScorePlot(self._rules)

    def add(self, image: CheckedImage) -> None:
        verdict = image.verdict
        for finding in verdict.findings:
            self._plot.add(self._numbers[finding.policy, finding.rule], finding)
        row: dict[str, Any] = {
            "path": shown(image.path),
            "status": image.status,
            "action": verdict.action,
            "outcome": verdict.outcome,
            "score": None if verdict.score is None else round(verdict.score, 4),
            "policies": [self._policies.index(policy) for policy in image.policies],
            "findings": [self._finding(finding) for finding in verdict.findings],
            "reason": shown("; ".join(reasons(image))),
            "rationale": shown(verdict.rationale or ""),
            "accepted": accepted_by(image.baseline),
            "marks": list(_marks(image)),
            "notes": [shown(note) for note in verdict.evidence.notes],
            "sha256": verdict.evidence.image_sha256 or "",
        }
        if self._thumbnails and image.status is not ImageStatus.PASSED:
            from policyguard.images.thumbnail import thumbnail

            row["picture"] = thumbnail(self._run.root / image.path, verdict.evidence.image_sha256)
        self._rows.append(page.embedded({key: value for key, value in row.items() if value or value == 0}))

    def finish(self, summary: RunSummary) -> None:
        try:
            write_report(self._path, self._document(summary))
        finally:
            self._rows.close()

    def _finding(self, finding: Finding) -> list[Any]:
        """[rule, score, whether it violates, whether it is over its threshold, action]."""
        score = None if finding.score is None else round(finding.score, 4)
        number = self._numbers[finding.policy, finding.rule]
        return [number, score, int(finding.violates), int(finding.attributed), finding.action]

    def _document(self, summary: RunSummary) -> Iterator[str]:
        counts = Counter(summary.counts)
        yield from page.head(self._run, summary)
        yield from self._plot.table()
        yield from page.images(counts, len(summary.unchecked), self._policies, self._rules)
        yield from page.policies(self._run.policies)
        yield '<script type="application/json" id="rules">'
        yield page.embedded(
            [
                {
                    "id": rule.rule.id,
                    "title": shown(rule.rule.title),
                    "policy": self._policies.index(rule.policy.id),
                    "threshold": rule.threshold,
                    "text": [shown(line) for line in rule.text.splitlines()],
                }
                for rule in self._rules
            ]
        )
        yield '</script>\n<script type="application/json" id="policies">'
        yield page.embedded(self._policies)
        yield '</script>\n<script type="application/json" id="rows">[\n'
        yield from self._rows.joined(",\n")
        lead = ",\n" if self._rows.count else ""
        for item in summary.unchecked:
            row = {"path": shown(item.path), "status": "unchecked", "reason": shown(item.reason)}
            yield f"{lead}{page.embedded(row)}"
            lead = ",\n"
        yield "]</script>\n"
        yield page.foot()


def _marks(image: CheckedImage) -> Iterator[str]:
    """What makes a verdict less than it looks."""
    if image.verdict.degraded:
        yield "could not be judged, and its policy does not block it"
    if image.verdict.partial:
        yield "only some of its frames were looked at"
