"""WebP: walks the chunks, then lets libwebp decode and composite.

Covered: stills and animations; transparency or a profile that the header denies is refused, and the uncovered
canvas of an animation counts as transparent, as browsers show it.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from PIL.Image import Image as PILImage
from PIL.WebPImagePlugin import WebPImageFile

from policyguard.images.colour import Colours
from policyguard.images.container import Container, end_notes
from policyguard.images.exif import check_density, turns
from policyguard.images.refusal import Refusal, damaged
from policyguard.images.render import is_opaque, opaque

__all__ = ["parse"]

_ANIMATED, _ALPHA, _PROFILE = 0x02, 0x10, 0x20
#: libwebp takes three times the memory that the pixels need.
_MAX_PIXELS = 36_000_000
#: In the fifth byte of a lossless image: its transparency is used.
_USED = 0x10
_FLAGS_AT = 20
_FRAME_HEADER = 16
_VP8L_SIGNATURE = 0x2F
_DAMAGED = "is a damaged WebP: the compressed data of an image in it makes no sense, or ends too early"


def parse(data: bytes) -> Container:
    """Read the chunks of a WebP file; no pixel is decoded."""
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise Refusal("is cut short")
    encoded = data[:end]
    chunks = list(_chunks(encoded, 12))
    kind, first = chunks[0]
    size, animated = _size(kind, first), False
    images = [body for name, body in chunks if name in (b"VP8 ", b"VP8L")]
    moving = [body for name, body in chunks if name == b"ANMF"]
    extra = {name: [body for other, body in chunks if other == name] for name in (b"EXIF", b"ICCP")}
    if kind == b"VP8X":
        animated = bool(first[0] & _ANIMATED)
        if animated != bool(moving) or (moving and images):
            raise Refusal("is a damaged WebP: its header and its frames do not agree")
        if len(extra[b"ICCP"]) != bool(first[0] & _PROFILE):
            raise Refusal(
                "is a WebP whose header denies its colour profile, or has two; viewers disagree on it"
            )
        if not first[0] & _ALPHA and _has_alpha(chunks, moving):
            raise Refusal("is a WebP with transparency that its header denies; viewers disagree on it")
    if len(images) + bool(moving) != 1:
        raise Refusal("is a WebP without an image in it, or with two")
    if animated:
        encoded = encoded[:_FLAGS_AT] + bytes([first[0] | _ALPHA]) + encoded[_FLAGS_AT + 1 :]
    denying = [body for body in (*images, *_inner(moving)) if body[:1] == b"\x2f" and not body[4] & _USED]
    delays = tuple(int.from_bytes(body[12:15], "little") for body in moving) or (0,)

    def frames() -> Iterator[PILImage]:
        for body in denying:
            alone = _alone(body)
            if not is_opaque(alone):
                raise Refusal("is a WebP with transparency that its header denies; viewers disagree on it")
            if not animated and alone.size == size:
                yield opaque(alone)
                return
        with damaged(_DAMAGED):
            image = WebPImageFile(io.BytesIO(encoded))
        if image.size != size or image.n_frames != len(delays):
            raise Refusal("is a damaged WebP: its header and its frames do not agree")
        for number in range(len(delays)):
            with damaged(_DAMAGED):
                image.seek(number)
                image.load()
            if animated:
                yield image
        if not animated:
            still = image.copy()
            del image  # and with it the decoder, which holds the image twice more
            yield still

    blocks = extra[b"EXIF"]
    check_density(blocks, size)
    return Container(
        "WEBP",
        size,
        frames,
        delays,
        tuple(sorted(turns(blocks, agreed=False))),  # browsers rather show it as it is stored
        Colours(extra[b"ICCP"][0] if kind == b"VP8X" and extra[b"ICCP"] else None),
        end_notes(data, end, marked=True),
        most_pixels=_MAX_PIXELS,
        # Without its flag for transparency, libwebp paints what is not covered.
        unusual=animated and not first[0] & _ALPHA and _uncovers(moving, size),
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


def _inner(moving: list[bytes]) -> Iterator[bytes]:
    """The lossless images in the frames of an animation."""
    for body in moving:
        yield from (part for kind, part in _chunks(body, _FRAME_HEADER) if kind == b"VP8L")


def _uncovers(moving: list[bytes], size: tuple[int, int]) -> bool:
    """Whether the frames of an animation leave a part of it uncovered."""
    covered = tuple(1 + int.from_bytes(moving[0][at : at + 3], "little") for at in (6, 9))
    return covered != size or any(body[15] & 1 for body in moving[:-1])


def _alone(body: bytes) -> PILImage:
    """A lossless image whose header says that its transparency is not used, with that transparency."""
    used = body[:4] + bytes([body[4] | _USED]) + body[5:]
    chunk = b"VP8L" + struct.pack("<I", len(used)) + used + bytes(len(used) & 1)
    with damaged(_DAMAGED):
        return WebPImageFile(io.BytesIO(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)).copy()


def _has_alpha(chunks: list[tuple[bytes, bytes]], moving: list[bytes]) -> bool:
    """Whether any image in the file carries transparency of its own."""
    inner = [chunk for body in moving for chunk in _chunks(body, _FRAME_HEADER)]
    return any(
        kind == b"ALPH" or (kind == b"VP8L" and struct.unpack_from("<I", body, 1)[0] >> 28 & 1)
        for kind, body in (*chunks, *inner)
    )
