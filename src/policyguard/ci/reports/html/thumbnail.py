"""Small pictures for a report, where they were asked for.

Covered: at most 96 pixels a side, made anew from the pixels, so that no metadata comes along; only of an
image whose bytes are the ones that were judged. Not covered: the page blurs them until they are clicked, but
they are in the file, so a report with pictures is as sensitive as what it shows.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from policyguard.errors import ImageError

__all__ = ["THUMBNAIL", "thumbnail"]

THUMBNAIL = 96
"""Pixels a side."""


def thumbnail(path: Path, sha256: str | None) -> str:
    """A JPEG as a data URI; empty if the image cannot be shown or is not the one of this hash any more."""
    from policyguard.images import decode

    try:
        image = decode(path, frames="sample")
    except (ImageError, OSError, ValueError):
        return ""
    if sha256 is None or image.sha256 != sha256:
        return ""
    frame = image.frames[0].copy()
    frame.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=60)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
