"""Files made anew from judged pixels: one to pass on in an image's place, and small previews for HTML pages.

Covered: nothing but pixels comes along, upright and in sRGB, in the few structures that all decoders read
alike. Not covered: a page blurs previews until they are clicked, but they are in the file, so such a page is
as sensitive as what it shows.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL.Image import Image as PILImage

from policyguard.errors import ImageError
from policyguard.images.container import Image
from policyguard.images.decode import decode, parse
from policyguard.images.refusal import boundary
from policyguard.images.render import upright, usual

__all__ = ["THUMBNAIL", "plain_file", "preview", "small_jpeg", "thumbnail"]

_ROOM = 3_750_000
"""Bytes that every provider takes (5 MB of base64). Only a file that was larger becomes larger than this."""
_QUALITIES = (92, 85, 75, 60)


def plain_file(image: Image) -> bytes | None:
    """What was judged as a PNG or JPEG file; None for an animation, which no such file shows.

    Where the file itself is plain but for its metadata, its pixels are not encoded again. Pixels of lossy
    files (JPEG, most of WebP) become JPEG, all others PNG, or JPEG where that would be too large to send.
    Transparency stays; what is fully clear is white. Raises ImageError if it does not fit into memory.
    """
    if image.plain is not None:
        return image.plain
    if image.frame_count > 1:
        return None
    with boundary(image.source):
        frame, room = image.frames[0], max(_ROOM, len(image.file or b""))
        if image.alpha is not None:
            return _encoded(_clear(image.alpha, frame, image.file), "PNG")
        if not _is_lossy(image):
            png = _encoded(frame, "PNG")
            if len(png) <= room:
                return png
        for quality in _QUALITIES:
            jpeg = _encoded(frame, "JPEG", quality=quality, subsampling=2 if _is_lossy(image) else 0)
            if len(jpeg) <= room:
                break
        return jpeg


def _clear(alpha: PILImage, frame: PILImage, file: bytes | None) -> PILImage:
    """A still with its transparency. Of pixels that came without a file, those on white are what is left."""
    if file is None:
        result = frame.convert("RGBA")
    else:
        container = parse(file)
        image, turn = usual(next(container.frames())), container.turns[0]
        (way, *_), alpha = container.colours.ways(image.mode[:-1]), upright(image.getchannel("A"), turn)
        result = upright(way(image.convert(image.mode[:-1])), turn).convert("RGBA")
    result.putalpha(alpha)
    result.paste((255, 255, 255, 0), mask=alpha.point([255, *[0] * 255]))
    result.info = {}
    return result


def _is_lossy(image: Image) -> bool:
    return image.format == "JPEG" or (image.format == "WEBP" and b"VP8 " in (image.file or b"")[:_HEAD])


_HEAD = 64 * 1024


def _encoded(image: PILImage, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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


def small_jpeg(image: Image, side: int, *, quality: int = 75) -> bytes:
    """The first frame as it was judged, at most ``side`` pixels wide and high."""
    frame = image.frames[0].copy()
    frame.thumbnail((side, side))
    return _encoded(frame, "JPEG", quality=quality)


def _jpeg(image: Image, side: int, *, quality: int) -> str:
    """The same as a data URI."""
    code = base64.b64encode(small_jpeg(image, side, quality=quality))
    return f"data:image/jpeg;base64,{code.decode('ascii')}"
