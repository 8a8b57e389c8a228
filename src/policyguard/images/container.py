"""What the four file formats have in common, what a decoded image is, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import PIL
from PIL.Image import Image as PILImage

from policyguard.images.colour import Colours
from policyguard.images.refusal import Refusal

__all__ = [
    "DECODE_VERSION",
    "MAX_FRAMES",
    "Container",
    "Image",
    "Limits",
    "check_size",
    "end_notes",
]


#: How many distinct frames of an animation are judged.
MAX_FRAMES = 32

#: Changes whenever the same bytes may decode to other pixels; part of every cache key.
DECODE_VERSION = f"3/pillow-{PIL.__version__}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused as too large. All counts are inclusive; pixels are width x height.

    ``max_bytes``: encoded size. ``max_pixels`` and ``max_side``: a still image. ``max_frame_pixels``: one
    frame of an animation. ``max_total_pixels``: all frames that come out of one image (both backgrounds of
    transparent ones).
    ``max_work_pixels``: frames in the file x pixels of each, distinct or not. ``max_file_frames``: frames in
    the file.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_frame_pixels: int = 9_000_000
    max_total_pixels: int = 130_000_000
    max_work_pixels: int = 64_000_000
    max_file_frames: int = 4096


@dataclass(frozen=True, slots=True)
class Image:
    """One image, ready to be judged: every one of ``frames`` must comply for the image to comply.

    ``frames`` are RGB, turned upright, in sRGB. Usually there is one per distinct frame of the file. A frame
    with real transparency gives two (on white, then on black), and so does one whose colour profile makes
    viewers disagree about it (as the profile says, then without it). ``frame_count`` counts the distinct
    frames of the file; ``partial`` says that only some of them are here. ``sha256`` is of the original bytes,
    or, for pixels that came without bytes, of the frames themselves. ``size`` is (width, height) as
    displayed. ``format`` is PNG, JPEG, WEBP, GIF or ``None``. ``notes`` are remarks for the evidence.
    ``plain`` is a JPEG or PNG file that decodes to the only frame, in other decoders too, without metadata,
    for sending on; ``file`` is the file as it was. ``alpha`` (mode L) is the transparency of a still image,
    whose first frame shows it on white. ``is_plain``: it is a file that leaves readers nothing to differ
    about; others may be shown in several ways, each of which was judged.
    """

    frames: tuple[PILImage, ...]
    sha256: str
    source: str
    size: tuple[int, int]
    format: str | None = None
    partial: bool = False
    frame_count: int = 1
    notes: tuple[str, ...] = ()
    plain: bytes | None = field(default=None, repr=False)
    file: bytes | None = field(default=None, repr=False)
    alpha: PILImage | None = field(default=None, repr=False)
    is_plain: bool = False


@dataclass(frozen=True, slots=True)
class Container:
    """A parsed file of which no pixel has been decoded yet.

    ``size`` is (width, height) in pixels as stored. Each call of ``frames`` decodes them anew, in order,
    composited as a viewer shows them, in any mode of Pillow; several frames are RGBA, and each of them is
    drawn over when the next one is asked for.
    ``turns`` are the orientations that viewers may give it, ``colours`` is what the file says of its colours.
    ``delays`` has the ms that each frame is shown. ``plain`` is the file with nothing in it but what its only
    frame's pixels need, where that is worth sending on. ``most_pixels`` is set for kinds of files that take
    more memory or time than others of their size. ``unusual``: readers other than browsers, Pillow among
    them, put its frames together in another way.
    """

    format: str | None
    size: tuple[int, int]
    frames: Callable[[], Iterator[PILImage]]
    delays: tuple[int, ...] = (0,)
    turns: tuple[int, ...] = (1,)
    colours: Colours = field(default_factory=Colours)
    notes: tuple[str, ...] = ()
    plain: bytes | None = None
    most_pixels: int | None = None
    unusual: bool = False

    @property
    def frame_count(self) -> int:
        """How many frames there will be."""
        return len(self.delays)


def check_size(
    size: tuple[int, int], frame_count: int, limits: Limits, most_pixels: int | None = None
) -> None:
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
    if frame_count > 1 and pixels > limits.max_frame_pixels:
        raise Refusal(
            f"is an animation of {width} x {height}; a frame may have {limits.max_frame_pixels:,} pixels",
            hint=hint,
        )
    if most_pixels is not None and pixels > most_pixels:
        raise Refusal(
            f"has {pixels:,} pixels ({width} x {height}); in this form the limit is {most_pixels:,}",
            hint=hint,
        )
    if frame_count > 1 and pixels * frame_count > limits.max_work_pixels:
        raise Refusal(
            f"holds {frame_count} frames of {width} x {height}, {pixels * frame_count:,} pixels together; "
            f"the limit is {limits.max_work_pixels:,}",
            hint="make the animation smaller or shorter",
        )


def end_notes(data: bytes, end: int, *, marked: bool) -> tuple[str, ...]:
    """Remarks on how the file ends: whether the image's end is ``marked``, and what follows it.

    Padding with zeros is not worth a remark.
    """
    if not marked:
        return ("the file has no end marker; it may be cut short",)
    rest = len(data[end:].rstrip(b"\0"))
    return (f"{rest} bytes after the end of the image were not looked at",) if rest else ()
