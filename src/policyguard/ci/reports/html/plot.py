"""How the scores of a run lie around each rule's threshold: a histogram per rule, as SVG in the page."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from policyguard.ci.reports.rules import RunRule
from policyguard.ci.reports.text import shown
from policyguard.verdict import Finding

__all__ = ["ScorePlot"]

_BINS = 50
_STEP, _HEIGHT = 6, 36
_WIDTH = _BINS * _STEP


class ScorePlot:
    """Counts scores as they come; what it holds depends on the number of rules alone."""

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

    def table(self) -> Iterator[str]:
        """A row per rule: its title, its histogram, how many images break it, the highest score."""
        yield '<section aria-labelledby="scores"><h2 id="scores">Scores per rule</h2>\n'
        yield (
            '<p class="small">Of each image, the rules that it breaks, or else the one that it comes '
            'closest to. <span class="key over"></span> breaks it <span class="key under"></span> does not '
            '<span class="key mark"></span> threshold. Heights are logarithmic.</p>\n'
        )
        yield '<div class="wide"><table class="scores"><thead><tr><th scope="col">rule</th>'
        yield '<th scope="col">scores from 0 to 1</th>'
        yield '<th scope="col" class="number">images that break it</th>'
        yield '<th scope="col" class="number">highest score</th></tr></thead><tbody>\n'
        for number, rule in enumerate(self._rules):
            highest = self._highest[number]
            yield f'<tr><th scope="row">{html.escape(shown(rule.rule.title))}'
            yield f'<div class="small">{html.escape(rule.name)}</div></th><td>{self._histogram(number)}</td>'
            yield f'<td class="number">{self._broken[number]:,}</td>'
            yield f'<td class="number">{"–" if highest < 0 else f"{highest:.3f}"}</td></tr>\n'
        yield "</tbody></table></div></section>\n"

    def _histogram(self, number: int) -> str:
        under, over = self._bins[number]
        most = max(map(sum, zip(under, over, strict=True)), default=0)
        threshold = self._rules[number].threshold
        said = f"{sum(under) + sum(over):,} scores, {sum(over):,} of them break it, threshold {threshold:g}"
        parts = [
            f'<svg class="plot" viewBox="-4 0 {_WIDTH + 8} {_HEIGHT + 12}" role="img" aria-label="{said}">',
            f'<path class="axis" d="M0 {_HEIGHT}H{_WIDTH}"/>',
        ]
        for place in range(_BINS):
            total = under[place] + over[place]
            if not total:
                continue
            height = max(3.0, (_HEIGHT - 4) * math.log1p(total) / math.log1p(most))
            upper = height * over[place] / total
            base = float(_HEIGHT)
            for kind, part in (("under", height - upper), ("over", upper)):
                if part:
                    x, y = place * _STEP + 0.5, base - part
                    size = f'width="{_STEP - 1}" height="{part:.1f}"'
                    parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:.1f}" {size}/>')
                    base -= part
        x = threshold * _WIDTH
        parts.append(f'<path class="mark" d="M{x:.1f} 0V{_HEIGHT + 4}"/>')
        anchor = "end" if threshold > 0.9 else "start" if threshold < 0.1 else "middle"
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT + 11}" text-anchor="{anchor}">{threshold:g}</text></svg>'
        )
        return "".join(parts)
