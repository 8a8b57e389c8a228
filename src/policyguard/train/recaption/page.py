"""A sample of recaptions side by side: the base caption and the edited one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

from policyguard.images.written import preview
from policyguard.strict.page import render
from policyguard.train.data import CaptionRow

__all__ = ["sample_page"]

_SIDE = 160
_STYLE = """
ins { background: var(--right); text-decoration: none } del { background: var(--wrong) }
td.caption { width: 38% ; white-space: pre-wrap; overflow-wrap: anywhere }
.kept td { color: var(--dim) }
"""


def sample_page(
    rows: Sequence[CaptionRow], folder: Path, *, count: int = 50, seed: int = 0, images: bool = False
) -> str:
    """HTML of ``count`` random rows. ``folder``: what image paths are relative to."""
    chosen = random.Random(seed).sample(list(rows), min(count, len(rows)))
    return render(
        "train/recaption/page.html",
        style=_STYLE,
        rows=[
            (row, preview(folder / row.image, side=_SIDE) if images else None, *_compared(row))
            for row in chosen
        ],
        total=len(rows),
        edited=sum(row.status == "edited" for row in rows),
        thumbnails=images,
    )


_Pieces = list[tuple[str, bool]]
"""Words, and whether both captions have them."""


def _compared(row: CaptionRow) -> tuple[_Pieces, _Pieces]:
    """The base caption and the caption, in pieces that both have or only one of them has."""
    old, new = (row.base_caption or "").split(" "), row.caption.split(" ")
    before: _Pieces = []
    after: _Pieces = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        before.append((" ".join(old[a:b]), kind == "equal"))
        after.append((" ".join(new[c:d]), kind == "equal"))
    return [piece for piece in before if piece[0]], [piece for piece in after if piece[0]]
