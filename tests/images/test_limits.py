"""What is refused: other formats, by name, and what is too large, before it is decoded."""

from __future__ import annotations

import re
import struct
import tracemalloc
from dataclasses import replace

import pytest

from images.support import animation, chunk, encode, gif, gif_frame, header, plain, reference, segment
from policyguard.errors import ImageError
from policyguard.images import Limits, decode

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
WRITTEN_BY_PILLOW = [
    ("TIFF", "TIFF"),
    ("BMP", "BMP"),
    ("ICO", "ICO"),
    ("PDF", "PDF"),
    ("EPS", "PostScript"),
    ("PPM", "PNM"),
    ("JPEG2000", "JPEG 2000"),
    ("ICNS", "ICNS"),
    ("DDS", "DDS"),
    ("TGA", "known kind"),
    ("PCX", "known kind"),
    ("SGI", "known kind"),
]
BY_FIRST_BYTES = [
    (HEIC, "HEIC"),
    (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
    (b"\0\0\0\x18ftypcrx \0\0\0\0", "raw"),
    (b"\0\0\0\x20ftypisom\0\0\2\0", "video"),
    (b"\x1aE\xdf\xa3\x01\0", "video"),
    (b"RIFF\x10\0\0\0AVI LIST", "video"),
    (b"\xff\x0a\xfa\x1f", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"8BPS\0\1", "Photoshop"),
    (b"gimp xcf v011", "GIMP"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    (b"\xef\xbb\xbf\n<?xml version='1.0'?>\n<!-- -->\n<svg/>", "SVG"),
    (b"<!DOCTYPE html><html>404</html>", "web page"),
    (b'{"error": "not found"}', "is text"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    (b"PK\x03\x04\x14\0", "ZIP"),
    (b"\x1f\x8b\x08\0", "gzip"),
    (b"\x93NUMPY\1\0", "NumPy"),
    (bytes(500), "nothing but zeros"),
    (b"\x7fELF\2\1\1\0", "known kind"),
    (b"\x89PNG\r\n", "known kind"),
    (b"\xff\xd8", "known kind"),
]


@pytest.mark.parametrize(("kind", "name"), WRITTEN_BY_PILLOW)
def test_another_format_is_refused_by_name_though_pillow_could_open_it(kind: str, name: str) -> None:
    data = encode(plain((1, 2, 3), (64, 64)), kind)
    with pytest.raises(ImageError, match=name) as caught:
        decode(data)
    assert re.search("PNG|-png|JPEG", str(caught.value.hint))


@pytest.mark.parametrize(("data", "name"), BY_FIRST_BYTES)
def test_a_kind_is_recognised_by_its_first_bytes(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=name) as caught:
        decode(data)
    assert caught.value.hint


def test_a_phone_picture_is_told_how_to_be_converted() -> None:
    with pytest.raises(ImageError, match=r"HEIC.*\n.*convert it to JPEG.*sips"):
        decode(HEIC)


def declared(kind: str, size: tuple[int, int]) -> bytes:
    """A file of a few hundred bytes that claims to be of ``size``."""
    if kind == "PNG":
        return b"\x89PNG\r\n\x1a\n" + header(size) + chunk(b"IDAT", b"\x78\x9c") + chunk(b"IEND", b"")
    if kind == "GIF":
        return gif(size, gif_frame((0, 0, 1, 1), 1))
    if kind == "JPEG":
        data = encode(plain((1, 2, 3)), "JPEG")
        at = data.index(b"\xff\xc0") + 5
        return data[:at] + struct.pack(">HH", size[1], size[0]) + data[at + 4 :]
    data = animation([plain((1, 2, 3)), plain((3, 2, 1))], "WEBP")
    sides = b"".join((side - 1).to_bytes(3, "little") for side in size)
    return data[:24] + sides + data[30:]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((16_385, 1), "a side may have 16384"),
        ((16_384, 16_384), "268,435,456 pixels"),
        ((8000, 6251), "50,008,000"),
    ],
)
def test_a_picture_too_large_is_refused_from_its_header(
    kind: str, size: tuple[int, int], message: str
) -> None:
    data = declared(kind, size)
    tracemalloc.start()
    with pytest.raises(ImageError, match=message):
        decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_a_picture_without_pixels_is_refused(kind: str) -> None:
    for size in ((0, 5), (5, 0)):
        with pytest.raises(ImageError, match=r"no pixels|outside the image"):
            decode(declared(kind, size))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG", "WEBP"])
def test_a_picture_of_one_pixel_is_judged(kind: str) -> None:
    assert decode(encode(plain((200, 30, 40), (1, 1)), kind)).size == (1, 1)


def test_the_largest_allowed_side_is_allowed() -> None:
    assert decode(encode(plain(7, (16_384, 1), "L"), "PNG")).size == (16_384, 1)
    assert decode(plain(7, (1, 16_384), "L")).size == (1, 16_384)


def test_pil_pictures_have_the_same_limits() -> None:
    with pytest.raises(ImageError, match="a side may have"):
        decode(plain(0, (16_385, 1), "1"))


def test_limits_are_inclusive_and_can_be_changed() -> None:
    data = encode(plain((1, 2, 3)), "PNG")
    exact = Limits(max_bytes=len(data), max_pixels=120, max_side=12, max_total_pixels=120)
    assert decode(data, limits=exact).size == (12, 10)
    for field, value in (
        ("max_bytes", len(data)),
        ("max_pixels", 120),
        ("max_side", 12),
        ("max_total_pixels", 120),
    ):
        with pytest.raises(ImageError, match=r"limit|side may"):
            decode(data, limits=replace(exact, **{field: value - 1}))


def test_both_backgrounds_count_towards_the_total() -> None:
    clear = encode(plain((1, 2, 3, 4), mode="RGBA"), "PNG")
    assert len(decode(clear, limits=Limits(max_total_pixels=240)).frames) == 2
    with pytest.raises(ImageError, match="backgrounds"):
        decode(clear, limits=Limits(max_total_pixels=239))


@pytest.mark.timeout(120)
def test_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encode(reference(), "JPEG", progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    scans = [
        segment(0xDA, bytes([1, colour, 0, at, at, 13])) + b"\0"
        for colour in (1, 2, 3)
        for at in range(1, 64)
    ]
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode(data[:second] + b"".join(scans) + data[second:])


def test_a_large_progressive_jpeg_of_as_many_scans_as_usual_is_judged() -> None:
    data = encode(reference().resize((6000, 4000)), "JPEG", progressive=True)
    assert data.count(b"\xff\xda") == 10
    assert decode(data).size == (6000, 4000)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "filler", [b"\xff", b"\0", b"\xff\0", b"\xff\xd0", b"\x01\x2c"], ids=["FF", "00", "FF00", "RST", "blocks"]
)
def test_megabytes_of_filler_are_passed_over_in_linear_time(filler: bytes) -> None:
    fill = filler * (2_000_000 // len(filler))
    jpeg = encode(reference(), "JPEG")
    at = jpeg.index(b"\xff\xda")
    for data in (
        jpeg[:2] + fill + jpeg[2:],
        jpeg[: at + 30] + fill + jpeg[-2:],
        gif((2, 2)) + fill,
        gif((2, 2))[:-1] + fill,
    ):
        try:
            decode(data)
        except ImageError:
            continue


def test_chunks_that_hold_nothing_are_bounded() -> None:
    """Each costs time in a reader, however little it holds."""
    data = encode(plain((1, 2, 3)), "PNG")
    for kind in (b"IDAT", b"tEXt"):
        with pytest.raises(ImageError, match="more than 50,000 pieces"):
            decode(data[:33] + chunk(kind, b"") * 60_000 + data[33:])
    jpeg = encode(plain((1, 2, 3)), "JPEG")
    scan = jpeg.index(b"\xff\xda") + 20
    for part in (segment(0xE5, b""), b"\xff\1"):
        for at in (2, scan):
            with pytest.raises(ImageError, match="more than 10,000 segments"):
                decode(jpeg[:at] + part * 12_000 + jpeg[at:])
    long = chunk(b"eXIf", b"\1\x12\0\3\0\0\0\1" * 600_000)
    with pytest.raises(ImageError, match=r"has 4\.6 MiB of EXIF metadata.*\n.*-strip"):
        decode(data[:33] + long + data[33:])
    with pytest.raises(ImageError, match="tiny pieces"):
        decode(gif((9, 9), gif_frame((0, 0, 9, 9), 1))[:-2] + b"\1\0" * 200_000 + b"\0;")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_a_small_animation_of_large_frames_is_refused_from_its_header(kind: str) -> None:
    with pytest.raises(ImageError, match="an animation of 7000 x 7000; a frame may have 9,000,000 pixels"):
        decode(
            gif((7000, 7000), *[gif_frame((0, 0, 1, 1), 1)] * 2)
            if kind == "GIF"
            else declared("WEBP", (7000, 7000))
        )


def test_a_png_of_more_samples_than_fit_into_memory_is_refused_from_its_header() -> None:
    data = declared("PNG", (7000, 7000))
    deep = data[:8] + header((7000, 7000), 16, 6) + data[33:]
    with pytest.raises(ImageError, match="in this form the limit is 38,750,000"):
        decode(deep)
