"""Files made anew from judged pixels: one to pass on in an image's place, and small previews for HTML pages.

Covered: nothing but pixels comes along, upright and in sRGB, in the few structures that all decoders read
alike. Not covered: a page blurs previews until they are clicked, but they are in the file, so such a page is
as sensitive as what it shows.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL.Image import Image as PILImage

from policyguard.errors import ImageError
from policyguard.images.container import Container, Image
from policyguard.images.decode import decode, parse
from policyguard.images.frames import numbered, sample_of
from policyguard.images.refusal import Refusal, boundary
from policyguard.images.render import opaque, upright, usual

__all__ = ["THUMBNAIL", "plain_file", "preview", "small_jpeg", "thumbnail"]

_ROOM = 3_750_000
"""Bytes that every provider takes (5 MB of base64). Only a file that was larger becomes larger than this."""
_QUALITIES = (92, 85, 75, 60)
_LONGEST = 65_535
"""The most ms that a frame of a PNG can be shown."""


def plain_file(image: Image) -> bytes:
    """What was judged as a PNG or JPEG file; of an animation, an animated PNG of the frames that were judged.

    Where the file itself is plain but for its metadata, its pixels are not encoded again. Pixels of lossy
    files (JPEG, most of WebP) become JPEG, all others PNG, or JPEG where that would be too large to send.
    Transparency stays; what is fully clear is white. Raises ImageError if it does not fit into memory, or is
    an animation that would be too large to send.
    """
    if image.plain is not None:
        return image.plain
    with boundary(image.source):
        frame, room = image.frames[0], max(_ROOM, len(image.file or b""))
        if image.file is not None and image.frame_count > 1:
            return _moving(image, image.file, room)
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
    if file is not None:
        container = parse(file)
        return _shown(next(container.frames()), container)
    result = frame.convert("RGBA")
    result.putalpha(alpha)
    return _white_where_clear(result)


def _shown(frame: PILImage, container: Container) -> PILImage:
    """A frame as it was judged first: in RGB or RGBA, upright, without any metadata."""
    image, turn = usual(frame), container.turns[0]
    clear = image.mode.endswith("A")
    way, *_ = container.colours.ways(image.mode.removesuffix("A"))
    result = upright(way(opaque(image)), turn)
    if clear:
        result = result.convert("RGBA")
        result.putalpha(upright(image.getchannel("A"), turn))
        return _white_where_clear(result)
    result = result.copy()
    result.info = {}
    return result


def _white_where_clear(image: PILImage) -> PILImage:
    image.paste((255, 255, 255, 0), mask=image.getchannel("A").point([255, *[0] * 255]))
    image.info = {}
    return image


def _moving(image: Image, file: bytes, room: int) -> bytes:
    """An animated PNG of the frames that were judged, for as long as each was shown, over and over again."""
    container = parse(file)
    chosen = dict(enumerate(container.delays))
    if image.partial:
        chosen = sample_of([number for number, _ in numbered(container.frames())], container.delays)
    frames = [
        _shown(frame, container) for position, frame in enumerate(container.frames()) if position in chosen
    ]
    if any(frame.mode == "RGBA" for frame in frames):
        frames = [frame.convert("RGBA") for frame in frames]
    delays = [min(delay, _LONGEST) for delay in chosen.values()]
    first, *rest = frames
    png = _encoded(first, "PNG", save_all=True, append_images=rest, duration=delays, loop=0)
    if len(png) > room:
        raise Refusal(
            f"would take {len(png) / 2**20:.1f} MiB as a PNG of the frames that were judged; "
            f"{room / 2**20:.1f} MiB can be sent",
            hint="make it smaller or shorter",
        )
    return png


def _is_lossy(image: Image) -> bool:
    return image.format == "JPEG" or (image.format == "WEBP" and b"VP8 " in (image.file or b"")[:_HEAD])


_HEAD = 64 * 1024


def _encoded(image: PILImage, kind: str, **options: Any) -> bytes:
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
