"""PNG and APNG: checks the chunks and hands Pillow small, plain PNG files, one per frame.

Covered: checksums of all that is used, missing pieces, duplicate and misplaced chunks, oversized text (never
parsed), colour-key transparency at every bit depth, animation as browsers composite it, and the still
image that viewers without animation show instead.
Not covered: chromaticities (cHRM) and high dynamic range (cICP); they shift colours, not shapes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image as PILImage
from PIL.PngImagePlugin import PngImageFile

from policyguard.images.container import Container, end_notes
from policyguard.images.frames import Disposal, Patch, compose
from policyguard.images.refusal import Refusal
from policyguard.images.render import eight_bit
from policyguard.images.signatures import PNG

__all__ = ["parse"]

_GREY, _RGB, _PALETTE = 0, 2, 3
_MAX_PROFILE = 4 * 1024 * 1024
_USED = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"iCCP", b"eXIf"})
_ONCE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"acTL", b"gAMA", b"iCCP", b"eXIf"})
_BEFORE_DATA = frozenset({b"PLTE", b"tRNS", b"acTL", b"gAMA", b"iCCP", b"sRGB"})


@dataclass(slots=True)
class _Frame:
    size: tuple[int, int]
    position: tuple[int, int] = (0, 0)
    disposal: Disposal = Disposal.KEEP
    over: bool = False
    data: list[bytes | memoryview] = field(default_factory=list)


@dataclass(slots=True)
class _Chunks:
    """The chunks of a file that matter, in one pass."""

    once: dict[bytes, bytes] = field(default_factory=dict)
    still: list[bytes | memoryview] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    still_is_frame: bool = False
    srgb: bool = False
    end: int = 0
    ended: bool = False


def parse(data: bytes) -> Container:
    """Read the chunks of a PNG file; no pixel is decoded."""
    chunks = _read(data)
    header = chunks.once[b"IHDR"]
    size = struct.unpack_from(">II", header)
    notes = end_notes(data, chunks.end, marked=chunks.ended)
    icc, gamma = None, None
    if b"iCCP" in chunks.once:
        icc = _profile(chunks.once[b"iCCP"])
        notes += () if icc else ("its colour profile is damaged and was not applied",)
    elif b"gAMA" in chunks.once and not chunks.srgb:
        gamma = struct.unpack(">I", chunks.once[b"gAMA"])[0] / 100_000
    still = [] if chunks.still_is_frame else [_Frame(size, data=chunks.still)]

    def frames() -> Iterator[PILImage]:
        for frame in still:
            yield _open(chunks.once, frame)
        yield from compose(
            size,
            (
                Patch(_open(chunks.once, frame), frame.position, frame.disposal, frame.over)
                for frame in chunks.frames
            ),
        )

    count = len(still) + len(chunks.frames)
    exif = chunks.once.get(b"eXIf")
    # 8 bits, RGB, the only compression and filter there are, not interlaced: what every decoder reads alike.
    simple = header[8:] == bytes([8, _RGB, 0, 0, 0]) and b"tRNS" not in chunks.once
    plain = _file(chunks.once, still[0]) if simple and count == len(still) == 1 else None
    return Container("PNG", size, frames, count, exif, icc, gamma, notes, plain)


def _read(data: bytes) -> _Chunks:
    chunks, view, position = _Chunks(), memoryview(data), len(PNG)
    sequence = 0
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        stop = position + 12 + length
        if stop > len(data):
            raise Refusal("is cut short")
        body = view[position + 8 : stop - 4]
        if not chunks.once and kind != b"IHDR":
            raise Refusal("is a damaged PNG: it does not start with its header")
        checksum = int.from_bytes(view[stop - 4 : stop])
        if kind in _USED and zlib.crc32(view[position + 4 : stop - 4]) != checksum:
            raise Refusal(f"is a damaged PNG: wrong checksum in {kind.decode()}")
        if kind in _BEFORE_DATA and chunks.still:
            raise Refusal(f"is a damaged PNG: {kind.decode()} comes after the image")
        if kind in _ONCE:
            if kind in chunks.once:
                raise Refusal(f"is a damaged PNG: two {kind.decode()} chunks")
            chunks.once[kind] = bytes(body)
        elif kind == b"sRGB":
            chunks.srgb = True
        elif kind == b"IDAT":
            chunks.still.append(view[position:stop])
            chunks.still_is_frame = bool(chunks.frames)
        elif kind in (b"fcTL", b"fdAT") and b"acTL" in chunks.once:
            if int.from_bytes(body[:4]) != sequence:
                raise Refusal("is a damaged PNG: its animation is out of sequence")
            sequence += 1
            if kind == b"fcTL":
                chunks.frames.append(_control(bytes(body), chunks))
            elif chunks.still and chunks.frames:
                chunks.frames[-1].data.append(_chunk(b"IDAT", bytes(body[4:])))
            else:
                raise Refusal("is a damaged PNG: its animation is out of sequence")
        position = stop
        if kind == b"IEND":
            chunks.ended = True
            break
    chunks.end = position
    return _checked(chunks)


def _checked(chunks: _Chunks) -> _Chunks:
    if not chunks.still:
        raise Refusal("is a PNG without an image in it, or cut short")
    if chunks.frames and chunks.still_is_frame:
        chunks.frames[0].data = chunks.still
    if b"acTL" in chunks.once:
        declared = struct.unpack_from(">I", chunks.once[b"acTL"])[0]
        if declared != len(chunks.frames) or not all(frame.data for frame in chunks.frames):
            raise Refusal(f"is a damaged PNG: it declares {declared} frames and holds {len(chunks.frames)}")
    return chunks


def _control(body: bytes, chunks: _Chunks) -> _Frame:
    """The frame that an fcTL chunk announces."""
    width, height, left, top, _, dispose, blend = struct.unpack_from(">IIIIIBB", body, 4)
    canvas = struct.unpack_from(">II", chunks.once[b"IHDR"])
    if not (0 < width <= canvas[0] - left and 0 < height <= canvas[1] - top and dispose <= 2 and blend <= 1):
        raise Refusal("is a damaged PNG: a frame of its animation lies outside the image")
    return _Frame((width, height), (left, top), Disposal(dispose), over=blend == 1)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4)


def _open(once: dict[bytes, bytes], frame: _Frame) -> PILImage:
    """Decode one frame from a PNG file made of nothing but what its pixels need."""
    depth, colour_type = once[b"IHDR"][8], once[b"IHDR"][9]
    image: PILImage = PngImageFile(io.BytesIO(_file(once, frame)))
    image.load()
    if image.mode.startswith("I;16"):
        image = eight_bit(image)
    if b"tRNS" in once and colour_type in (_GREY, _RGB):
        image.info["transparency"] = _key(once[b"tRNS"], depth, grey=colour_type == _GREY)
    return image


def _file(once: dict[bytes, bytes], frame: _Frame) -> bytes:
    header = struct.pack(">II", *frame.size) + once[b"IHDR"][8:]
    parts: list[bytes | memoryview] = [PNG, _chunk(b"IHDR", header)]
    if header[9] == _PALETTE:
        parts += [_chunk(kind, once[kind]) for kind in (b"PLTE", b"tRNS") if kind in once]
    return b"".join([*parts, *frame.data, _chunk(b"IEND", b"")])


def _key(body: bytes, depth: int, *, grey: bool) -> Any:
    """The transparent colour of a tRNS chunk in 8-bit samples, as Pillow keeps it (which never rescales it).

    With 16 bits per sample, all colours that share the upper 8 bits count as transparent: they look the same.
    """
    top = (1 << depth) - 1
    levels = tuple(
        level >> 8 if depth == 16 else (level & top) * 255 // top
        for level in struct.unpack_from(">H" if grey else ">HHH", body)
    )
    return levels[0] if grey else levels


def _profile(body: bytes) -> bytes | None:
    """The ICC profile of an iCCP chunk; ``None`` if it cannot be unpacked or is absurdly large."""
    _, _, rest = body.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], _MAX_PROFILE)
    except zlib.error:
        return None
    return profile if unpacker.eof else None
