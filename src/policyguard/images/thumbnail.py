"""Small pictures for pages, where they were asked for.

Covered: at most 96 pixels a side, made anew from the pixels, so that no metadata comes along; only of an
image whose bytes are the ones that were judged. Not covered: a page blurs them until they are clicked, but
they are in the file, so a page with pictures is as sensitive as what it shows.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from policyguard.errors import ImageError
from policyguard.images.decode import decode

__all__ = [
    "THUMBNAIL",
    "thumbnail",
]


def blurred_picture(path: Path, *, side: int) -> str:
    """The picture, at most ``side`` pixels wide and high, blurred until clicked; empty if unreadable."""
    from policyguard.images import decode

    try:
        frame = decode(path, frames="sample").frames[0].copy()
    except ImageError:
        return '<span class="small">unreadable</span>'
    frame.thumbnail((side, side))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=75)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    size = f'width="{frame.width}" height="{frame.height}"'
    return (
        '<label class="picture" title="click to see"><input type="checkbox">'
        f'<img alt="blurred until clicked" {size} src="data:image/jpeg;base64,{data}"></label>'
    )


THUMBNAIL = 96
"""Pixels a side."""


def thumbnail(source: object, sha256: str | None) -> str:
    """A JPEG as a data URI; empty if the image cannot be shown or is not the one of this hash (any more)."""
    try:
        image = decode(source, frames="sample")
    except ImageError:
        return ""
    if sha256 is None or image.sha256 != sha256:
        return ""
    frame = image.frames[0].copy()
    frame.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=60)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
