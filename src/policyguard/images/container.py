"""What the four file formats have in common: a size, frames, and what the file says about its colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL.Image import Image as PILImage

from .image import Limits
from .refusal import Refusal

__all__ = ["Container", "check_size", "end_notes"]


@dataclass(frozen=True, slots=True)
class Container:
    """A parsed file of which no pixel has been decoded yet.

    ``size`` is (width, height) in pixels as stored. Each call of ``frames`` decodes them anew, in order,
    composited as a viewer shows them, in any mode of Pillow; several frames are RGBA, and each of them is
    drawn over when the next one is asked for. ``frame_count`` is how many there will be.
    ``exif`` and ``icc`` are raw blocks, ``gamma`` is what a PNG's gAMA chunk declares. ``plain`` is the file
    with nothing in it but what its only frame's pixels need, where that is worth sending on.
    """

    format: str | None
    size: tuple[int, int]
    frames: Callable[[], Iterator[PILImage]]
    frame_count: int = 1
    exif: bytes | None = None
    icc: bytes | None = None
    gamma: float | None = None
    notes: tuple[str, ...] = ()
    plain: bytes | None = None


def check_size(size: tuple[int, int], frame_count: int, limits: Limits) -> None:
    """Refuse what is too large, from the header alone."""
    width, height = size
    pixels = width * height
    hint = "make it smaller"
    if pixels <= 0:
        raise Refusal("has no pixels")
    if max(width, height) > limits.max_side:
        raise Refusal(f"is {width} x {height} pixels; a side may have {limits.max_side}", hint=hint)
    if pixels > limits.max_pixels:
        raise Refusal(
            f"has {pixels:,} pixels ({width} x {height}); the limit is {limits.max_pixels:,}", hint=hint
        )
    if frame_count > limits.max_file_frames:
        raise Refusal(
            f"holds {frame_count} frames; the limit is {limits.max_file_frames}",
            hint="split the animation into shorter ones",
        )
    if frame_count > 1 and pixels * frame_count > limits.max_work_pixels:
        raise Refusal(
            f"holds {frame_count} frames of {width} x {height}, {pixels * frame_count:,} pixels together; "
            f"the limit is {limits.max_work_pixels:,}",
            hint="make the animation smaller or shorter",
        )


def end_notes(data: bytes, end: int, *, marked: bool) -> tuple[str, ...]:
    """Remarks on how the file ends: whether the picture's end is ``marked``, and what follows it.

    Padding with zeros is not worth a remark.
    """
    if not marked:
        return ("the file has no end marker; it may be cut short",)
    rest = len(data[end:].rstrip(b"\0"))
    return (f"{rest} bytes after the end of the picture were not looked at",) if rest else ()
