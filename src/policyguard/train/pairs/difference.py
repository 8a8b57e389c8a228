"""How two images differ, measured in pixels: where, how much of the image, and what is left outside.

Images are compared in blocks. A block belongs to the edit if its values differ by more than a little on
average; everything else is outside, and should be as good as untouched. An editor that draws the whole
image anew shows in both numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policyguard.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["BLOCK", "Difference", "Limits", "compare", "edit_problem"]

BLOCK = 8
"""Pixels a side; larger in large images, of which the shorter side has at most 96 blocks."""
_CHANGED = 10.0
"""Mean difference of a block, in 8-bit levels, from which it belongs to the edit."""


@dataclass(frozen=True, slots=True)
class Difference:
    """``region``: share of blocks that the edit touches. ``box``: share of the smallest rectangle around
    them. ``inside``, ``outside``: mean absolute difference there, in levels of 0 to 255.
    """

    region: float
    box: float
    inside: float
    outside: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What passes for a local edit. These are this project's own choices; PictoSafe's edits are far below."""

    max_region: float = 0.35
    max_outside: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.max_region <= 1:
            raise UsageError(f"--max-region: expected a share from 0 to 1, found {self.max_region:g}")
        if not self.max_outside >= 0:
            raise UsageError(f"--max-outside: expected levels from 0 up, found {self.max_outside:g}")


def compare(before: PILImage, after: PILImage) -> Difference:
    """Raises ValueError if the sizes differ, MissingExtraError without numpy."""
    try:
        import numpy as np
    except ImportError:
        raise MissingExtraError("numpy", "train") from None
    if before.size != after.size:
        raise ValueError(f"the sizes differ: {before.size} and {after.size}")
    first, second = (np.asarray(image.convert("RGB"), np.float32) for image in (before, after))
    levels = np.abs(first - second).max(axis=2)
    height, width = levels.shape
    side = max(BLOCK, min(height, width) // 96)
    rows, columns = np.arange(0, height, side), np.arange(0, width, side)
    sums = np.add.reduceat(np.add.reduceat(levels, rows, axis=0), columns, axis=1)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    changed = sums / counts > _CHANGED
    if not changed.any():
        return Difference(0.0, 0.0, 0.0, float(levels.mean()))
    tall, wide = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    box = (tall[-1] - tall[0] + 1) * (wide[-1] - wide[0] + 1) / changed.size
    untouched = counts[~changed].sum()
    return Difference(
        region=float(counts[changed].sum() / counts.sum()),
        box=float(box),
        inside=float(sums[changed].sum() / counts[changed].sum()),
        outside=float(sums[~changed].sum() / untouched) if untouched else 0.0,
    )


def edit_problem(edit: Difference, limits: Limits) -> str | None:
    """Why this is not a local edit, or ``None``."""
    if edit.region == 0.0:
        return "nothing was changed"
    if edit.region > limits.max_region:
        return f"{edit.region:.0%} of the image was changed, and at most {limits.max_region:.0%} may be"
    if edit.outside > limits.max_outside:
        return f"pixels outside the edit differ by {edit.outside:.1f} levels, over {limits.max_outside:g}"
    return None
