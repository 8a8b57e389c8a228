"""PNG and APNG: checks the chunks and hands Pillow small, plain PNG files, one per frame.

Covered: checksums of all that is used and of the pixels; pieces that are missing, double, misplaced or of a
strange size; samples that are too few, too many or beyond the palette; oversized text (never parsed);
colour-key transparency at every bit depth; animation as browsers composite it, and the still image that
viewers without animation show instead.
Not covered: hints for displays of high dynamic range (mDCV, cLLI), which browsers use on those alone.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL import ImageChops
from PIL.Image import Image as PILImage
from PIL.Image import frombytes
from PIL.PngImagePlugin import PngImageFile

from policyguard.images.colour import Colours
from policyguard.images.container import Container, end_notes
from policyguard.images.exif import STRIP, check_density, turns
from policyguard.images.frames import Disposal, Patch, compose
from policyguard.images.refusal import Refusal, damaged
from policyguard.images.render import eight_bit
from policyguard.images.sniff import PNG

__all__ = ["parse"]

_GREY, _RGB, _PALETTE = 0, 2, 3
_MAX_PROFILE = 4 * 1024 * 1024
#: Bytes of samples: 50 million pixels in all forms but 16 bits with transparency.
_MAX_UNPACKED = 310_000_000
#: Few writers make pieces of less than 8 KiB; each costs time however little it holds.
_MAX_CHUNKS = 50_000
#: The samples of a pixel and the bit depths of each colour type.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
#: (left, top, step across, step down) of the passes of an interlaced image; PNG specification, section 8.2.
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
_COLOURS = frozenset({b"gAMA", b"iCCP", b"cICP", b"cHRM", b"sRGB"})
_ONCE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"acTL", b"eXIf"}) | _COLOURS
_USED = _ONCE - {b"sRGB"} | {b"IDAT", b"fcTL", b"fdAT"}
_BEFORE_DATA = _COLOURS | {b"PLTE", b"tRNS", b"acTL"}
_SIZES = {b"IHDR": 13, b"acTL": 8, b"gAMA": 4, b"cICP": 4, b"cHRM": 32}
_SRGB_CODE = b"\1\x0d\0\1"
#: White point and primaries of sRGB, times 100,000, and how far from them all screens are alike.
_SRGB_CHROMATICITIES, _NEAR = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000), 1500
_SRGB_HINT = "convert it to sRGB, for example `magick in.png -colorspace sRGB -strip out.png`"


@dataclass(slots=True)
class _Frame:
    size: tuple[int, int]
    position: tuple[int, int] = (0, 0)
    disposal: Disposal = Disposal.KEEP
    over: bool = False
    delay: int = 0
    data: list[memoryview] = field(default_factory=list)


@dataclass(slots=True)
class _Chunks:
    """The chunks of a file that matter, in one pass; the still image lies from ``start`` to ``stop``."""

    once: dict[bytes, bytes] = field(default_factory=dict)
    still: list[memoryview] = field(default_factory=list)
    frames: list[_Frame] = field(default_factory=list)
    still_is_frame: bool = False
    start: int = 0
    stop: int = 0
    end: int = 0


def parse(data: bytes) -> Container:
    """Read the chunks of a PNG file; no pixel is decoded."""
    chunks = _read(data)
    header = chunks.once[b"IHDR"]
    size = struct.unpack_from(">II", header)
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

    delays = tuple(frame.delay for frame in (*still, *chunks.frames))
    blocks = [chunks.once[b"eXIf"]] if b"eXIf" in chunks.once else []
    check_density(blocks, size)
    ways = turns(blocks, agreed=False)
    if len(delays) > 1 and ways != (1,):  # browsers turn its size, but not always what is in it
        raise Refusal("is an animation that its EXIF metadata turns; viewers disagree on it", hint=STRIP)
    # 8 bits, RGB, the only compression and filter there are, not interlaced: what every decoder reads alike.
    simple = header[8:] == bytes([8, _RGB, 0, 0, 0]) and b"tRNS" not in chunks.once
    return Container(
        "PNG",
        size,
        frames,
        delays,
        ways,
        _colours(chunks.once),
        end_notes(data, chunks.end, marked=True),
        b"".join([_start(size, chunks.once), data[chunks.start : chunks.stop], _chunk(b"IEND", b"")])
        if simple and len(delays) == len(still) == 1
        else None,
        # Pillow shows the still first, and lays what is half clear over the frame before in another way.
        unusual=bool(still and chunks.frames) or any(frame.over for frame in chunks.frames[1:]),
        most_pixels=8 * _MAX_UNPACKED // (header[8] * _CHANNELS[header[9]]),
    )


def _read(data: bytes) -> _Chunks:
    chunks, view, position = _Chunks(), memoryview(data), len(PNG)
    sequence = count = 0
    before = b""
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        stop = position + 12 + length
        if stop > len(data):
            raise Refusal("is cut short")
        body = view[position + 8 : stop - 4]
        if not chunks.once and kind != b"IHDR":
            raise _damaged("it does not start with its header")
        count += 1
        if count > _MAX_CHUNKS:
            raise Refusal(f"is a PNG of more than {_MAX_CHUNKS:,} pieces")
        if kind in _USED and zlib.crc32(view[position + 4 : stop - 4]) != int.from_bytes(
            view[stop - 4 : stop]
        ):
            raise _damaged(f"wrong checksum in {kind.decode()}")
        if kind in _BEFORE_DATA and chunks.still:
            raise _damaged(f"{kind.decode()} comes after the image")
        if kind in _ONCE:
            if kind in chunks.once:
                raise _damaged(f"two {kind.decode()} chunks")
            if length != _SIZES.get(kind, length):
                raise _damaged(f"its {kind.decode()} is {length} bytes long")
            if b"PLTE" in chunks.once and kind in _COLOURS - {b"sRGB"}:
                raise _damaged(f"{kind.decode()} comes after its palette")
            chunks.once[kind] = bytes(body)
        elif kind == b"IDAT":
            if chunks.still and before != b"IDAT":
                raise _damaged("something stands between the parts of its image")
            chunks.start, chunks.stop = chunks.start or position, stop
            chunks.still.append(body)
            chunks.still_is_frame = bool(chunks.frames)
        elif kind in (b"fcTL", b"fdAT"):
            if b"acTL" not in chunks.once or int.from_bytes(body[:4]) != sequence:
                raise _damaged("its animation is out of sequence")
            sequence += 1
            if kind == b"fcTL":
                chunks.frames.append(_control(bytes(body), chunks))
            elif chunks.still and chunks.frames:
                chunks.frames[-1].data.append(body[4:])
            else:
                raise _damaged("its animation is out of sequence")
        elif kind == b"IEND":
            chunks.end = stop
            return _checked(chunks)
        elif kind[:1].isupper():
            raise _damaged("an unknown piece that it cannot be shown without")
        before, position = kind, stop
    raise Refusal("is a PNG without an end, or cut short")


def _damaged(what: str) -> Refusal:
    return Refusal(f"is a damaged PNG: {what}")


def _checked(chunks: _Chunks) -> _Chunks:
    if not chunks.still:
        raise Refusal("is a PNG without an image in it, or cut short")
    depth, colour_type = _header(chunks.once[b"IHDR"])
    palette, clear = chunks.once.get(b"PLTE"), chunks.once.get(b"tRNS")
    if palette is not None or colour_type == _PALETTE:
        entries = len(palette or b"") / 3
        most = 1 << depth if colour_type == _PALETTE else 256
        if colour_type in (_GREY, 4) or entries not in range(1, most + 1):
            raise _damaged("it has a palette of a strange size, or none where it needs one")
    if clear is not None:
        sizes = {_GREY: (2,), _RGB: (6,), _PALETTE: range(1, len(palette or b"") // 3 + 1)}
        order = list(chunks.once)
        if len(clear) not in sizes.get(colour_type, ()) or (
            palette is not None and order.index(b"tRNS") < order.index(b"PLTE")
        ):
            raise _damaged("its transparency (tRNS) is of a strange size or in a strange place")
    if chunks.frames and chunks.still_is_frame:
        first = chunks.frames[0]
        if first.size != struct.unpack_from(">II", chunks.once[b"IHDR"]):
            raise _damaged("the first frame of its animation is smaller than the image")
        first.data = chunks.still
    if b"acTL" in chunks.once:
        declared = struct.unpack_from(">I", chunks.once[b"acTL"])[0]
        if declared != len(chunks.frames) or not all(frame.data for frame in chunks.frames):
            raise _damaged(f"it declares {declared} frames and holds {len(chunks.frames)}")
    return chunks


def _header(body: bytes) -> tuple[int, int]:
    """Bit depth and colour type."""
    depth, colour_type, compression, filtering, interlace = body[8:13]
    if depth not in _DEPTHS.get(colour_type, ()) or compression or filtering or interlace > 1:
        raise _damaged("its header makes no sense")
    return depth, colour_type


def _control(body: bytes, chunks: _Chunks) -> _Frame:
    """The frame that an fcTL chunk announces."""
    width, height, left, top, part, whole, dispose, blend = struct.unpack(">IIIIHHBB", body[4:])
    canvas = struct.unpack_from(">II", chunks.once[b"IHDR"])
    if not (0 < width <= canvas[0] - left and 0 < height <= canvas[1] - top and dispose <= 2 and blend <= 1):
        raise _damaged("a frame of its animation lies outside the image")
    return _Frame((width, height), (left, top), Disposal(dispose), blend == 1, part * 1000 // (whole or 100))


def _colours(once: dict[bytes, bytes]) -> Colours:
    if once.get(b"cICP", _SRGB_CODE) != _SRGB_CODE:
        raise Refusal(
            "is in other colours than sRGB by its cICP chunk; viewers disagree on it", hint=_SRGB_HINT
        )
    deep = once[b"IHDR"][8] == 16
    if b"iCCP" in once:
        return Colours(_profile(once[b"iCCP"]), deep=deep)
    declared = struct.unpack(">8I", once[b"cHRM"]) if b"cHRM" in once else _SRGB_CHROMATICITIES
    if any(abs(a - b) > _NEAR for a, b in zip(declared, _SRGB_CHROMATICITIES, strict=True)):
        raise Refusal(
            "is in other colours than sRGB by its cHRM chunk; viewers disagree on it", hint=_SRGB_HINT
        )
    if b"gAMA" not in once:
        return Colours(deep=deep)
    gamma = struct.unpack(">I", once[b"gAMA"])[0] / 100_000
    return Colours(None, gamma, untagged_first=b"sRGB" in once, deep=deep)


def _other_colours(chunk: str) -> Refusal:
    return Refusal(f"has other colours than sRGB by its {chunk}; viewers disagree on them", hint=_SRGB_HINT)


def _profile(body: bytes) -> bytes:
    """The ICC profile of an iCCP chunk."""
    name, _, rest = body.partition(b"\0")
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(rest[1:], _MAX_PROFILE)
    except zlib.error:
        profile = b""
    if not (1 <= len(name) <= 79 and rest[:1] == b"\0" and unpacker.eof and not unpacker.unused_data):
        raise Refusal("has a damaged colour profile; viewers disagree on it", hint=_SRGB_HINT)
    return profile


def _open(once: dict[bytes, bytes], frame: _Frame) -> PILImage:
    """Decode one frame from a PNG file made of nothing but what its pixels need."""
    depth, colour_type = once[b"IHDR"][8], once[b"IHDR"][9]
    image = _unfiltered(once, frame) if colour_type == _PALETTE else None
    if image is None:
        with damaged("is a damaged PNG: its rows are filtered in an unknown manner"):
            image = opened = PngImageFile(cast("IO[bytes]", _Unpacked(once, frame)))
            opened.decodermaxblock = _PIECE
            opened.load()
        if colour_type == _PALETTE:
            _check_indices(image, once)
    key: Any = None
    if b"tRNS" in once and colour_type in (_GREY, _RGB):
        key = _key(once[b"tRNS"], depth, grey=colour_type == _GREY)
    if image.mode.startswith("I;16"):
        image = eight_bit(image)
    if key is not None:
        image.info["transparency"] = key
        if depth == 16 and image.convert("RGBA").getextrema()[-1] != (255, 255):
            raise Refusal(
                "has a transparent colour in 16 bits per sample; viewers disagree on it",
                hint="save it again with 8 bits, for example `magick in.png -depth 8 out.png`",
            )
    return image


def _unfiltered(once: dict[bytes, bytes], frame: _Frame) -> PILImage | None:
    """A palette image whose rows stand as they are, as most do, and need no decoder; ``None`` for others."""
    header, length = once[b"IHDR"], _unpacked_length(frame.size, once[b"IHDR"])
    if header[12]:
        return None
    image = pil.new("P", frame.size)
    stride, form = length // image.height, "P" if header[8] == 8 else f"P;{header[8]}"
    top, rows = 0, b""
    for piece in _pieces(frame.data, length):
        rows += piece
        if any(rows[::stride]):
            return None
        if count := len(rows) // stride:
            part = frombytes("P", (image.width, count), rows[1:], "raw", form, stride, 1)
            _check_indices(part, once)
            image.paste(part, (0, top))
            top += count
            rows = rows[count * stride :]
    image.putpalette(once[b"PLTE"])
    if b"tRNS" in once:
        image.info["transparency"] = once[b"tRNS"]
    return image


def _check_indices(image: PILImage, once: dict[bytes, bytes]) -> None:
    """Refuse a palette image that uses more colours than it has."""
    entries = len(once[b"PLTE"]) // 3
    if entries >= 1 << once[b"IHDR"][8]:
        return
    # Moved so that the last colour becomes 127. Of all ways to look at each index this is the fastest.
    if entries > 128:
        moved = ImageChops.difference(image, pil.new("P", image.size, entries - 128))
    else:
        moved = ImageChops.add_modulo(image, pil.new("P", image.size, 128 - entries))
    if not moved.tobytes().isascii() or (entries < 128 and not image.tobytes().isascii()):
        raise Refusal("uses colours beyond the end of its palette; viewers disagree on them")


def _start(size: tuple[int, int], once: dict[bytes, bytes]) -> bytes:
    header = struct.pack(">II", *size) + once[b"IHDR"][8:]
    colours = (b"PLTE", b"tRNS") if header[9] == _PALETTE else ()
    parts = [_chunk(kind, once[kind]) for kind in colours if kind in once]
    return b"".join([PNG, _chunk(b"IHDR", header), *parts])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + zlib.crc32(body, zlib.crc32(kind)).to_bytes(4)


#: So much is unpacked at a time: of data (what is left of it is copied each time), and of rows.
_SLICE, _PIECE = 16 * 1024, 256 * 1024


def _pieces(data: Iterable[memoryview], length: int) -> Iterator[bytes]:
    """The rows, each with its filter, piece by piece.

    They are checked as Pillow does not: there must be as many as the header says, and their checksum right.
    """
    unpacker, left = zlib.decompressobj(), length
    for rest in (part[at : at + _SLICE] for part in data for at in range(0, len(part), _SLICE)):
        unread: Any = rest
        while not unpacker.eof:
            try:
                piece = unpacker.decompress(unread, _PIECE)
            except zlib.error as error:
                raise _damaged("its data cannot be unpacked") from error
            left -= len(piece)
            if left < 0:
                raise _damaged("its data holds more than its rows")
            yield piece
            unread = unpacker.unconsumed_tail
            if not (piece or unread):
                break
    if left or not unpacker.eof:
        raise _damaged("its data ends before its rows do")


_STORED = 65_535


class _Unpacked(io.RawIOBase):
    """A PNG file of one frame whose rows are stored without compression, unpacked while it is read.

    It ends with the rows, where Pillow stops.
    """

    def __init__(self, once: dict[bytes, bytes], frame: _Frame) -> None:
        self._length = _unpacked_length(frame.size, once[b"IHDR"])
        self._parts = self._stream(_start(frame.size, once), frame.data)
        self._ready = b""
        self._position = 0

    def _stream(self, start: bytes, data: Iterable[memoryview]) -> Iterator[bytes]:
        left, rows = self._length, b""
        yield start + struct.pack(">I", 2 + left + 5 * -(-left // _STORED)) + b"IDAT\x78\x01"
        for piece in _pieces(data, left):
            rows += piece
            at = 0
            while len(rows) - at >= _STORED and left > _STORED:
                yield _block(rows[at : at + _STORED])
                at += _STORED
                left -= _STORED
            rows = rows[at:]
        yield _block(rows)
        yield bytes(4) + _chunk(b"IEND", b"")

    def read(self, size: int = -1) -> bytes:
        parts = [self._ready]
        missing = size - len(self._ready)
        while missing > 0 and (part := next(self._parts, None)) is not None:
            parts.append(part)
            missing -= len(part)
        joined = b"".join(parts)
        result, self._ready = joined[:size], joined[size:]
        self._position += len(result)
        return result

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._position:
            raise io.UnsupportedOperation("reads forward only")
        self.read(position - self._position)
        return self._position

    def seekable(self) -> bool:
        return True


def _block(rows: bytes) -> bytes:
    """A block of a zlib stream that is not compressed."""
    return struct.pack("<BHH", 0, len(rows), len(rows) ^ 0xFFFF) + rows


def _unpacked_length(size: tuple[int, int], header: bytes) -> int:
    """How many bytes the rows of an image take, each with its filter."""
    bits = header[8] * _CHANNELS[header[9]]
    passes = _PASSES if header[12] else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        width, height = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        if width > 0 and height > 0:
            total += height * (1 + (width * bits + 7) // 8)
    return total


def _key(body: bytes, depth: int, *, grey: bool) -> Any:
    """The transparent colour of a tRNS chunk in 8-bit samples; Pillow never rescales it."""
    top = (1 << depth) - 1
    levels = tuple(
        level >> 8 if depth == 16 else (level & top) * 255 // top
        for level in struct.unpack_from(">H" if grey else ">HHH", body)
    )
    return levels[0] if grey else levels
