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
    gif,
    gif_frame,
    join_png,
    matrix_profile,
    png_chunks,
    psnr,
    reference,
    sixteen_bit_rgb,
    srgb_profile,
    ycck,
)
from policyguard import Guard, Outcome, Verdict
from policyguard.errors import ImageError
from policyguard.images import MAX_FRAMES, decode
from policyguard.images.decode import parse
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


def frames(count: int) -> list[PILImage]:
    """Images of a mark that moves on, so that each is another one."""
    result = []
    for number in range(count):
        image = reference().copy()
        image.paste((200, 40, 40), (number, 4, number + 20, 24))
        result.append(image)
    return result


def clear_frames() -> list[PILImage]:
    return [soft(), faint(), cut_out()]


BOX = (4, 4, 20, 20)
GIF_PARTS = (gif_frame((0, 0, 40, 40), 1), gif_frame(BOX, 2), gif_frame((10, 10, 20, 20), 3))
MOVING: dict[str, Callable[[], bytes]] = {
    "gif": lambda: animation(frames(5), "GIF"),
    "apng": lambda: animation(frames(5), "PNG"),
    "webp": lambda: animation(frames(5), "WEBP"),
    "apng, transparent": lambda: animation([faint(), faint().rotate(180)], "PNG"),
    "webp, transparent": lambda: animation([faint(), faint().rotate(180)], "WEBP"),
    "gif of parts": lambda: gif((40, 40), *GIF_PARTS),
}
DOUBTFUL_MOVING: dict[str, Callable[[], bytes]] = {
    "gif with something after it": lambda: animation(frames(5), "GIF") + b"abc",
    "apng with a profile": lambda: animation(frames(3), "PNG", icc_profile=matrix_profile((2, 0, 1))),
    "apng that hides colours": lambda: animation(clear_frames(), "PNG"),
    "apng, still apart": lambda: animation(frames(3), "PNG", default_image=True),
    "apng, laid over": lambda: animation([faint(), faint().rotate(180)], "PNG", blend=1),
    "webp, turned": lambda: animation(frames(3), "WEBP", exif=exif(3)),
    "webp with something after it": lambda: animation(clear_frames(), "WEBP") + b"abc",
    "gif, cleared": lambda: gif((40, 40), gif_frame((0, 0, 40, 40), 1, disposal=2), *GIF_PARTS[1:]),
    "gif, restored": lambda: gif((40, 40), GIF_PARTS[0], gif_frame(BOX, 2, disposal=3), GIF_PARTS[2]),
    "gif, not covered": lambda: gif((40, 40), *GIF_PARTS[1:]),
}


@pytest.mark.parametrize("name", MOVING)
def test_an_animation_that_all_readers_show_alike_is_plain(name: str) -> None:
    assert decode(MOVING[name]()).is_plain


@pytest.mark.parametrize("name", DOUBTFUL_MOVING)
def test_another_animation_is_not(name: str) -> None:
    assert not decode(DOUBTFUL_MOVING[name]()).is_plain


@pytest.mark.parametrize("name", {**MOVING, **DOUBTFUL_MOVING})
def test_an_animation_becomes_one_of_the_frames_that_were_judged(name: str) -> None:
    image = decode({**MOVING, **DOUBTFUL_MOVING}[name]())
    written = plain_file(image)
    again = decode(written)
    assert ("PNG", image.size, image.frame_count) == (again.format, again.size, again.frame_count)
    assert again.is_plain or plain_file(again) == written
    assert {b"IHDR", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"} >= {kind for kind, _ in png_chunks(written)}
    if again.is_plain:  # else what is half clear shows more without its transparency, but nothing hidden
        assert {frame.tobytes() for frame in again.frames} <= {frame.tobytes() for frame in image.frames}
    assert image.frames[0].tobytes() == again.frames[0].tobytes()


def test_an_animation_judged_by_a_sample_becomes_one_of_that_sample() -> None:
    moving = animation(frames(45), "GIF")
    image = decode(moving, frames="sample")
    assert (image.partial, image.is_plain, image.frame_count) == (True, False, 45)
    again = decode(plain_file(image))
    assert [frame.tobytes() for frame in image.frames] == [frame.tobytes() for frame in again.frames]
    delays = [parse(data).delays for data in (moving, plain_file(image))]
    assert (len(delays[1]), sum(delays[1])) == (MAX_FRAMES, sum(delays[0]))
    guard = Guard(policy(defaults={"frames": "sample"}), backend=FakeBackend())
    assert guard.check(moving, normalise="unless plain").normalised == plain_file(image)


def test_fast_frames_of_a_sample_are_judged_together_as_they_are_passed_on() -> None:
    """Rows of a mark over every other frame, and the ground alone between them."""
    ground = pil.new("RGB", (64, 64), (120, 120, 120))
    shown = []
    for number in range(63):
        image = ground.copy()
        image.putpixel((number, 0), (121, 120, 120))  # so that each is another one
        if number % 4 == 0:
            for top in range(16 + number % 8 // 4, 48, 2):
                image.paste((220, 20, 20), (16, top, 48, top + 1))
        shown.append(image)
    image = decode(animation(shown, "PNG"), frames="sample")
    again = decode(plain_file(image))
    assert len(again.frames) > MAX_FRAMES  # together they show more than each of them does
    judged = {frame.tobytes() for frame in image.frames}
    assert all(frame.tobytes() in judged for frame in again.frames)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_an_animation_of_one_image_becomes_a_still(kind: str) -> None:
    written = plain_file(decode(animation([reference(), reference()], kind)))
    assert b"acTL" not in {kind for kind, _ in png_chunks(written)}


def noisy() -> bytes:
    """An animation that takes more as a PNG than can be sent."""
    images = [pil.frombytes("RGB", (640, 480), os.urandom(640 * 480 * 3)) for _ in range(6)]
    first, *rest = images
    moving = encode(first, "WEBP", save_all=True, append_images=rest, duration=200, quality=1)
    return moving + b"something else"


def test_an_animation_too_large_to_be_written_anew_is_not_passed_on() -> None:
    with pytest.raises(ImageError, match=r"MiB as a PNG of the frames that were judged.*\n.*make it smaller"):
        plain_file(decode(noisy()))
    for normalise in (True, "unless plain"):
        verdict = Guard(policy(), backend=FakeBackend()).check(noisy(), normalise=normalise)
        assert (verdict.outcome, verdict.allowed, verdict.normalised) == (Outcome.UNSCANNABLE, False, None)
        assert "as a PNG of the frames" in (verdict.reason or "")
    lenient = Guard(policy(outcomes={"unscannable": "allow"}), backend=FakeBackend())
    verdict = lenient.check(noisy(), normalise=True)
    assert (verdict.allowed, verdict.degraded, verdict.normalised) == (True, True, None)


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
