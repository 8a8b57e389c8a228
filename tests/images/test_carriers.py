"""One picture in many carriers: whatever it travels in, the same picture is judged."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil  # noqa: N813 (the module)
from PIL.Image import Image as PILImage
from PIL.Image import Transpose

from images.support import (
    SIZE,
    animation,
    chunk,
    encode,
    exif,
    matrix_profile,
    plain,
    psnr,
    reference,
    sixteen_bit_rgb,
    srgb_profile,
    ycck,
)
from policyguard.images import decode

EXACT, LOSSY = 40.0, 30.0


def grey() -> PILImage:
    return reference().convert("L")


def opaque(mode: str) -> PILImage:
    return reference().convert(mode)


def framed(picture: PILImage) -> list[PILImage]:
    return [plain((9, 9, 9), SIZE), picture, plain((99, 9, 9), SIZE)]


def sixteen_bit_grey() -> PILImage:
    return pil.fromarray(np.asarray(grey(), np.uint16) * 257)


def swapped() -> PILImage:
    red, green, blue = reference().split()
    return pil.merge("RGB", (green, blue, red))


def with_text(data: bytes) -> bytes:
    return data[:33] + chunk(b"tEXt", b"prompt\0" + b"a" * 3_000_000) + data[33:]


LOSSLESS: dict[str, Callable[[], Any]] = {
    "PNG": lambda: encode(reference(), "PNG"),
    "PNG, 16 bits per sample": lambda: sixteen_bit_rgb(reference()),
    "PNG with megabytes of text": lambda: with_text(encode(reference(), "PNG")),
    "PNG with an opaque alpha channel": lambda: encode(opaque("RGBA"), "PNG"),
    "PNG, mislabelled and upside down in EXIF": lambda: encode(
        reference().transpose(Transpose.ROTATE_180), "PNG", exif=exif(3)
    ),
    "PNG with an sRGB profile": lambda: encode(reference(), "PNG", icc_profile=srgb_profile()),
    "PNG with channels swapped and a profile that swaps them back": lambda: encode(
        swapped(), "PNG", icc_profile=matrix_profile((1, 2, 0))
    ),
    "PNG in memory, as a bytearray": lambda: bytearray(encode(reference(), "PNG")),
    "PNG in memory, as a memoryview": lambda: memoryview(encode(reference(), "PNG")),
    "PNG in a file object": lambda: io.BytesIO(encode(reference(), "PNG")),
    "PNG in a data URI": lambda: (
        "data:image/png;base64," + base64.b64encode(encode(reference(), "PNG")).decode()
    ),
    "PNG followed by something else": lambda: encode(reference(), "PNG") + b"PK\x03\x04 more",
    "WebP, lossless": lambda: encode(reference(), "WEBP", lossless=True),
    "WebP, lossless, opaque alpha": lambda: encode(opaque("RGBA"), "WEBP", lossless=True),
    "WebP, second frame": lambda: animation(framed(reference()), "WEBP"),
    "APNG, second frame": lambda: animation(framed(reference()), "PNG"),
    "APNG, shown only where animations play": lambda: animation(
        [plain((9, 9, 9), SIZE), *framed(reference())], "PNG", default_image=True
    ),
    "array": lambda: np.asarray(reference()),
    "array, not contiguous": lambda: np.asarray(reference())[..., ::-1][..., ::-1],
    "array with alpha": lambda: np.asarray(opaque("RGBA")),
    "PIL picture": reference,
    "PIL picture, RGBA": lambda: opaque("RGBA"),
    "PIL picture, RGBX": lambda: opaque("RGBX"),
    "PIL picture, premultiplied": lambda: opaque("RGBA").convert("RGBa"),
    "PIL picture, HSV": lambda: opaque("HSV"),
    "PIL picture, YCbCr": lambda: opaque("YCbCr"),
    "PIL picture, CMYK": lambda: opaque("CMYK"),
    "PIL picture, opened from a file": lambda: pil.open(io.BytesIO(encode(reference(), "PNG"))),  # noqa: TID251
}
PALETTE: dict[str, Callable[[], Any]] = {
    "PNG, palette": lambda: encode(reference().quantize(200), "PNG"),
    "PNG, palette with one unused transparent colour": lambda: encode(
        reference().quantize(200), "PNG", transparency=255
    ),
    "GIF": lambda: encode(reference().quantize(200), "GIF"),
    "GIF, not interlaced": lambda: encode(reference().quantize(200), "GIF", interlace=0),
    "GIF, second frame": lambda: animation([p.quantize(200) for p in framed(reference())], "GIF"),
    "PIL picture, palette": lambda: reference().quantize(200),
    "PIL picture, palette with alpha": lambda: reference().quantize(200).convert("PA"),
}
LOSSY_ONES: dict[str, Callable[[], Any]] = {
    "JPEG": lambda: encode(reference(), "JPEG", quality=92),
    "JPEG, progressive": lambda: encode(reference(), "JPEG", quality=92, progressive=True),
    "JPEG, CMYK": lambda: encode(opaque("CMYK"), "JPEG", quality=92),
    "JPEG, YCCK": lambda: ycck(reference()),
    "JPEG with a profile": lambda: encode(reference(), "JPEG", quality=92, icc_profile=srgb_profile()),
    "WebP": lambda: encode(reference(), "WEBP", quality=92),
}
GREYS: dict[str, Callable[[], Any]] = {
    "PNG, grey": lambda: encode(grey(), "PNG"),
    "PNG, grey, 16 bits": lambda: encode(sixteen_bit_grey(), "PNG"),
    "PNG, grey with opaque alpha": lambda: encode(grey().convert("LA"), "PNG"),
    "PIL picture, I;16": sixteen_bit_grey,
    "PIL picture, I;16B": lambda: pil.frombytes(
        "I;16B", SIZE, (np.asarray(grey(), np.uint16) * 257).astype(">u2").tobytes()
    ),
    "PIL picture, I up to 255": lambda: grey().convert("I"),
    "PIL picture, I up to 65535": lambda: pil.fromarray(np.asarray(grey(), np.int32) * 257),
    "PIL picture, F up to 255": lambda: grey().convert("F"),
    "PIL picture, F up to 1": lambda: pil.fromarray(np.asarray(grey(), np.float32) / 255),
    "PIL picture, La": lambda: grey().convert("LA").convert("La"),
    "array, grey": lambda: np.asarray(grey()),
}


def best(source: Any, wanted: PILImage) -> float:
    return max(psnr(wanted, picture) for picture in decode(source).frames if picture.size == wanted.size)


@pytest.mark.parametrize("carrier", LOSSLESS.values(), ids=LOSSLESS.keys())
def test_a_lossless_carrier_shows_the_picture_itself(carrier: Callable[[], Any]) -> None:
    assert best(carrier(), reference()) >= EXACT


@pytest.mark.parametrize("carrier", PALETTE.values(), ids=PALETTE.keys())
def test_a_palette_carrier_shows_the_palette_picture(carrier: Callable[[], Any]) -> None:
    assert best(carrier(), reference().quantize(200).convert("RGB")) >= EXACT


@pytest.mark.parametrize("carrier", LOSSY_ONES.values(), ids=LOSSY_ONES.keys())
def test_a_lossy_carrier_shows_nearly_the_picture(carrier: Callable[[], Any]) -> None:
    assert best(carrier(), reference()) >= LOSSY


@pytest.mark.parametrize("carrier", GREYS.values(), ids=GREYS.keys())
def test_a_grey_carrier_shows_the_grey_picture(carrier: Callable[[], Any]) -> None:
    assert best(carrier(), grey()) >= EXACT


@pytest.mark.parametrize("carrier", [encode(grey().convert("1"), "PNG"), grey().convert("1")])
def test_a_black_and_white_carrier_shows_black_and_white(carrier: Any) -> None:
    assert best(carrier, grey().convert("1")) >= EXACT


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind: str, orientation: int) -> None:
    undo = [
        None,
        Transpose.FLIP_LEFT_RIGHT,
        Transpose.ROTATE_180,
        Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE,
        Transpose.ROTATE_90,
        Transpose.TRANSVERSE,
        Transpose.ROTATE_270,
    ][orientation - 1]
    stored = reference().transpose(undo) if undo is not None else reference()
    block = exif(orientation, order="<>"[orientation % 2])
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    data = encode(stored, kind, exif=(b"Exif\0\0" if kind != "WEBP" else b"") + block, **options)
    image = decode(data)
    assert max(psnr(reference(), frame) for frame in image.frames if frame.size == SIZE) >= LOSSY
    assert len(image.frames) == (1 if kind == "JPEG" or orientation == 1 else 2)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_where_viewers_disagree_on_honouring_the_orientation_both_are_judged(kind: str) -> None:
    """Chromium turns a PNG by its EXIF and no WebP; Firefox turns neither; image libraries turn all."""
    image = decode(encode(reference(), kind, exif=exif(6)))
    assert {frame.size for frame in image.frames} == {SIZE, SIZE[::-1]}
    assert "which way is up" in image.notes[0]


@pytest.mark.parametrize(
    "block",
    [
        exif(6, kind=4),
        exif(6)[:14] + b"\0\0\0\0" + exif(6)[18:],  # a count of 0
        exif(6)[:8] + b"\2\0" + exif(1)[10:22] + exif(6)[10:],  # an entry twice
        b"II*\0" + exif(6)[4:8] + exif(6)[8:] + exif(3)[8:],  # another directory behind
    ],
    ids=["LONG", "count 0", "twice", "elsewhere"],
)
def test_an_orientation_that_readers_take_in_different_ways_is_judged_in_each(block: bytes) -> None:
    image = decode(encode(reference(), "JPEG", exif=b"Exif\0\0" + block, quality=95))
    assert len(image.frames) >= 2
    assert SIZE[::-1] in {frame.size for frame in image.frames}
    assert SIZE in {frame.size for frame in image.frames}


@pytest.mark.parametrize("block", [exif(0), exif(9), exif(6)[:12], b"nonsense"])
def test_an_orientation_that_makes_no_sense_leaves_the_picture_as_it_is(block: bytes) -> None:
    assert decode(encode(reference(), "PNG", exif=block)).size == SIZE


def test_a_pil_picture_opened_from_a_phone_picture_is_turned_too() -> None:
    stored = reference().transpose(Transpose.ROTATE_90)
    opened = pil.open(io.BytesIO(encode(stored, "JPEG", exif=b"Exif\0\0" + exif(6), quality=95)))  # noqa: TID251
    assert psnr(reference(), decode(opened).frames[0]) >= LOSSY


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(encode(reference(), "GIF"))
    assert decode(path).format == "GIF"
    assert decode(str(path)).sha256 == decode(path.read_bytes()).sha256
