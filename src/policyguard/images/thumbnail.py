"""Small previews for HTML pages, where they were requested.

Covered: a preview is made anew from the pixels, so that no metadata comes along. Not covered: a page blurs
previews until they are clicked, but they are in the file, so such a page is as sensitive as what it shows.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from policyguard.errors import ImageError
from policyguard.images.container import Image
from policyguard.images.decode import decode

__all__ = ["THUMBNAIL", "preview", "thumbnail"]

THUMBNAIL = 96
"""Pixels a side."""


def thumbnail(source: object, sha256: str | None) -> str:
    """A JPEG as a data URI; empty if the image cannot be decoded or its hash is another one (by now)."""
    try:
        image = decode(source, frames="sample")
    except ImageError:
        return ""
    return _jpeg(image, THUMBNAIL, quality=60) if image.sha256 == sha256 else ""


def preview(path: Path, *, side: int) -> str | None:
    """A JPEG as a data URI, at most ``side`` pixels wide and high; None if the image cannot be decoded."""
    try:
        return _jpeg(decode(path, frames="sample"), side, quality=75)
    except ImageError:
        return None


def _jpeg(image: Image, side: int, *, quality: int) -> str:
    """The first frame as a data URI."""
    frame = image.frames[0].copy()
    frame.thumbnail((side, side))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
