"""Pictures, and the many ways in which one can be written down."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from PIL import Image as pil  # noqa: N813 (the module)
from PIL import ImageCms, ImageDraw, ImageFilter
from PIL.Image import Image as PILImage

from policyguard.images import decode

SIZE = (80, 56)


@cache
def reference() -> PILImage:
    """Soft colours with shapes on them, different in every corner; no pixel is white or black."""
    width, height = SIZE
    x, y = np.meshgrid(np.linspace(30, 220, width), np.linspace(30, 220, height))
    picture = pil.fromarray(np.stack([x, y, 250 - (x + y) / 2], axis=-1).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((8, 6, 30, 28), fill=(200, 40, 40))
    draw.rectangle((44, 30, 70, 48), fill=(40, 60, 180))
    draw.polygon([(50, 4), (74, 10), (60, 24)], fill=(220, 210, 60))
    return picture.filter(ImageFilter.GaussianBlur(1.5))  # kind to chroma subsampling


def encode(picture: PILImage, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(pictures: Iterable[PILImage], kind: str, **options: Any) -> bytes:
    first, *rest = pictures
    extra = {"lossless": True} if kind == "WEBP" else {}
    return encode(first, kind, save_all=True, append_images=rest, duration=50, **extra, **options)


def plain(colour: Any, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> PILImage:
    return pil.new(mode, size, colour)


def psnr(one: PILImage, other: PILImage) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    assert one.size == other.size
    gap = np.asarray(one.convert("RGB"), float) - np.asarray(other.convert("RGB"), float)
    error = float((gap**2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def colours(data: Any, **options: Any) -> list[tuple[int, int, int]]:
    """The colour of the middle of every picture that comes out."""
    return [middle(picture) for picture in decode(data, **options).frames]


def middle(picture: PILImage) -> Any:
    return picture.getpixel((picture.width // 2, picture.height // 2))


# --- PNG, chunk by chunk -----------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + zlib.crc32(kind + body).to_bytes(4)


def header(size: tuple[int, int], depth: int = 8, colour_type: int = 2) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0))


def png(size: tuple[int, int], rows: bytes, *extra: bytes, depth: int = 8, colour_type: int = 2) -> bytes:
    """A PNG file of unfiltered ``rows`` (packed samples); ``extra`` goes before the data."""
    stride = len(rows) // size[1]
    filtered = b"".join(b"\0" + rows[n : n + stride] for n in range(0, len(rows), stride))
    data = chunk(b"IDAT", zlib.compress(filtered))
    return (
        b"\x89PNG\r\n\x1a\n" + header(size, depth, colour_type) + b"".join(extra) + data + chunk(b"IEND", b"")
    )


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, whole chunk) of every chunk in a PNG file."""
    found, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        found.append((kind, data[position : position + 12 + length]))
        position += 12 + length
    return found


def join_png(chunks: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole for _, whole in chunks)


def sixteen_bit_rgb(picture: PILImage) -> bytes:
    rows = np.asarray(picture, np.uint16) * 257
    return png(picture.size, rows.astype(">u2").tobytes(), depth=16)


# --- GIF, block by block -----------------------------------------------------------------------------


def gif_frame(
    box: tuple[int, int, int, int], index: int, *, disposal: int = 0, transparent: int | None = None
) -> bytes:
    """A frame at (left, top, width, height), all of one palette index below 4."""
    left, top, width, height = box
    flags = disposal << 2 | (transparent is not None)
    control = bytes([0x21, 0xF9, 4, flags, 5, 0, transparent or 0, 0])
    codes = [4, *[index, 4] * (width * height - 1), index, 5]
    bits = "".join(f"{code:03b}"[::-1] for code in codes)  # a clear code before each pixel: codes stay 3 bits
    packed = bytes(int(bits[n : n + 8][::-1], 2) for n in range(0, len(bits), 8))
    blocks = b"".join(
        bytes([len(packed[n : n + 255])]) + packed[n : n + 255] for n in range(0, len(packed), 255)
    )
    return control + struct.pack("<BHHHHB", 0x2C, left, top, width, height, 0) + b"\x02" + blocks + b"\0"


def gif(
    size: tuple[int, int], *frames: bytes, palette: bytes = bytes(3) + b"\xff\0\0\0\xff\0\xff\xff\xff"
) -> bytes:
    """Palette: black, red, green, white."""
    flags = 0x80 | 1 if palette else 0
    return b"GIF89a" + struct.pack("<HHBBB", *size, flags, 0, 0) + palette + b"".join(frames) + b";"


# --- JPEG, EXIF, ICC ---------------------------------------------------------------------------------


def segment(code: int, body: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def exif(orientation: int, *, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block that says which way is up, without the Exif prefix of JPEG."""
    value = struct.pack(
        order + ("HH" if kind == 3 else "I"), *([orientation, 0] if kind == 3 else [orientation])
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHI", 8, 1, 0x0112, kind, 1) + value + bytes(4)


def ycck(picture: PILImage) -> bytes:
    """A YCCK JPEG, as image editors write it: luma and chroma of the inks, inverted, marked by Adobe."""
    stored = pil.eval(picture, lambda level: 255 - level).convert("YCbCr")
    planes = [pil.eval(plane, lambda level: 255 - level) for plane in stored.split()]
    data = encode(
        pil.merge("CMYK", [*planes, plain(0, picture.size, "L")]), "JPEG", quality=97, subsampling=0
    )
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    return data[:at] + b"\x02" + data[at + 1 :]


@cache
def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def matrix_profile(order: tuple[int, int, int] = (0, 1, 2), gamma: float = 2.2) -> bytes:
    """An ICC profile with sRGB's primaries in another order, and a plain gamma curve."""
    primaries = [(0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    tags = [(b"wtpt", b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249))]
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    for name, primary in zip((b"r", b"g", b"b"), order, strict=True):
        tags += [(name + b"XYZ", b"XYZ \0\0\0\0" + fixed(*primaries[primary])), (name + b"TRC", curve)]
    body, table = b"", struct.pack(">I", len(tags))
    for name, data in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s", 132 + len(table) - 4 + len(body), b"\0" * 4, 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + table + body
