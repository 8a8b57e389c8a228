"""The report as one HTML page that opens anywhere and fetches nothing.

Rows are JSON in the page, and a script shows a hundred of them at a time, so 100,000 stay usable. A histogram
per rule (SVG) shows how the scores lie around its threshold.

Covered: every text is escaped; the data stands in JSON blocks in which ``<`` is an escape; the page's content
policy lets one script and one style sheet run, by their hashes, forbids requests, and forbids scripts to turn
text into markup (Trusted Types). So a file name, a model's answer or a policy cannot add to the page. Images
are in it only if ``thumbnails`` is set: see ``policyguard.images.written``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from policyguard.runs.reports.text import (
    RunRule,
    accepted_by,
    caveats,
    count_words,
    ending,
    json_line,
    number_rules,
    reasons,
    run_rules,
    visible_line,
)
from policyguard.runs.run import CheckedImage, ImageStatus, RunInfo, RunSummary
from policyguard.strict.files import Spool, write_report
from policyguard.strict.page import asset, stream
from policyguard.verdict import Finding

__all__ = ["HtmlReport", "ScorePlot", "embedded_json", "histogram"]

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ORDER = (
    ImageStatus.FAILED,
    ImageStatus.UNJUDGED,
    ImageStatus.FLAGGED,
    ImageStatus.ACCEPTED,
    ImageStatus.PASSED,
)
_BINS = 50
_WIDTH, _HEIGHT = 300, 36


class HtmlReport:
    """See the module's description."""

    def __init__(self, path: Path, *, thumbnails: bool = False) -> None:
        self._path = path
        self._thumbnails = thumbnails
        self._rows = Spool()
        self._plot = ScorePlot(())
        self._scored = self._rated = False
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
        scores = [verdict.score, *(finding.score for finding in verdict.findings)]
        if any(score is not None for score in scores):
            self._scored = True
        elif verdict.outcome.judged and not verdict.evidence.known:  # by a model, not by a list of images
            self._rated = True
        for finding in verdict.findings:
            self._plot.add(self._numbers[finding.policy, finding.rule], finding)
        row: dict[str, Any] = {
            "path": visible_line(image.path),
            "status": image.status,
            "action": verdict.action,
            "outcome": verdict.outcome,
            "score": None if verdict.score is None else round(verdict.score, 4),
            "policies": [self._policies.index(policy) for policy in image.policies],
            "findings": [self._finding(finding) for finding in verdict.findings],
            "reason": visible_line("; ".join(reasons(image))),
            "rationale": visible_line(verdict.rationale or ""),
            "accepted": accepted_by(image.baseline),
            "caveats": caveats(image),
            "notes": [visible_line(note) for note in verdict.evidence.notes],
            "sha256": verdict.evidence.image_sha256 or "",
        }
        if self._thumbnails and image.status is not ImageStatus.PASSED:
            from policyguard.images.written import thumbnail

            row["thumbnail"] = thumbnail(self._run.root / image.path, verdict.evidence.image_sha256)
        self._rows.append(embedded_json({key: value for key, value in row.items() if value or value == 0}))

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
        model = summary.model
        rules = [
            {
                "id": rule.rule.id,
                "title": visible_line(rule.rule.title),
                "policy": self._policies.index(rule.policy.id),
                "threshold": rule.threshold,
                "text": [visible_line(line) for line in rule.text.splitlines()],
            }
            for rule in self._rules
        ]
        titles = enumerate(f"{rule.rule.title} · {rule.name}" for rule in self._rules)
        return stream(
            "runs/reports/report.html",
            style=asset("runs/reports/report.css"),
            script=asset("runs/reports/report.js"),
            line=visible_line,
            ending=ending(summary),
            words=count_words(summary),
            model=model.id + (f" ({model.revision[:19]})" if model.revision else ""),
            run=self._run,
            summary=summary,
            plots=self._plot.rows(),
            scored=self._scored,
            rated=self._rated,
            counts={str(status): counts.get(status, 0) for status in _ORDER}
            | {"unchecked": len(summary.unchecked)},
            policy_options=[("", "all"), *enumerate(self._policies)],
            rule_options=[("", "all"), *titles],
            data=[
                ("rules", [embedded_json(rules)]),
                ("policies", [embedded_json(self._policies)]),
                ("rows", self._all_rows(summary)),
            ],
        )

    def _all_rows(self, summary: RunSummary) -> Iterator[str]:
        yield "[\n"
        yield from self._rows.joined(",\n")
        lead = ",\n" if self._rows.count else ""
        for item in summary.unchecked:
            row = {
                "path": visible_line(item.path),
                "status": "unchecked",
                "reason": visible_line(item.reason),
            }
            yield f"{lead}{embedded_json(row)}"
            lead = ",\n"
        yield "]"


class ScorePlot:
    """Counts scores as they come; its memory depends on the number of rules alone."""

    def __init__(self, rules: Sequence[RunRule]) -> None:
        self._rules = rules
        self._bins = [[[0] * _BINS, [0] * _BINS] for _ in rules]
        self._highest = [-1.0 for _ in rules]
        self._broken = [0 for _ in rules]

    def add(self, number: int, finding: Finding) -> None:
        """A finding of rule ``number``."""
        self._broken[number] += finding.violates
        if finding.score is not None:
            place = min(_BINS - 1, int(finding.score * _BINS))
            self._bins[number][int(finding.violates)][place] += 1
            self._highest[number] = max(self._highest[number], finding.score)

    def rows(self) -> Iterator[tuple[RunRule, dict[str, Any], int, float]]:
        """For each rule: its histogram, how many images break it, and the highest score (-1: none)."""
        for number, rule in enumerate(self._rules):
            yield rule, self._histogram(number), self._broken[number], self._highest[number]

    def _histogram(self, number: int) -> dict[str, Any]:
        return histogram(self._bins[number][0], self._bins[number][1], self._rules[number].threshold)


def histogram(under: Sequence[int], over: Sequence[int], threshold: float | None) -> dict[str, Any]:
    """What ``plot.html`` draws: bars of (class, x, y, height) for scores that break nothing and those that
    do, counted in equal bins from 0 to 1, and the mark of the threshold. Heights are logarithmic.
    """
    step = _WIDTH / len(under)
    most = max(map(sum, zip(under, over, strict=True)), default=0)
    bars = []
    for place in range(len(under)):
        total = under[place] + over[place]
        if not total:
            continue
        height = max(3.0, (_HEIGHT - 4) * math.log1p(total) / math.log1p(most))
        upper = height * over[place] / total
        base = float(_HEIGHT)
        for kind, part in (("under", height - upper), ("over", upper)):
            if part:
                x, y = place * step + 0.5, base - part
                bars.append((kind, f"{x:g}", f"{y:.1f}", f"{part:.1f}"))
                base -= part
    mark = "" if threshold is None else f", threshold {threshold:g}"
    side = 0 if threshold is None else (threshold > 0.9) - (threshold < 0.1)
    return {
        "label": f"{sum(under) + sum(over):,} scores, {sum(over):,} break it{mark}",
        "width": _WIDTH,
        "height": _HEIGHT,
        "bar": f"{step - 1:g}",
        "bars": bars,
        "mark": None if threshold is None else f"{threshold * _WIDTH:.1f}",
        "anchor": ("middle", "end", "start")[side],
        "threshold": "" if threshold is None else f"{threshold:g}",
    }


def embedded_json(value: Any) -> str:
    """JSON that can stand in a script element."""
    line = json_line(value)
    for char, escape in _ESCAPES.items():
        line = line.replace(char, escape)
    return line
