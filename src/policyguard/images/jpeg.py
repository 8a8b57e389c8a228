"""JPEG: finds where the image ends, and hands Pillow only the segments that make pixels.

Covered: colour profiles in pieces and in any order, orientation, files that hold more images after the
first (phones store gain maps and depth so; a viewer shows the first), scan bombs; files that other decoders
would show otherwise are not sent on as they are (restart markers out of order, scans that paint over
others, components under other names).
Not covered: damage inside the compressed data (data that ends early, coefficients out of range) that each
decoder smooths over in its own way.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

from PIL.Image import Image as PILImage
from PIL.JpegImagePlugin import JpegImageFile

from policyguard.images.container import Container, end_notes
from policyguard.images.refusal import Refusal

__all__ = ["parse"]

_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_RESTARTS = range(0xD0, 0xD8)
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF0, _SOF1, _DHT, _DQT = 0xC0, 0xC1, 0xC4, 0xDB
_TABLES = frozenset({_DHT, 0xCC, _DQT, 0xDD})
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
#: The next marker within compressed data: stuffed zeros and restart markers belong to the data.
_SCAN_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_NOT_DATA = re.compile(rb"\xff[^\0]")
#: Luma at full size, and chroma at full size, half the width, or half of both.
_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")
#: Real progressive files have about ten; each costs a pass over the image however few bytes it holds.
_MAX_SCANS = 100


def parse(data: bytes) -> Container:
    """Read the segments of a JPEG file; no pixel is decoded."""
    kept, size = [b"\xff\xd8"], (0, 0)
    exif: bytes | None = None
    profile: dict[int, bytes] = {}
    pieces = 0
    notes: tuple[str, ...] = ()
    for code, start, end in _segments(data):
        body = data[start + 4 : end]
        if code in _FRAME_HEADERS:
            if size != (0, 0):
                raise Refusal("is a damaged JPEG: it declares its size twice")
            height, width = struct.unpack_from(">HH", body, 1)
            size = (width, height)
            kept.append(data[start:end])
        elif code in _TABLES or code == _APP14 or (code == _APP0 and body.startswith(b"JFIF")):
            kept.append(data[start:end])
        elif code == _APP1 and exif is None and body.startswith(b"Exif\0\0"):
            exif = body
        elif code == _APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]], pieces = body[14:], body[13]
        elif code == _APP2 and body.startswith(b"MPF\0"):
            notes = ("the file holds more images after the first (gain map, preview); they are not judged",)
        elif code == _SOS:
            break
    else:
        raise Refusal("is a JPEG without an image in it, or cut short")
    stop = _end_of_scans(data, start)
    kept.append(data[start:stop])
    complete = bool(profile) and sorted(profile) == list(range(1, pieces + 1))
    if profile and not complete:
        notes += ("its colour profile is incomplete and was not applied",)
    if not notes:
        notes = end_notes(data, stop, marked=True)
    encoded = b"".join(kept)

    def frames() -> Iterator[PILImage]:
        image = JpegImageFile(io.BytesIO(encoded))
        image.load()
        yield image

    icc = b"".join(profile[piece] for piece in sorted(profile)) if complete else None
    plain = encoded if _is_plain(encoded) else None
    return Container("JPEG", size, frames, exif=exif, icc=icc, notes=notes, plain=plain)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker code, start of the segment, its end) up to and including the first start of scan."""
    position = 2
    while marker := _MARKER.search(data, position):
        code, start = marker[1][0], marker.start()
        if code == _EOI:
            return
        if code == _SOI:
            raise Refusal("is a damaged JPEG: it starts twice")
        position = marker.end()
        if code == _TEM or code in _RESTARTS:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        position += length
        if length < 2 or position > len(data):
            raise Refusal("is a damaged JPEG, or cut short: a segment of its header does not fit")
        yield code, start, position


def _end_of_scans(data: bytes, position: int) -> int:
    """Where the end marker of the image whose first scan starts at ``position`` ends."""
    scans = 0
    while marker := _SCAN_MARKER.search(data, position):
        code = marker[1][0]
        if code == _EOI:
            return marker.end()
        if code == _SOS:
            scans += 1
            if scans > _MAX_SCANS:
                raise Refusal(f"is a JPEG of more than {_MAX_SCANS} scans")
        position = marker.end()
        if code not in (_TEM, _SOI) and position + 2 <= len(data):
            position += struct.unpack_from(">H", data, position)[0]
    raise Refusal("is cut short: the image has no end")


def _is_plain(data: bytes) -> bool:
    """Whether a file made of nothing but its image's segments leaves decoders nothing to differ about.

    That is: baseline or extended, one scan of three components named 1, 2, 3 without restarts or anything
    else in it, in YCbCr whichever rule a decoder tells that by, and every table defined, once, in 8 bits.
    """
    frame = b""
    tables: list[tuple[int, int]] = []
    for code, start, end in _segments(data):
        body = data[start + 4 : end]
        if code in (_SOF0, _SOF1):
            frame = body
        elif code == _DQT:
            tables += [(_DQT, table) for table in body[::65]]
        elif code == _DHT:
            tables += [(_DHT, table) for table in _huffman(body)]
        elif code == _SOS:
            break
        elif code != _APP0 and not (code == _APP14 and body.startswith(b"Adobe") and body[11:12] == b"\1"):
            return False
    used = {(_DQT, table) for table in frame[8::3]}
    used |= {(_DHT, table) for pair in body[2:7:2] for table in (pair >> 4, 0x10 | pair & 15)}
    return (
        (len(frame), frame[:1], frame[5:6]) == (15, b"\x08", b"\x03")
        and frame[6::3] == b"\1\2\3"
        and frame[7::3] in _SAMPLINGS
        and (len(body), body[:1], body[1:7:2], body[7:]) == (10, b"\x03", b"\1\2\3", b"\0\x3f\0")
        and len(tables) == len(set(tables))
        and used <= set(tables)
        and (marker := _NOT_DATA.search(data, end)) is not None
        and marker.end() == len(data)
    )


def _huffman(body: bytes) -> Iterator[int]:
    """Class and number of each table in a DHT segment."""
    position = 0
    while position < len(body):
        yield body[position]
        position += 17 + sum(body[position + 1 : position + 17])
