"""The page around the rows: what is in it besides the data, all of it static.

Covered: every text is escaped; the data stands in JSON blocks in which ``<`` is an escape; the page's content
policy lets one script and one style sheet run, by their hashes, forbids requests, and forbids scripts to turn
text into markup (Trusted Types). So a file name, a model's answer or a policy cannot add to the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.ci.reports.rules import RunRule
from policyguard.ci.reports.text import count_words, json_line, shown
from policyguard.ci.run import ImageStatus, PolicyInfo, RunInfo, RunSummary

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["embedded", "foot", "head", "images", "policies"]

_ENDINGS = {0: "passed", 1: "failed", 2: "the set-up is wrong", 3: "not all could be judged"}
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def embedded(value: Any) -> str:
    """JSON that can stand in a script element."""
    line = json_line(value)
    for char, escape in _ESCAPES.items():
        line = line.replace(char, escape)
    return line


def head(run: RunInfo, summary: RunSummary) -> Iterator[str]:
    """Everything up to the summary."""
    ending = (
        f"stopped ({summary.stopped})" if summary.stopped else _ENDINGS.get(int(summary.exit_code), "ended")
    )
    style, script = _asset("report.css"), _asset("report.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
    yield f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
    yield '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>PolicyGuard: {_text(ending)}</title>\n<style>{style}</style></head><body>\n"
    yield f'<header><h1>Image check: <span class="ending code{int(summary.exit_code)}">{_text(ending)}</span>'
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


def images(
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


def policies(policies: Iterable[PolicyInfo]) -> Iterator[str]:
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


def foot() -> str:
    return f"<script>{_asset('report.js')}</script>\n</body></html>\n"


_ORDER = (
    ImageStatus.FAILED,
    ImageStatus.UNJUDGED,
    ImageStatus.FLAGGED,
    ImageStatus.ACCEPTED,
    ImageStatus.PASSED,
)


def _select(
    name: str, label: str, options: Sequence[tuple[object, str]], *, every: str | None = "all"
) -> str:
    items = [("", every)] if every is not None else []
    shown_items = "".join(
        f'<option value="{html.escape(str(value))}">{_text(text)}</option>'
        for value, text in [*items, *options]
    )
    return f'<label>{label}<select id="{name}">{shown_items}</select></label>\n'


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _text(text: str) -> str:
    return html.escape(shown(text), quote=True)
