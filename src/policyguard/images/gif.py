"""GIF: walks the blocks and hands Pillow one plain single-frame GIF file per frame.

Covered: every frame that the file holds, composited as browsers do it; frames outside the canvas and frames
without a colour table (viewers disagree about both) are refused.
Not covered: plain-text extensions, which no viewer draws.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image as PILImage

from policyguard.images.container import Container, end_notes
from policyguard.images.frames import Disposal, Patch, compose
from policyguard.images.refusal import Refusal, damaged

__all__ = ["parse"]

_IMAGE, _EXTENSION, _TRAILER, _CONTROL = 0x2C, 0x21, 0x3B, 0xF9
_ZEROS = re.compile(rb"\0+")
#: Pieces of compressed data have up to 255 bytes; an image may have so many of less than a quarter of that.
_SMALL, _MAX_SMALL = 64, 100_000
_DISPOSALS = {2: Disposal.CLEAR, 3: Disposal.RESTORE}


@dataclass(slots=True)
class _Frame:
    size: tuple[int, int]
    position: tuple[int, int]
    interlaced: bool
    palette: bytes
    data: bytes
    disposal: Disposal = Disposal.KEEP
    transparent: int | None = None
    delay: int = 0


def parse(data: bytes) -> Container:
    """Read the blocks of a GIF file; no pixel is decoded."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13
    palette, position = _palette(data, position, flags)
    parsed: list[_Frame] = []
    disposal, transparent, delay, ended = Disposal.KEEP, None, 0, False
    while position < len(data):
        kind = data[position]
        position += 1
        if kind == _TRAILER:
            ended = True
            break
        if kind == _EXTENSION:
            if data[position] == _CONTROL:
                control, delay, index = struct.unpack_from("<BHB", data, position + 2)
                if control >> 2 & 7 > 3:
                    raise Refusal("is a GIF with a frame that is taken away in an unknown manner")
                disposal = _DISPOSALS.get(control >> 2 & 7, Disposal.KEEP)
                transparent = index if control & 1 else None
            position = _skip(data, position + 1)
        elif kind == _IMAGE:
            frame, position = _image(data, position, palette)
            if frame.position[0] + frame.size[0] > width or frame.position[1] + frame.size[1] > height:
                raise Refusal("is a GIF with a frame that lies outside the image; viewers disagree on it")
            frame.disposal, frame.transparent, frame.delay = disposal, transparent, delay * 10
            parsed.append(frame)
            disposal, transparent, delay = Disposal.KEEP, None, 0
        elif kind != 0:
            raise Refusal("is a damaged GIF: an unknown block")
        else:  # some writers leave zeros between blocks, where browsers stop
            position = match.end() if (match := _ZEROS.match(data, position)) else position
            if data[position : position + 1] not in (b"", bytes([_TRAILER])):
                raise Refusal("is a damaged GIF: zeros between its parts")
    if not parsed:
        raise Refusal("is a GIF without an image in it, or cut short")
    size = (width, height)

    def frames() -> Iterator[PILImage]:
        return compose(size, (Patch(_open(frame), frame.position, frame.disposal, True) for frame in parsed))

    return Container(
        "GIF",
        size,
        frames,
        tuple(frame.delay for frame in parsed),
        notes=end_notes(data, position, marked=ended),
        # Pillow paints what is not covered, and what is taken away again.
        unusual=parsed[0].size != size or any(frame.disposal for frame in parsed[:-1]),
    )


def _palette(data: bytes, position: int, flags: int) -> tuple[bytes, int]:
    """The colour table at ``position`` if the flags announce one, and where it ends."""
    stop = position + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return data[position:stop], stop


def _image(data: bytes, position: int, palette: bytes) -> tuple[_Frame, int]:
    left, top, width, height, flags = struct.unpack_from("<HHHHB", data, position)
    own, start = _palette(data, position + 9, flags)
    stop = _skip(data, start + 1)
    if not 2 <= data[start] <= 8:
        raise Refusal(f"is a GIF whose pixels start with codes of {data[start]} bits; viewers disagree on it")
    if not (own or palette):
        raise Refusal("is a GIF without a colour table; viewers disagree on it")
    if not (width and height):
        raise Refusal("is a damaged GIF: a frame without pixels")
    return _Frame((width, height), (left, top), bool(flags & 0x40), own or palette, data[start:stop]), stop


def _skip(data: bytes, position: int) -> int:
    """Where the chain of sub-blocks at ``position`` ends. Raises IndexError where the file ends first."""
    small = 0
    while length := data[position]:
        position += 1 + length
        small += length < _SMALL
        if small > _MAX_SMALL:
            raise Refusal("is a GIF cut into tiny pieces")
    return position + 1


def _open(frame: _Frame) -> PILImage:
    bits = (len(frame.palette) // 3).bit_length() - 2
    encoded = b"".join(
        (
            b"GIF89a",
            struct.pack("<HHBBB", *frame.size, 0x80 | bits, 0, 0),
            frame.palette,
            struct.pack("<BHHHHB", _IMAGE, 0, 0, *frame.size, 0x40 if frame.interlaced else 0),
            frame.data,
            bytes([_TRAILER]),
        )
    )
    with damaged("is a damaged GIF: the compressed data of a frame makes no sense, or ends too early"):
        image = GifImageFile(io.BytesIO(encoded))
        image.load()
    beyond = image.histogram()[len(frame.palette) // 3 :]
    if frame.transparent is not None and frame.transparent >= len(frame.palette) // 3:
        beyond[frame.transparent - len(frame.palette) // 3] = 0  # as Pillow writes it; all leave it clear
    if any(beyond):
        raise Refusal("uses colours beyond the end of its palette; viewers disagree on them")
    if frame.transparent is not None:
        image.info["transparency"] = frame.transparent
    return image
