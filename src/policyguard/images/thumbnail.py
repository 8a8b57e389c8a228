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

__all__ = ["THUMBNAIL", "blurred_thumbnail_html", "thumbnail"]

THUMBNAIL = 96
"""Pixels a side."""


def thumbnail(source: object, sha256: str | None) -> str:
    """A JPEG as a data URI; empty if the image cannot be decoded or its hash is another one (by now)."""
    try:
        image = decode(source, frames="sample")
    except ImageError:
        return ""
    return _preview(image, THUMBNAIL, quality=60)[0] if image.sha256 == sha256 else ""


def blurred_thumbnail_html(path: Path, *, side: int) -> str:
    """HTML of the image, at most ``side`` pixels wide and high, blurred until clicked."""
    try:
        image = decode(path, frames="sample")
    except ImageError:
        return '<span class="small">unreadable</span>'
    uri, (width, height) = _preview(image, side, quality=75)
    return (
        '<label class="picture" title="click to see"><input type="checkbox">'
        f'<img alt="blurred until clicked" width="{width}" height="{height}" src="{uri}"></label>'
    )


def _preview(image: Image, side: int, *, quality: int) -> tuple[str, tuple[int, int]]:
    """The first frame as a data URI, and its size."""
    frame = image.frames[0].copy()
    frame.thumbnail((side, side))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", frame.size
