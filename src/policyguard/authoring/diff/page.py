"""The behavioural diff as one HTML page: self-contained, without scripts, fetching nothing.

Covered: whatever file names, policies and models say is escaped, and a content policy in the page forbids
scripts and requests. Pictures are shown only where asked for: at most 96 pixels a side, blurred until
clicked. Not covered: a blurred thumbnail is still in the file, so the page is as sensitive as its pictures.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator

from policyguard.authoring.diff.behaviour import BehaviourDiff, ImageChange
from policyguard.authoring.diff.structure import PolicyDiff
from policyguard.strict.text import collapsed as one_line
from policyguard.strict.text import find_forbidden
from policyguard.verdict import Verdict

__all__ = ["diff_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
body { color: #1d2126 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #d9dde2 }
.weaker td:first-child { border-left: 4px solid #c2410c }
.stronger td:first-child { border-left: 4px solid #15803d }
.same td { color: #6b7280 }
.action { font-weight: 600 }
.allow { color: #15803d } .flag { color: #a16207 } .block { color: #b91c1c }
.small { color: #6b7280; font-size: .85em; overflow-wrap: anywhere }
label { display: inline-block; position: relative; overflow: hidden; line-height: 0 }
label input { position: absolute; opacity: 0 }
label img { filter: blur(14px); cursor: pointer }
label input:checked + img { filter: none }
label input:focus-visible + img { outline: 2px solid #1d4ed8 }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def diff_page(
    behaviour: BehaviourDiff,
    structure: PolicyDiff,
    *,
    pictures: Callable[[int], object] | None = None,
) -> str:
    """The page. ``pictures`` gives the image of a place in ``behaviour.images``; default: no pictures."""
    title = f"{structure.before} → {structure.after}"
    changed = set(map(id, behaviour.changed))
    places = {id(image): place for place, image in enumerate(behaviour.images)}
    rows = [_row(image, places[id(image)], pictures) for image in behaviour.changed]
    rows += [_row(image, places[id(image)], None) for image in behaviour.images if id(image) not in changed]
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{len(changed):,} of {len(places):,} images change, with {_text(behaviour.model)}.</p>",
        *_changes(structure),
        "<h2>Images</h2>",
        _table(("image", "before", "after", "score"), rows),
    ]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>",
            "",
        ]
    )


def _changes(structure: PolicyDiff) -> Iterator[str]:
    yield "<h2>Policy</h2>"
    if not structure.changes:
        yield "<p>The two policies are the same.</p>"
        return
    rows = [
        f'<tr class="{change.effect}"><td>{_text(change.kind)}</td><td>{_text(change.rule or "")}</td>'
        f"<td>{_text(change.said)}</td></tr>"
        for change in structure.changes
    ]
    yield _table(("change", "rule", "what"), rows)
    for reason in structure.weakenings:
        yield f'<p class="small">Reason given: {_text(reason)}</p>'


def _row(image: ImageChange, place: int, pictures: Callable[[int], object] | None) -> str:
    severity = image.after.action.severity - image.before.action.severity
    mark = "weaker" if severity < 0 else "stronger" if severity > 0 else "other"
    mark = mark if image.changed else "same"
    picture = "" if pictures is None else _picture(pictures(place), image.after.evidence.image_sha256)
    shift = "" if image.shift is None else f"{image.shift:+.3f}"
    cells = (
        f"{picture}<div>{_text(image.source)}</div>",
        _side(image.before),
        _side(image.after),
        shift,
    )
    return f'<tr class="{mark}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _side(verdict: Verdict) -> str:
    score = "" if verdict.score is None else f" {verdict.score:.3f}"
    broken = ", ".join(finding.title for finding in verdict.findings if finding.violates)
    why = verdict.reason or broken
    return (
        f'<span class="action {verdict.action}">{verdict.action}</span> {verdict.outcome}{score}'
        f'<div class="small">{_text(why)}</div>'
    )


def _picture(source: object, sha256: str | None) -> str:
    from policyguard.images.thumbnail import thumbnail

    data = thumbnail(source, sha256)
    if not data:
        return ""
    return (
        '<label title="click to see"><input type="checkbox">'
        f'<img alt="blurred until clicked" src="{data}"></label>'
    )


def _table(heads: tuple[str, ...], rows: list[str]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _text(text: str) -> str:
    """``text`` for the page, with hidden characters shown as escapes."""
    shown = one_line(str(text))
    if find_forbidden(shown) is not None:
        shown = "".join(
            char if find_forbidden(char) is None else char.encode("unicode_escape", "surrogatepass").decode()
            for char in shown
        )
    return html.escape(shown, quote=True)
