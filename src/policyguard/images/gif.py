"""GIF: walks the blocks and hands Pillow one plain single-frame GIF file per frame.

Covered: every frame that the file holds, composited as browsers do it; frames outside the canvas and frames
without a colour table (viewers disagree about both) are refused.
Not covered: plain-text extensions, which no viewer draws.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL.GifImagePlugin import GifImageFile
from PIL.Image import Image as PILImage

from policyguard.images.container import Container, end_notes
from policyguard.images.frames import Disposal, Patch, compose
from policyguard.images.refusal import Refusal

__all__ = ["parse"]

_IMAGE, _EXTENSION, _TRAILER, _CONTROL = 0x2C, 0x21, 0x3B, 0xF9
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


def parse(data: bytes) -> Container:
    """Read the blocks of a GIF file; no pixel is decoded."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13
    palette, position = _palette(data, position, flags)
    parsed: list[_Frame] = []
    disposal, transparent, ended = Disposal.KEEP, None, False
    while position < len(data):
        kind = data[position]
        position += 1
        if kind == _TRAILER:
            ended = True
            break
        if kind == _EXTENSION:
            if data[position] == _CONTROL:
                control, index = data[position + 2], data[position + 5]
                disposal = _DISPOSALS.get(control >> 2 & 7, Disposal.KEEP)
                transparent = index if control & 1 else None
            position = _skip(data, position + 1)
        elif kind == _IMAGE:
            frame, position = _image(data, position, palette)
            if frame.position[0] + frame.size[0] > width or frame.position[1] + frame.size[1] > height:
                raise Refusal("is a GIF with a frame that lies outside the image; viewers disagree on it")
            frame.disposal, frame.transparent = disposal, transparent
            parsed.append(frame)
            disposal, transparent = Disposal.KEEP, None
        elif kind != 0:  # some writers leave zeros between blocks
            raise Refusal("is a damaged GIF: an unknown block")
    if not parsed:
        raise Refusal("is a GIF without an image in it, or cut short")
    size = (width, height)

    def frames() -> Iterator[PILImage]:
        return compose(size, (Patch(_open(frame), frame.position, frame.disposal, True) for frame in parsed))

    return Container("GIF", size, frames, len(parsed), notes=end_notes(data, position, marked=ended))


def _palette(data: bytes, position: int, flags: int) -> tuple[bytes, int]:
    """The colour table at ``position`` if the flags announce one, and where it ends."""
    stop = position + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    return data[position:stop], stop


def _image(data: bytes, position: int, palette: bytes) -> tuple[_Frame, int]:
    left, top, width, height, flags = struct.unpack_from("<HHHHB", data, position)
    own, start = _palette(data, position + 9, flags)
    stop = _skip(data, start + 1)
    if not (own or palette):
        raise Refusal("is a GIF without a colour table; viewers disagree on it")
    if not (width and height):
        raise Refusal("is a damaged GIF: a frame without pixels")
    return _Frame((width, height), (left, top), bool(flags & 0x40), own or palette, data[start:stop]), stop


def _skip(data: bytes, position: int) -> int:
    """Where the chain of sub-blocks at ``position`` ends. Raises IndexError where the file ends first."""
    while length := data[position]:
        position += 1 + length
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
    image = GifImageFile(io.BytesIO(encoded))
    image.load()
    if frame.transparent is not None:
        image.info["transparency"] = frame.transparent
    return image
