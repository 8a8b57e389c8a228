"""The report as one HTML page that opens anywhere and fetches nothing.

Rows are JSON in the page, and a script shows a hundred of them at a time, so 100,000 stay usable. A histogram
per rule (SVG) shows how the scores lie around its threshold.

Covered: every text is escaped; the data stands in JSON blocks in which ``<`` is an escape; the page's content
policy lets one script and one style sheet run, by their hashes, forbids requests, and forbids scripts to turn
text into markup (Trusted Types). So a file name, a model's answer or a policy cannot add to the page. Images
are in it only if ``thumbnails`` is set: see ``policyguard.images.thumbnail``.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
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
from policyguard.runs.run import CheckedImage, ImageStatus, PolicyInfo, RunInfo, RunSummary
from policyguard.strict.files import Spool, write_report
from policyguard.verdict import Finding

__all__ = ["HtmlReport", "ScorePlot", "embedded_json"]

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_ORDER = (
    ImageStatus.FAILED,
    ImageStatus.UNJUDGED,
    ImageStatus.FLAGGED,
    ImageStatus.ACCEPTED,
    ImageStatus.PASSED,
)
_BINS = 50
_STEP, _HEIGHT = 6, 36
_WIDTH = _BINS * _STEP


class HtmlReport:
    """See the module's description."""

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
            from policyguard.images.thumbnail import thumbnail

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
        yield from _head(self._run, summary)
        yield from self._plot.table()
        yield from _image_table(counts, len(summary.unchecked), self._policies, self._rules)
        yield from _policy_texts(self._run.policies)
        yield '<script type="application/json" id="rules">'
        yield embedded_json(
            [
                {
                    "id": rule.rule.id,
                    "title": visible_line(rule.rule.title),
                    "policy": self._policies.index(rule.policy.id),
                    "threshold": rule.threshold,
                    "text": [visible_line(line) for line in rule.text.splitlines()],
                }
                for rule in self._rules
            ]
        )
        yield '</script>\n<script type="application/json" id="policies">'
        yield embedded_json(self._policies)
        yield '</script>\n<script type="application/json" id="rows">[\n'
        yield from self._rows.joined(",\n")
        lead = ",\n" if self._rows.count else ""
        for item in summary.unchecked:
            row = {"path": visible_line(item.path), "status": "unchecked", "reason": visible_line(item.reason)}
            yield f"{lead}{embedded_json(row)}"
            lead = ",\n"
        yield "]</script>\n"
        yield f"<script>{_asset('report.js')}</script>\n</body></html>\n"


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

    def table(self) -> Iterator[str]:
        """A row per rule: its title, its histogram, how many images break it, the highest score."""
        yield '<section aria-labelledby="scores"><h2 id="scores">Scores per rule</h2>\n'
        yield (
            '<p class="small">For each image, the rules that it breaks, or else the one that it comes '
            'closest to breaking. <span class="key over"></span> breaks it <span class="key under"></span> does not '
            '<span class="key mark"></span> threshold. Heights are logarithmic.</p>\n'
        )
        yield '<div class="wide"><table class="scores"><thead><tr><th scope="col">rule</th>'
        yield '<th scope="col">scores from 0 to 1</th>'
        yield '<th scope="col" class="number">images that break it</th>'
        yield '<th scope="col" class="number">highest score</th></tr></thead><tbody>\n'
        for number, rule in enumerate(self._rules):
            highest = self._highest[number]
            yield f'<tr><th scope="row">{_text(rule.rule.title)}'
            yield f'<div class="small">{html.escape(rule.name)}</div></th><td>{self._histogram(number)}</td>'
            yield f'<td class="number">{self._broken[number]:,}</td>'
            yield f'<td class="number">{"–" if highest < 0 else f"{highest:.3f}"}</td></tr>\n'
        yield "</tbody></table></div></section>\n"

    def _histogram(self, number: int) -> str:
        under, over = self._bins[number]
        most = max(map(sum, zip(under, over, strict=True)), default=0)
        threshold = self._rules[number].threshold
        label = f"{sum(under) + sum(over):,} scores, {sum(over):,} of them break it, threshold {threshold:g}"
        parts = [
            f'<svg class="plot" viewBox="-4 0 {_WIDTH + 8} {_HEIGHT + 12}" role="img" aria-label="{label}">',
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


def embedded_json(value: Any) -> str:
    """JSON that can stand in a script element."""
    line = json_line(value)
    for char, escape in _ESCAPES.items():
        line = line.replace(char, escape)
    return line


def _head(run: RunInfo, summary: RunSummary) -> Iterator[str]:
    """Everything up to the summary."""
    result = _text(ending(summary))
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
    yield '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>PolicyGuard: {result}</title>\n<style>{style}</style></head><body>\n"
    yield f'<header><h1>Image check: <span class="ending code{int(summary.exit_code)}">{result}</span>'
    yield f"</h1>\n<p>{_text(count_words(summary))}.</p>\n"
    model = summary.model
    revision = f" ({model.revision[:19]})" if model.revision else ""
    yield f'<p class="small">{run.started:%Y-%m-%d %H:%M} UTC, {summary.seconds:.1f} s, model '
    yield f"{_text(model.id + revision)}, PolicyGuard {_text(run.version)}<br>"
    yield f"<code>{_text(' '.join(run.command))}</code></p></header>\n"
    if summary.problems:
        yield '<section class="problems" aria-label="Problems with the set-up"><ul>'
        yield from (f"<li>{_text(problem)}</li>" for problem in summary.problems)
        yield "</ul></section>\n"
    if summary.stale:
        yield f"<details><summary>{len(summary.stale):,} baseline entries accept nothing any more"
        yield "</summary><ul>"
        yield from (f"<li>{_text(f'{entry.path}, {entry.policy}')}</li>" for entry in summary.stale)
        yield "</ul></details>\n"


def _image_table(
    counts: Mapping[ImageStatus, int], unchecked: int, policies: Sequence[str], rules: Sequence[RunRule]
) -> Iterator[str]:
    """The controls and the empty table that the script fills."""
    yield '<section aria-labelledby="images"><h2 id="images">Images</h2>\n'
    yield "<noscript><p>The list of images needs JavaScript, which this page carries.</p></noscript>\n"
    yield '<form id="filters" class="filters" role="search"><fieldset><legend>Status</legend>'
    numbers = {str(status): counts.get(status, 0) for status in _ORDER} | {"unchecked": unchecked}
    for status, number in numbers.items():
        off = "" if number else " disabled"
        yield f'<label class="chip {status}"><input type="checkbox" name="status" value="{status}"{off}>'
        yield f"<span>{status} <b>{number:,}</b></span></label>"
    yield "</fieldset>\n"
    yield '<label>Search<input type="search" id="search" placeholder="name, reason" autocomplete="off">'
    yield "</label>\n"
    yield _select("policy", "Policy", list(enumerate(policies)))
    titles = [(number, f"{rule.rule.title} · {rule.name}") for number, rule in enumerate(rules)]
    yield _select("rule", "Rule", titles)
    order = [("order", "as checked"), ("status", "worst first"), ("score", "highest score"), ("path", "name")]
    yield _select("sort", "Order", order, every=None)
    yield "</form>\n"
    yield '<p id="count" class="small" role="status" aria-live="polite"></p>\n'
    yield '<div class="wide"><table id="table"><thead><tr>'
    for key, name in (("path", "image"), ("status", "status"), ("score", "score"), ("", "why")):
        inner = f'<button type="button" data-sort="{key}">{name}</button>' if key else name
        yield f'<th scope="col" class="{key or "why"}">{inner}</th>'
    yield '</tr></thead><tbody id="body"></tbody></table></div>\n'
    yield '<nav class="pages" aria-label="Pages"><button type="button" id="previous">Previous</button>'
    yield '<span id="page"></span><button type="button" id="next">Next</button></nav></section>\n'


def _policy_texts(policies: Iterable[PolicyInfo]) -> Iterator[str]:
    """The policies' texts, as the model reads them."""
    yield '<section aria-labelledby="texts"><h2 id="texts">Policies</h2>\n'
    for info in policies:
        policy = info.policy
        where = f", {info.file}" if info.file else ""
        yield f"<details><summary>{_text(policy.title)} <span class='small'>"
        yield f"{_text(f'{policy.id} {policy.version}{where}')}</span></summary>\n"
        lines = "\n".join(_text(line) for line in policy.text.splitlines())
        yield f"<pre>{lines}</pre>\n"
        yield f'<p class="small">threshold {policy.threshold:g}, action {policy.action}; fingerprint '
        yield f"<code>{policy.fingerprint}</code></p></details>\n"
    yield "</section>\n"


def _select(
    name: str, label: str, options: Sequence[tuple[object, str]], *, every: str | None = "all"
) -> str:
    items = [("", every)] if every is not None else []
    choices = "".join(
        f'<option value="{html.escape(str(value))}">{_text(text)}</option>'
        for value, text in [*items, *options]
    )
    return f'<label>{label}<select id="{name}">{choices}</select></label>\n'


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _text(text: str) -> str:
    return html.escape(visible_line(text), quote=True)
