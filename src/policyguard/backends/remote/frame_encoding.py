"""A frame as it is sent: scaled down to what the model looks at, and as small a file as is exact.

Covered: an image file that was decoded as it stands (one frame, upright, RGB, no colour profile, no
transparency) and that all decoders read alike (a baseline JPEG of one scan, a PNG that is not interlaced) is
sent with its own compressed data, without metadata; anything else as a PNG of the frame's pixels.
Not covered: a server with another decoder than ours rounds a JPEG's pixels its own way, smooths colours
between pixels its own way, and may make something else of damaged compressed data.
"""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.backends.base import AssessmentRequest

__all__ = ["Grid", "data_uri", "grid_for", "is_light", "png_of"]

_LIGHT = 1 << 18
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes that a model's processor scales to: sides that are multiples of ``factor``, and an area of
    ``min_pixels`` to ``max_pixels``.

    ``always``: every frame is scaled here, because the server would do exactly the same. Otherwise only
    frames above ``max_pixels`` are.
    """

    factor: int
    max_pixels: int
    min_pixels: int = 0
    always: bool = False

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) to scale a frame of ``size`` to, as the Qwen-VL processors choose it."""
        width, height = size
        if not self.always and width * height <= self.max_pixels:
            return size
        across, down = (max(self.factor, round(side / self.factor) * self.factor) for side in size)
        if across * down > self.max_pixels:
            shrink = math.sqrt(width * height / self.max_pixels)
            across, down = (
                max(self.factor, math.floor(side / shrink / self.factor) * self.factor) for side in size
            )
        elif across * down < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            across, down = (math.ceil(side * grow / self.factor) * self.factor for side in size)
        return across, down


_PICO = Grid(16, max_pixels=9500, min_pixels=9000, always=True)
# Factor and largest area of the families' processors as published.
_FAMILIES = (
    (re.compile(r"qwen[-_.]?3[-_.]?vl|qwen[-_.]?3\.5", re.IGNORECASE), Grid(32, 16_777_216)),
    (re.compile(r"qwen|safeguard-vl", re.IGNORECASE), Grid(28, 12_845_056)),
)
_UNKNOWN = Grid(1, 16_777_216)


def grid_for(dialect: str, model: str, max_pixels: int | None = None) -> Grid:
    """The grid for a model, by dialect and name; with ``max_pixels``, frames above it are scaled down."""
    if dialect == "pico":
        return _PICO
    family = next((grid for name, grid in _FAMILIES if name.search(model)), _UNKNOWN)
    return family if max_pixels is None else Grid(family.factor, min(max_pixels, family.max_pixels))


def is_light(request: AssessmentRequest, grid: Grid) -> bool:
    """Whether ``data_uri`` is quicker than handing it to a thread: a small file that is sent as it is."""
    encoded = request.encoded
    return (
        encoded is not None and len(encoded) <= _LIGHT and grid.fit(request.frame.size) == request.frame.size
    )


def data_uri(request: AssessmentRequest, grid: Grid) -> bytes:
    """The frame of ``request`` as a data URI. Takes milliseconds of CPU unless it ``is_light``."""
    frame, encoded = request.frame, request.encoded
    size = grid.fit(frame.size)
    if size != frame.size:
        from PIL.Image import Resampling

        frame, encoded = frame.convert("RGB").resize(size, Resampling.BICUBIC), None
    if encoded is None or len(encoded) > 3 * size[0] * size[1]:
        encoded = png_of(frame)
    kind = b"jpeg" if encoded.startswith(b"\xff\xd8") else b"png"
    return b"data:image/%s;base64,%s" % (kind, base64.b64encode(encoded))


def png_of(image: PILImage) -> bytes:
    """The pixels as an RGB PNG, exactly, and nothing else of the image."""
    clean = image.convert("RGB").copy()
    # Pillow would write what it finds here; a transparent colour among it would hide pixels from the model.
    clean.info = {}
    buffer = io.BytesIO()
    clean.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
