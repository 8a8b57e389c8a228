"""JPEG: finds where the image ends, and hands Pillow only the segments that make pixels.

Covered: colour profiles in pieces and in any order, orientation and density, files that hold more images
after the first (phones store gain maps and depth so; a viewer shows the first), scan bombs. Rare kinds
(arithmetic, lossless, hierarchical) and files whose scans do not hold the whole image, once, are refused.
Files that other decoders would show otherwise are not sent on as they are (restart markers out of order,
components under other names).
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

from policyguard.images.colour import Colours
from policyguard.images.container import Container, end_notes
from policyguard.images.exif import check_density, turns
from policyguard.images.refusal import Refusal, damaged

__all__ = ["parse"]

_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_RESTARTS = range(0xD0, 0xD8)
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOF0, _SOF1, _SOF2, _DHT, _DQT, _DNL = 0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDC
_TABLES = frozenset({_DHT, 0xCC, _DQT, 0xDD})
_APP0, _APP1, _APP2, _APP14 = 0xE0, 0xE1, 0xE2, 0xEE
#: The next marker within compressed data: stuffed zeros and restart markers belong to the data.
_SCAN_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_NOT_DATA = re.compile(rb"\xff[^\0]")
#: Luma at full size, and chroma at full size, half the width, or half of both.
_SAMPLINGS = (b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")
#: Real progressive files have about ten scans; each costs a pass over the image however few bytes it holds.
_MAX_SCANS, _USUAL_SCANS, _MAX_SCANNED = 100, 16, 1_000_000_000
_FEWER_SCANS = "save it again, for example `jpegtran -copy all in.jpg > out.jpg`"
_MAX_SEGMENTS = 10_000
_MANY_SEGMENTS = f"is a JPEG of more than {_MAX_SEGMENTS:,} segments"
#: Colours of inks take twice the time of others.
_MAX_INK = 40_000_000


def parse(data: bytes) -> Container:
    """Read the segments of a JPEG file; no pixel is decoded."""
    kept, size = [b"\xff\xd8"], (0, 0)
    blocks: list[bytes] = []
    profile: dict[int, bytes] = {}
    pieces: set[int] = set()
    notes: tuple[str, ...] = ()
    header, adobe = b"", False
    for code, start, end in _segments(data):
        body = data[start + 4 : end]
        if code in _FRAME_HEADERS:
            if header:
                raise Refusal("is a damaged JPEG: it declares its size twice")
            header = _checked_header(code, body)
            height, width = struct.unpack_from(">HH", body, 1)
            size = (width, height)
            kept.append(data[start:end])
        elif code in _TABLES or code == _APP14 or (code == _APP0 and body.startswith(b"JFIF")):
            adobe |= code == _APP14 and body.startswith(b"Adobe")
            kept.append(data[start:end])
        elif code == _APP1 and body.startswith(b"Exif\0"):
            blocks.append(body)
        elif code == _APP2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            if body[12] in profile:
                raise Refusal("has two colour profiles, or a part of one twice; viewers disagree on it")
            profile[body[12]] = body[14:]
            pieces.add(body[13])
        elif code == _APP2 and body.startswith(b"MPF\0"):
            notes = ("the file holds more images after the first (gain map, preview); they are not judged",)
        elif code == _SOS:
            break
    else:
        raise Refusal("is a JPEG without an image in it, or cut short")
    if not header:
        raise Refusal("is a damaged JPEG: its image comes before its header")
    if header[5] == 4 and not adobe:
        raise Refusal(
            "is a JPEG in CMYK that does not say whether its inks are inverted; viewers disagree on it"
        )
    if profile and (sorted(profile) != list(range(1, len(profile) + 1)) or pieces != {len(profile)}):
        raise Refusal("has an incomplete colour profile; viewers disagree on it")
    check_density(blocks, size)
    stop = _end_of_scans(data, start, header, progressive=_is_progressive(kept), pixels=size[0] * size[1])
    kept.append(data[start:stop])
    if not notes:
        notes = end_notes(data, stop, marked=True)
    encoded = b"".join(kept)

    def frames() -> Iterator[PILImage]:
        with damaged("is a damaged JPEG: its tables or its compressed data make no sense"):
            image = JpegImageFile(io.BytesIO(encoded))
            image.load()
        yield image

    return Container(
        "JPEG",
        size,
        frames,
        turns=turns(blocks),
        colours=Colours(b"".join(profile[piece] for piece in sorted(profile)) or None),
        notes=notes,
        plain=encoded if _is_plain(encoded) else None,
        most_pixels=_MAX_INK if header[5] == 4 else None,
    )


def _checked_header(code: int, body: bytes) -> bytes:
    """A frame header (SOFn) of the kinds that all viewers open, with 1, 3 or 4 components."""
    if code not in (_SOF0, _SOF1, _SOF2):
        raise Refusal(
            "is a JPEG of a rare kind (arithmetic, lossless or hierarchical); browsers do not show it"
        )
    if len(body) < 6 or body[0] != 8 or body[5] not in (1, 3, 4) or len(body) != 6 + 3 * body[5]:
        raise Refusal("is a JPEG with more than 8 bits a sample, or of a strange number of colours")
    if len(set(body[6::3])) != body[5]:
        raise Refusal("is a damaged JPEG: two of its colours have one name")
    return body


def _is_progressive(kept: list[bytes]) -> bool:
    return any(part[:2] == bytes([0xFF, _SOF2]) for part in kept)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker code, start of the segment, its end) up to and including the first start of scan."""
    position, count = 2, 0
    while marker := _MARKER.search(data, position):
        code, start = marker[1][0], marker.start()
        count += 1
        if count > _MAX_SEGMENTS:
            raise Refusal(_MANY_SEGMENTS)
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


def _end_of_scans(data: bytes, position: int, header: bytes, *, progressive: bool, pixels: int) -> int:
    """Where the end marker of the image whose first scan starts at ``position`` ends.

    Refuses scans that do not hold every coefficient of every colour to the last bit, each bit once.
    """
    scans = count = 0
    # For each component and coefficient, how many low bits are still missing; -1 before its first scan.
    missing = {name: [-1] * 64 for name in header[6::3]}
    while marker := _SCAN_MARKER.search(data, position):
        code = marker[1][0]
        count += 1
        if count > _MAX_SEGMENTS:
            raise Refusal(_MANY_SEGMENTS)
        if code == _EOI:
            if any(bits for levels in missing.values() for bits in levels):
                raise Refusal("is a JPEG whose scans hold only a part of the image, or cut short")
            return marker.end()
        if code in _FRAME_HEADERS or code in (_SOI, _DNL):
            raise Refusal("is a damaged JPEG: it starts twice, or changes its size on the way")
        position = marker.end()
        if code == _SOS:
            scans += 1
            if scans > _MAX_SCANS or (scans * pixels > _MAX_SCANNED and scans > _USUAL_SCANS):
                most = max(_USUAL_SCANS, min(_MAX_SCANS, _MAX_SCANNED // pixels))
                raise Refusal(f"is a JPEG of more than {most} scans", hint=_FEWER_SCANS)
            (length,) = struct.unpack_from(">H", data, position)
            _note_scan(data[position + 2 : position + length], missing, progressive=progressive)
        if code != _TEM and position + 2 <= len(data):
            position += struct.unpack_from(">H", data, position)[0]
    raise Refusal("is cut short: the image has no end")


def _note_scan(body: bytes, missing: dict[int, list[int]], *, progressive: bool) -> None:
    """Take note of what one scan holds (ITU-T T.81, sections B.2.3 and G.1.1.1)."""
    count = body[0] if body else 0
    if not 1 <= count <= 4 or len(body) != 4 + 2 * count:
        raise Refusal("is a damaged JPEG: a scan makes no sense")
    first, last, bits = body[-3:]
    before, after = bits >> 4, bits & 15
    if not progressive:
        first, last, before, after = 0, 63, 0, 0
    names = body[1 : 1 + 2 * count : 2]
    if len(set(names)) < count or not first <= last <= 63 or (progressive and (first == 0) != (last == 0)):
        raise Refusal("is a damaged JPEG: a scan makes no sense")
    for name in names:
        levels = missing.get(name)
        if levels is None or (first > 0 and (count > 1 or levels[0] < 0)):
            raise Refusal("is a damaged JPEG: a scan is for a colour that is not there yet")
        for coefficient in range(first, last + 1):
            if levels[coefficient] != (before or -1) or (before and after != before - 1):
                raise Refusal("is a JPEG whose scans paint over each other; viewers disagree on it")
            levels[coefficient] = after


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
