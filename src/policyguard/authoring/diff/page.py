"""The behavioural diff as one HTML page: self-contained, without scripts, fetching nothing.

Covered: whatever file names, policies and models say is escaped, and a content policy in the page forbids
scripts and requests. Images are in it only where asked for: at most 96 pixels a side, blurred until
clicked. Not covered: a blurred thumbnail is still in the file, so the page is as sensitive as its images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from policyguard.authoring.diff.behaviour import BehaviourDiff, ImageChange
from policyguard.authoring.diff.structure import PolicyDiff
from policyguard.strict.page import render
from policyguard.verdict import Verdict

__all__ = ["diff_page"]

_STYLE = """
.weaker td:first-child { border-left: 4px solid var(--amber) }
.stronger td:first-child { border-left: 4px solid var(--green) }
.same td { color: var(--dim) }
"""


def diff_page(
    behaviour: BehaviourDiff,
    structure: PolicyDiff,
    *,
    thumbnails: Callable[[int], object] | None = None,
) -> str:
    """The page. ``thumbnails`` gives the image of a place in ``behaviour.images``; default: no thumbnails."""
    rows = list(_rows(behaviour, thumbnails))
    return render(
        "authoring/diff/page.html",
        style=_STYLE,
        behaviour=behaviour,
        structure=structure,
        rows=sorted(rows, key=lambda row: row[1] == "same"),
        broken=_broken,
        scored=any(image.shift is not None for image in behaviour.images),
    )


def _rows(
    behaviour: BehaviourDiff, thumbnails: Callable[[int], object] | None
) -> Iterator[tuple[ImageChange, str, str]]:
    """Each image, whether it is treated more weakly or more strongly, and its thumbnail if it changed."""
    from policyguard.images.written import thumbnail

    for place, image in enumerate(behaviour.images):
        if not image.changed:
            yield image, "same", ""
            continue
        severity = image.after.action.severity - image.before.action.severity
        mark = "weaker" if severity < 0 else "stronger" if severity > 0 else "other"
        uri = "" if thumbnails is None else thumbnail(thumbnails(place), image.after.evidence.image_sha256)
        yield image, mark, uri


def _broken(verdict: Verdict) -> str:
    return ", ".join(finding.title for finding in verdict.findings if finding.violates)
