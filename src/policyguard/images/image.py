"""What a decoded image is, and how large it may be."""

from __future__ import annotations

from dataclasses import dataclass, field

import PIL
from PIL.Image import Image as PILImage

__all__ = ["DECODE_VERSION", "MAX_FRAMES", "Image", "Limits"]

#: How many distinct frames of an animation are judged.
MAX_FRAMES = 32

#: Changes whenever the same bytes may decode to other pixels; part of every cache key.
DECODE_VERSION = f"1/pillow-{PIL.__version__}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused as too large. All counts are inclusive; pixels are width x height.

    ``max_bytes``: encoded size. ``max_pixels`` and ``max_side``: one frame. ``max_total_pixels``: all
    pictures that come out of one image (frames, and both backgrounds of transparent ones).
    ``max_work_pixels``: frames in the file x pixels of each, distinct or not. ``max_file_frames``: frames in
    the file.
    """

    max_bytes: int = 20 * 1024 * 1024
    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_total_pixels: int = 100_000_000
    max_work_pixels: int = 500_000_000
    max_file_frames: int = 4096


@dataclass(frozen=True, slots=True)
class Image:
    """One image, ready to be judged: every picture in ``frames`` must comply for the image to comply.

    ``frames`` are RGB, turned upright, in sRGB. Usually there is one per distinct frame of the file. A frame
    with real transparency gives two (on white, then on black), and so does one whose colour profile makes
    viewers disagree about it (as the profile says, then without it). ``frame_count`` counts the distinct
    frames of the file; ``partial`` says that only some of them are here. ``sha256`` is of the original bytes,
    or, for pixels that came without bytes, of the pictures themselves. ``size`` is (width, height) as
    displayed. ``format`` is PNG, JPEG, WEBP, GIF or ``None``. ``notes`` are remarks for the evidence.
    ``plain`` is a JPEG or PNG file that decodes to the only picture, without metadata, for sending on.
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
