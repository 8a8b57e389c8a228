"""What is passed on in an image's place: what was judged, in a file that every viewer shows alike."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as pil  # noqa: N813 (the module)
from PIL import PngImagePlugin
from PIL.Image import Image as PILImage

from images.support import (
    animation,
    chunk,
    encode,
    exif,
    join_png,
    matrix_profile,
    png_chunks,
    psnr,
    reference,
    sixteen_bit_rgb,
    srgb_profile,
    ycck,
)
from policyguard import Guard, Verdict
from policyguard.images import decode
from policyguard.images.written import plain_file
from policyguard.testing import FakeBackend
from support.guards import policy


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "made at home")
    return info


def soft() -> PILImage:
    """A picture that gets more transparent from left to right."""
    clear = reference().convert("RGBA")
    row = np.linspace(255, 0, clear.width).astype(np.uint8)
    clear.putalpha(pil.fromarray(np.tile(row, (clear.height, 1))))
    return clear


def faint() -> PILImage:
    """A shape with soft edges, and nothing where it is clear."""
    clear = pil.new("RGBA", (80, 56))
    clear.paste(reference().crop((8, 8, 48, 40)), (20, 10))
    row = np.full((56, 80), 0, np.uint8)
    row[11:41, 21:59], row[10:42, 20:60][[0, -1]] = 255, 128
    clear.putalpha(pil.fromarray(row))
    return clear


def cut_out() -> PILImage:
    """A picture half of which is cut away, and shows something else where transparency is not read."""
    clear = soft()
    clear.putalpha(clear.getchannel("A").point(lambda level: 255 * (level > 127)))
    return clear


def still(kind: str, **options: Any) -> bytes:
    return encode(reference(), kind, **options)


LOSSLESS: dict[str, Callable[[], bytes]] = {
    "png with a comment": lambda: still("PNG", pnginfo=text()),
    "png, turned": lambda: still("PNG", exif=exif(6)),
    "png, palette": lambda: encode(reference().quantize(200), "PNG"),
    "png, grey": lambda: encode(reference().convert("L"), "PNG"),
    "png, 16 bits": lambda: sixteen_bit_rgb(reference()),
    "png with a profile": lambda: still("PNG", icc_profile=matrix_profile((2, 0, 1))),
    "gif": lambda: encode(reference().quantize(64), "GIF"),
    "webp, lossless": lambda: still("WEBP", lossless=True),
}
LOSSY: dict[str, Callable[[], bytes]] = {
    "jpeg, turned": lambda: still("JPEG", exif=b"Exif\0\0" + exif(6), quality=90),
    "jpeg, progressive": lambda: still("JPEG", progressive=True, quality=90),
    "jpeg, grey": lambda: encode(reference().convert("L"), "JPEG", quality=90),
    "jpeg, four inks": lambda: ycck(reference()),
    "jpeg with a profile": lambda: still("JPEG", icc_profile=matrix_profile((2, 0, 1)), quality=90),
    "webp": lambda: still("WEBP", quality=85, exif=exif(3)),
}
TRANSPARENT = {"soft": soft, "cut out": cut_out}


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_was_lossless_becomes_a_png_of_the_same_pixels(name: str) -> None:
    image = decode(LOSSLESS[name]())
    written = plain_file(image)
    assert written is not None
    assert {b"IHDR", b"IDAT", b"IEND"} == {kind for kind, _ in png_chunks(written)}
    assert image.frames[0].tobytes() == decode(written).frames[0].tobytes()
    assert decode(written).is_plain


@pytest.mark.parametrize("name", LOSSY)
def test_what_was_lossy_becomes_a_jpeg_that_looks_the_same(name: str) -> None:
    image = decode(LOSSY[name]())
    written = plain_file(image)
    assert written is not None
    again = decode(written)
    assert ("JPEG", image.size, True) == (again.format, again.size, again.is_plain)
    assert psnr(image.frames[0], again.frames[0]) > 36


def test_a_jpeg_that_is_plain_but_for_its_metadata_is_not_encoded_again() -> None:
    bare = still("JPEG", quality=90)
    camera = still("JPEG", quality=90, exif=b"Exif\0\0" + exif(1), comment=b"x" * 900)
    assert (bare, bare) == (plain_file(decode(bare)), plain_file(decode(camera)))
    trailing = bare + b"something else"
    assert bare == plain_file(decode(trailing))
    assert [True, True, False] == [decode(data).is_plain for data in (bare, camera, trailing)]


PLAIN: dict[str, Callable[[], bytes]] = {
    "png": lambda: still("PNG"),
    "png with a comment": lambda: still("PNG", pnginfo=text()),
    "png, palette": lambda: encode(reference().quantize(200), "PNG"),
    "png, grey": lambda: encode(reference().convert("L"), "PNG"),
    "png, soft": lambda: encode(faint(), "PNG"),
    "png with sRGB's profile": lambda: still("PNG", icc_profile=srgb_profile()),
    "jpeg": lambda: still("JPEG", quality=90),
    "jpeg, progressive": lambda: still("JPEG", progressive=True),
    "jpeg, upright": lambda: still("JPEG", exif=b"Exif\0\0" + exif(1)),
    "gif": lambda: encode(reference().quantize(64), "GIF"),
    "webp": lambda: still("WEBP"),
}
DOUBTFUL: dict[str, Callable[[], bytes]] = {
    "png, turned": lambda: still("PNG", exif=exif(6)),
    "png, 16 bits": lambda: sixteen_bit_rgb(reference()),
    "png with a profile that shows": lambda: still("PNG", icc_profile=matrix_profile((2, 0, 1))),
    "png that hides colours": lambda: encode(cut_out(), "PNG"),
    "jpeg, turned": lambda: still("JPEG", exif=b"Exif\0\0" + exif(6)),
    "jpeg, four inks": lambda: ycck(reference()),
    "gif with something after it": lambda: encode(reference().quantize(64), "GIF") + b"abc",
    "webp, turned": lambda: still("WEBP", exif=exif(3)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_all_readers_show_alike_is_plain(name: str) -> None:
    assert decode(PLAIN[name]()).is_plain


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_readers_may_show_otherwise_is_not_and_what_is_passed_on_is(name: str) -> None:
    image = decode(DOUBTFUL[name]())
    assert not image.is_plain
    written = plain_file(image)
    assert written is not None
    again = decode(written)
    assert again.is_plain
    assert psnr(image.frames[0], again.frames[0]) > 36


def test_pixels_without_a_file_are_no_plain_file() -> None:
    assert not decode(reference()).is_plain


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_stays(name: str, kind: str) -> None:
    clear = TRANSPARENT[name]()
    image = decode(encode(clear, kind, lossless=True, icc_profile=matrix_profile(gamma=2.4)))
    written = plain_file(image)
    assert written is not None
    assert {b"IHDR", b"IDAT", b"IEND"} == {kind for kind, _ in png_chunks(written)}
    with pil.open(io.BytesIO(written)) as opened:  # noqa: TID251 (looks at what came out)
        passed = opened.convert("RGBA")
        assert ("PNG", "RGBA") == (opened.format, opened.mode)
    assert clear.getchannel("A").tobytes() == passed.getchannel("A").tobytes()
    again = decode(written)
    for one, other in zip(image.frames[:2], again.frames[:2], strict=True):
        assert one.tobytes() == other.tobytes()  # on white, on black
    assert written == plain_file(again)


def test_an_image_with_parts_cut_out_is_judged_alike_before_and_after() -> None:
    image = decode(encode(cut_out(), "PNG"))
    again = decode(plain_file(image))
    on_both = [frame.tobytes() for frame in image.frames[:2]]
    assert on_both == [frame.tobytes() for frame in again.frames]  # and nothing is left beneath


def test_what_hides_beneath_full_transparency_is_not_passed_on() -> None:
    hidden = reference().convert("RGBA")
    hidden.putalpha(0)
    written = plain_file(decode(encode(hidden, "PNG")))
    assert {(255, 255, 255)} == {colour for _, colour in decode(written).frames[0].getcolors()}  # type: ignore[misc, union-attr]


def test_pixels_without_a_file_become_a_png() -> None:
    written = plain_file(decode(reference()))
    assert written is not None
    assert reference().tobytes() == decode(written).frames[0].tobytes()


def test_a_file_that_would_be_too_large_to_send_as_png_becomes_a_jpeg() -> None:
    """Noise in colours: 4.5 MB as PNG, whatever it was before."""
    noise = pil.frombytes("RGB", (1250, 1200), os.urandom(1250 * 1200 * 3))
    assert b"\xff\xd8" == (plain_file(decode(noise)) or b"")[:2]
    chunks = png_chunks(encode(noise, "PNG", compress_level=1))
    large = join_png([*chunks[:1], (b"gAMA", chunk(b"gAMA", (20_000).to_bytes(4))), *chunks[1:]])
    png = plain_file(decode(large))  # not larger than it was, so it need not lose anything
    assert png is not None
    assert (b"\x89PNG", True) == (png[:4], len(png) <= len(large))


def test_a_large_jpeg_that_is_turned_stays_small_enough_to_send() -> None:
    noise = pil.frombytes("RGB", (3000, 2000), os.urandom(3000 * 2000 * 3))
    camera = encode(noise, "JPEG", quality=60, exif=b"Exif\0\0" + exif(6))
    written = plain_file(decode(camera))
    assert written is not None
    assert ("JPEG", (2000, 3000)) == (decode(written).format, decode(written).size)
    assert len(written) <= max(3_750_000, len(camera))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_has_no_such_file(kind: str) -> None:
    moving = animation([reference(), reference().rotate(180)], kind)
    assert plain_file(decode(moving)) is None
    same = animation([reference(), reference()], kind)
    assert plain_file(decode(same)) is not None  # it shows one picture only


# --- On the verdict ----------------------------------------------------------------------------------


def turned(path: Path) -> bytes:
    path.write_bytes(still("JPEG", exif=b"Exif\0\0" + exif(6)))
    return plain_file(decode(path)) or b""


async def _alone(guard: Guard, image: Any) -> Verdict:
    return await guard.acheck(image, normalise=True)


async def _many(guard: Guard, image: Any) -> Verdict:
    (verdict,) = [verdict async for verdict in guard.acheck_many([image], normalise=True)]
    return verdict


async def _completed(guard: Guard, image: Any) -> Verdict:
    ((_, verdict),) = [pair async for pair in guard.acheck_as_completed([image], normalise=True)]
    return verdict


WAYS: dict[str, Callable[[Guard, Any], Verdict]] = {
    "check": lambda guard, image: guard.check(image, normalise=True),
    "check_many": lambda guard, image: next(guard.check_many([image], normalise=True)),
    "acheck": lambda guard, image: asyncio.run(_alone(guard, image)),
    "acheck_many": lambda guard, image: asyncio.run(_many(guard, image)),
    "acheck_as_completed": lambda guard, image: asyncio.run(_completed(guard, image)),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_check_hands_back_what_it_judged(way: str, tmp_path: Path) -> None:
    expected = turned(tmp_path / "a.jpg")
    guard = Guard(policy(), backend=FakeBackend().enqueue(0.1, 0.9))
    verdict = WAYS[way](guard, tmp_path / "a.jpg")
    assert (True, expected) == (verdict.allowed, verdict.normalised)
    assert "normalised" not in json.dumps(verdict.to_dict())
    blocked = WAYS[way](guard, tmp_path / "a.jpg")
    assert (False, None) == (blocked.allowed, blocked.normalised)


def test_nothing_is_handed_back_unasked_nor_for_what_was_not_judged() -> None:
    guard = Guard(policy(outcomes={"unscannable": "allow"}), backend=FakeBackend())
    assert guard.check(still("PNG")).normalised is None
    verdict = guard.check(b"no image", normalise=True)
    assert (True, True, None) == (verdict.allowed, verdict.degraded, verdict.normalised)


def test_scores_from_the_cache_are_as_good(tmp_path: Path) -> None:
    expected = turned(tmp_path / "a.jpg")
    backend = FakeBackend()
    guard = Guard(policy(), backend=backend, cache="memory")
    verdicts = [guard.check(tmp_path / "a.jpg", normalise=True) for _ in range(2)]
    assert [(False, expected), (True, expected)] == [(each.cached, each.normalised) for each in verdicts]
