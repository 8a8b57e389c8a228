"""A sample of recaptions side by side: the base caption and the edited one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

from policyguard.images.thumbnail import blurred_thumbnail_html
from policyguard.strict.page import document, text
from policyguard.train.data import CaptionRow

__all__ = ["sample_page"]

_SIDE = 160
_STYLE = """
ins { background: #dcfce7; text-decoration: none } del { background: #fee2e2 }
td.caption { width: 38% ; white-space: pre-wrap; overflow-wrap: anywhere }
.kept td { color: #5b6470 }
"""


def sample_page(
    rows: Sequence[CaptionRow], folder: Path, *, count: int = 50, seed: int = 0, images: bool = False
) -> str:
    """HTML of ``count`` random rows. ``folder``: what image paths are relative to."""
    chosen = random.Random(seed).sample(list(rows), min(count, len(rows)))
    edited = sum(row.status == "edited" for row in rows)
    about = (
        f"{len(chosen):,} of {len(rows):,} rows, of which {edited:,} are edited and the others kept their "
        "base caption. Red is left out of the base caption, green is new."
    )
    body = [
        f"<h1>Recaptions</h1><p>{about}</p>",
        "<table><thead><tr><th>image</th><th>base caption</th><th>caption</th></tr></thead><tbody>",
        *(_row(row, folder, images) for row in chosen),
        "</tbody></table>",
    ]
    return document("Recaptions", body, style=_STYLE)


def _row(row: CaptionRow, folder: Path, images: bool) -> str:
    before, after = _marked(row.base_caption or "", row.caption)
    image = blurred_thumbnail_html(folder / row.image, side=_SIDE) if images else ""
    kept = "" if row.kept_share is None else f", {row.kept_share:.0%} of the words kept"
    about = f'<div class="small">{text(row.image)}<br>{text(row.status)}{kept}</div>'
    return (
        f'<tr class="{row.status}"><td>{image}{about}</td><td class="caption">{before}</td>'
        f'<td class="caption">{after}</td></tr>'
    )


def _marked(base: str, caption: str) -> tuple[str, str]:
    """Both texts, with what only one of them says marked."""
    old, new = base.split(" "), caption.split(" ")
    left, right = [], []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        gone, come = text(" ".join(old[a:b])), text(" ".join(new[c:d]))
        if kind == "equal":
            left.append(gone)
            right.append(come)
            continue
        if gone:
            left.append(f"<del>{gone}</del>")
        if come:
            right.append(f"<ins>{come}</ins>")
    return " ".join(left), " ".join(right)
