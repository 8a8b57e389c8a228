"""Puts the patches of an animation together into the pictures that a viewer shows.

Pillow does this too, but not as browsers do: it keeps a GIF's disposal method from one frame to the next and
paints the uncovered canvas in a palette colour, so that it can be made to show other things than people see.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL.Image import Image as PILImage

__all__ = ["Disposal", "Patch", "compose"]


class Disposal(IntEnum):
    """What happens to a patch before the next one is drawn (numbers as in APNG)."""

    KEEP = 0
    CLEAR = 1
    RESTORE = 2


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of a frame at ``position`` (left, top), blended ``over`` what lies below or replacing it."""

    picture: PILImage
    position: tuple[int, int]
    disposal: Disposal
    over: bool


def compose(size: tuple[int, int], patches: Iterable[Patch]) -> Iterator[PILImage]:
    """Yield one RGBA picture of the whole canvas per patch, drawn over when the next one is asked for.

    The canvas starts out transparent.
    """
    canvas = pil.new("RGBA", size)
    for patch in patches:
        before = canvas.copy() if patch.disposal is Disposal.RESTORE else None
        piece = patch.picture.convert("RGBA")
        if patch.over:
            canvas.alpha_composite(piece, patch.position)
        else:
            canvas.paste(piece, patch.position)
        yield canvas
        if before is not None:
            canvas = before
        elif patch.disposal is Disposal.CLEAR:
            left, top = patch.position
            canvas.paste((0, 0, 0, 0), (left, top, left + piece.width, top + piece.height))
