"""WebP: walks the chunks, then lets libwebp decode and composite.

Covered: stills and animations; transparency that the header denies is refused, and an animation's uncovered
canvas counts as transparent, as browsers show it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL.Image import Image as PILImage
from PIL.WebPImagePlugin import WebPImageFile

from policyguard.images.container import Container, end_notes
from policyguard.images.refusal import Refusal

__all__ = ["parse"]

_ANIMATED, _ALPHA = 0x02, 0x10
_FLAGS_AT = 20
_FRAME_HEADER = 16
_VP8L_SIGNATURE = 0x2F


def parse(data: bytes) -> Container:
    """Read the chunks of a WebP file; no pixel is decoded."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise Refusal("is cut short")
    encoded = data[:end]
    chunks = list(_chunks(encoded, 12))
    kind, first = chunks[0]
    size, animated = _size(kind, first), False
    extra: dict[bytes, bytes] = {}
    images = [chunk for chunk in chunks if chunk[0] in (b"VP8 ", b"VP8L")]
    moving = [body for name, body in chunks if name == b"ANMF"]
    if kind == b"VP8X":
        animated = bool(first[0] & _ANIMATED)
        if animated != bool(moving) or (moving and images):
            raise Refusal("is a damaged WebP: its header and its frames do not agree")
        if not first[0] & _ALPHA and _has_alpha(chunks, moving):
            raise Refusal("is a WebP with transparency that its header denies; viewers disagree on it")
        extra = {name: body for name, body in reversed(chunks) if name in (b"EXIF", b"ICCP")}
    if not (moving or images):
        raise Refusal("is a WebP without an image in it")
    if animated:
        encoded = encoded[:_FLAGS_AT] + bytes([first[0] | _ALPHA]) + encoded[_FLAGS_AT + 1 :]
    count = len(moving) or 1

    def frames() -> Iterator[PILImage]:
        image = WebPImageFile(io.BytesIO(encoded))
        if image.size != size or image.n_frames != count:
            raise Refusal("is a damaged WebP: its header and its frames do not agree")
        for number in range(count):
            image.seek(number)
            image.load()
            yield image

    return Container(
        "WEBP",
        size,
        frames,
        count,
        extra.get(b"EXIF"),
        extra.get(b"ICCP"),
        notes=end_notes(data, end, marked=True),
    )


def _chunks(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        stop = position + 8 + length
        if stop > len(data):
            raise Refusal("is cut short")
        yield kind, data[position + 8 : stop]
        position = stop + (length & 1)


def _size(kind: bytes, body: bytes) -> tuple[int, int]:
    """(width, height) as the first chunk declares them."""
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L" and body[0] == _VP8L_SIGNATURE:
        bits = struct.unpack_from("<I", body, 1)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    raise Refusal("is a damaged WebP: no image where it should start")


def _has_alpha(chunks: list[tuple[bytes, bytes]], moving: list[bytes]) -> bool:
    """Whether any image in the file carries transparency of its own."""
    inner = [chunk for body in moving for chunk in _chunks(body, _FRAME_HEADER)]
    return any(
        kind == b"ALPH" or (kind == b"VP8L" and struct.unpack_from("<I", body, 1)[0] >> 28 & 1)
        for kind, body in (*chunks, *inner)
    )
