"""Animations: every distinct frame is judged, as a viewer composites it."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import pytest
from PIL import Image as pil  # noqa: N813 (the module)
from PIL.Image import Image as PILImage

from images.support import (
    animation,
    chunk,
    colours,
    encode,
    exif,
    gif,
    gif_frame,
    join_png,
    plain,
    png_chunks,
)
from policyguard.errors import ImageError
from policyguard.images import MAX_FRAMES, Limits, decode

BLACK, RED, GREEN, WHITE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (255, 255, 255)
KINDS = ["GIF", "PNG", "WEBP"]


def shades(count: int, *, start: int = 0) -> list[PILImage]:
    return [plain((start + number, 60, 120)) for number in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_there_in_order(kind: str) -> None:
    image = decode(animation(shades(MAX_FRAMES), kind))
    assert len(image.frames) == image.frame_count == MAX_FRAMES
    assert not image.partial
    assert list(range(MAX_FRAMES)) == [frame.getpixel((3, 3))[0] for frame in image.frames]


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_other_frame_among_many_is_not_lost(kind: str) -> None:
    frames = [plain((9, 9, 9)) for _ in range(60)]
    frames[41] = plain((200, 10, 10))
    assert (200, 10, 10) in colours(animation(frames, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_frames_that_look_the_same_count_once(kind: str) -> None:
    image = decode(animation([*shades(3), *shades(3), *shades(3)] * 5, kind))
    assert image.frame_count == len(image.frames) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_more_distinct_frames_than_can_be_judged_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match=rf"more than {MAX_FRAMES} distinct frames.*\n.*frames: sample"):
        decode(animation(shades(MAX_FRAMES + 1), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_spread_evenly_from_the_first_frame_to_the_last(kind: str) -> None:
    image = decode(animation(shades(94), kind), frames="sample")
    assert image.partial
    assert image.frame_count == 94
    assert [frame.getpixel((3, 3))[0] for frame in image.frames] == list(range(0, 94, 3))


def test_a_short_animation_is_not_sampled() -> None:
    image = decode(animation(shades(5), "GIF"), frames="sample")
    assert not image.partial
    assert len(image.frames) == 5


def test_an_animation_that_repeats_is_sampled_over_its_distinct_frames() -> None:
    image = decode(animation(shades(40) * 2, "PNG"), frames="sample")
    assert (image.frame_count, len(image.frames)) == (40, MAX_FRAMES)


@pytest.mark.parametrize("kind", KINDS)
def test_transparent_frames_are_seen_on_white_and_on_black(kind: str) -> None:
    frames = [plain((255, 0, 0, 255), mode="RGBA"), plain((0, 255, 0, 0), mode="RGBA")]
    options = {"disposal": 2} if kind == "GIF" else {"disposal": 1, "blend": 0} if kind == "PNG" else {}
    hidden = [GREEN] if kind == "PNG" else []
    expected = [RED, WHITE, BLACK, *hidden]  # and then what they look like together
    assert colours(animation(frames, kind, **options))[: len(expected)] == expected


def test_a_gif_frame_that_covers_a_part_leaves_the_rest_of_the_one_before() -> None:
    first, second = decode(gif((9, 9), gif_frame((0, 0, 9, 9), 1), gif_frame((4, 4, 2, 2), 2))).frames
    assert (first.getpixel((4, 4)), second.getpixel((4, 4)), second.getpixel((0, 0))) == (RED, GREEN, RED)


def test_a_gif_frame_that_clears_itself_leaves_a_hole() -> None:
    """Browsers clear to transparent, whatever the background colour says."""
    frames = decode(gif((9, 9), gif_frame((0, 0, 9, 9), 1, disposal=2), gif_frame((4, 4, 2, 2), 2))).frames
    assert [frame.getpixel((0, 0)) for frame in frames[:3]] == [RED, WHITE, BLACK]


def test_a_gif_frame_that_restores_the_one_before_is_gone_afterwards() -> None:
    parts = [gif_frame((0, 0, 9, 9), 1), gif_frame((0, 0, 4, 4), 2, disposal=3), gif_frame((6, 6, 2, 2), 3)]
    last = decode(gif((9, 9), *parts)).frames[2]
    assert (last.getpixel((0, 0)), last.getpixel((6, 6))) == (RED, WHITE)


def test_a_gif_frame_without_disposal_keeps_its_pixels_though_an_earlier_one_cleared_its_own() -> None:
    """Pillow carries the earlier method over; browsers do not, and would show what Pillow hides."""
    parts = [
        gif_frame((0, 0, 9, 9), 3, disposal=2),
        gif_frame((0, 0, 4, 4), 1),
        gif_frame((6, 6, 2, 2), 2),
    ]
    assert RED in {frame.getpixel((0, 0)) for frame in decode(gif((9, 9), *parts)).frames[-2:]}


def test_black_shapes_on_the_uncovered_canvas_of_a_gif_can_be_seen() -> None:
    """Pillow paints the uncovered canvas in palette colour 0, here the colour of the shape."""
    on_white = decode(gif((9, 9), gif_frame((3, 3, 2, 2), 0))).frames[0]
    assert (on_white.getpixel((3, 3)), on_white.getpixel((0, 0))) == (BLACK, WHITE)


def test_black_shapes_on_the_uncovered_canvas_of_a_webp_can_be_seen() -> None:
    data = bytearray(animation([plain(BLACK, (40, 40)), plain(RED, (40, 40))], "WEBP"))
    data[24:30] = (79).to_bytes(3, "little") * 2  # the canvas grows, the frames stay
    on_white = decode(bytes(data)).frames[0]
    assert (on_white.size, on_white.getpixel((3, 3)), on_white.getpixel((60, 60))) == ((80, 80), BLACK, WHITE)


def test_faint_layers_of_an_apng_add_up_as_in_a_browser() -> None:
    """Pillow squares the opacity of what it draws on an empty canvas, and so shows too little."""
    clear, faint = plain((0, 0, 0, 0), mode="RGBA"), plain((0, 0, 0, 64), mode="RGBA")
    pixel = colours(animation([clear, faint], "PNG", blend=1))[2]
    assert pixel[0] == pytest.approx(255 - 64, abs=1)


def test_a_gif_frame_outside_the_picture_is_refused() -> None:
    with pytest.raises(ImageError, match="outside the image"):
        decode(gif((9, 9), gif_frame((0, 0, 9, 9), 1), gif_frame((6, 6, 9, 9), 2)))


def test_a_gif_without_colours_is_refused() -> None:
    with pytest.raises(ImageError, match="colour table"):
        decode(gif((9, 9), gif_frame((0, 0, 9, 9), 1), palette=b""))


def test_a_gif_cut_between_two_frames_says_that_it_may_be_incomplete() -> None:
    data = gif((9, 9), gif_frame((0, 0, 9, 9), 1))
    assert "no end marker" in decode(data[:-1]).notes[0]


@pytest.mark.parametrize("count", [1, 2, 4, 2**31])
def test_an_apng_that_lies_about_its_frames_is_refused(count: int) -> None:
    chunks = png_chunks(animation(shades(3), "PNG"))
    lying = [(k, chunk(k, struct.pack(">II", count, 0)) if k == b"acTL" else whole) for k, whole in chunks]
    with pytest.raises(ImageError, match="declares"):
        decode(join_png(lying))


def test_an_apng_with_a_frame_missing_or_out_of_order_is_refused() -> None:
    chunks = png_chunks(animation(shades(3), "PNG"))
    parts = [n for n, (kind, _) in enumerate(chunks) if kind == b"fdAT"]
    missing = [part for n, part in enumerate(chunks) if n != parts[0]]
    swapped = list(chunks)
    swapped[parts[0]], swapped[parts[1]] = chunks[parts[1]], chunks[parts[0]]
    for broken in (missing, swapped):
        with pytest.raises(ImageError, match="out of sequence"):
            decode(join_png(broken))


def test_an_apng_whose_animation_comes_after_the_picture_is_refused() -> None:
    chunks = png_chunks(animation(shades(3), "PNG"))
    control = next(part for part in chunks if part[0] == b"acTL")
    rest = [part for part in chunks if part[0] != b"acTL"]
    rest = [part for part in rest if part[0] not in (b"fcTL", b"fdAT")]
    at = next(n for n, part in enumerate(rest) if part[0] == b"IDAT")
    with pytest.raises(ImageError, match="acTL comes after the image"):
        decode(join_png([*rest[: at + 1], control, *rest[at + 1 :]]))


@pytest.mark.parametrize("kind", KINDS)
def test_an_animation_that_is_too_much_work_is_refused_before_it_is_decoded(kind: str) -> None:
    data = animation(shades(5), kind)
    with pytest.raises(ImageError, match="5 frames of 12 x 10"):
        decode(data, limits=replace(Limits(), max_work_pixels=599))
    with pytest.raises(ImageError, match="5 frames"):
        decode(data, limits=replace(Limits(), max_file_frames=4))
    decode(data, limits=replace(Limits(), max_work_pixels=600, max_file_frames=5))


def test_what_is_judged_has_a_bound_over_all_frames() -> None:
    data = animation(shades(40), "GIF")
    with pytest.raises(ImageError, match="over all frames"):
        decode(data, frames="sample", limits=replace(Limits(), max_total_pixels=MAX_FRAMES * 120 - 1))
    limits = replace(Limits(), max_total_pixels=MAX_FRAMES * 120)
    assert len(decode(data, frames="sample", limits=limits).frames) == MAX_FRAMES


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_pil_animation_is_refused_rather_than_judged_by_one_frame(kind: str) -> None:
    opened = pil.open(io.BytesIO(animation(shades(2), kind)))  # noqa: TID251
    with pytest.raises(ImageError, match=r"2 frames.*\n.*bytes"):
        decode(opened)
    assert colours(opened.copy()) == [(0, 60, 120)]


def split_over(picture: PILImage, ground: PILImage, count: int) -> list[PILImage]:
    """As many images as ``count``, each with every ``count``-th row of the picture and the ground between."""
    images = []
    for number in range(count):
        image = ground.copy()
        for top in range(number, picture.height, count):
            image.paste(picture.crop((0, top, picture.width, top + 1)), (0, top))
        images.append(image)
    return images


def mark() -> tuple[PILImage, PILImage]:
    """A red square on grey, and the grey alone."""
    ground = plain((120, 120, 120), (64, 64))
    picture = ground.copy()
    picture.paste(RED, (16, 16, 48, 48))
    return picture, ground


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 4, 16])
def test_an_image_that_only_the_eye_puts_together_is_judged(kind: str, count: int) -> None:
    picture, ground = mark()
    image = decode(animation(split_over(picture, ground, count), kind))
    assert image.frame_count == count
    inside = [frame.getpixel((32, y)) for frame in image.frames for y in (30, 31)]
    assert any(one[1] < 65 and other[1] < 65 for one, other in zip(inside[::2], inside[1::2], strict=True))
    if count > 2:  # of two frames, neither stands out
        assert picture.tobytes() in {frame.tobytes() for frame in image.frames}


def test_frames_that_are_looked_at_one_by_one_are_not_put_together() -> None:
    frames = split_over(*mark(), 4)
    slow = encode(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=500)
    assert len(decode(slow).frames) == 4


def test_of_whole_images_in_turn_the_average_is_judged_and_nothing_that_stands_out() -> None:
    frames = [plain((10 + 60 * n, 200 - 40 * n, 90), (40, 40)) for n in range(4)]
    image = decode(animation(frames, "PNG"))
    assert len(image.frames) == 5
    assert image.frames[-1].getpixel((9, 9)) == (100, 140, 90)


def test_an_apng_that_is_turned_is_refused_and_a_webp_is_judged_both_ways() -> None:
    """A browser gives the one another shape, and does not turn what is in it."""
    frames = [plain(RED, (20, 10)), plain(GREEN, (20, 10))]
    with pytest.raises(ImageError, match=r"an animation that its EXIF metadata turns.*\n.*-strip"):
        decode(animation(frames, "PNG", exif=exif(6)))
    assert len(decode(animation(frames, "PNG", exif=exif(1))).frames) >= 2
    shapes = {frame.size for frame in decode(animation(frames, "WEBP", exif=exif(6))).frames}
    assert shapes == {(20, 10), (10, 20)}


def redness(image: PILImage) -> float:
    """How red the middle of an image is on average, where ``mark`` has its square."""
    return image.crop((16, 16, 48, 48)).resize((1, 1), pil.Resampling.BOX).getpixel((0, 0))[0]


@pytest.mark.parametrize("flicker", [1, 2])
def test_a_flicker_of_all_that_nobody_sees_does_not_hide_what_frames_show_together(flicker: int) -> None:
    frames = [
        pil.eval(frame, lambda level, more=number % 2 * flicker: level + more)
        for number, frame in enumerate(split_over(*mark(), 4))
    ]
    image = decode(animation(frames, "PNG"))
    reds = [redness(frame) for frame in image.frames]
    assert max(reds[:4]) < 160 < 200 < max(reds[4:])


def test_what_is_shown_together_late_is_judged_as_well() -> None:
    """Many stretches of frames that look alike, and then one that shows more than its frames."""
    picture, ground = mark()
    still = [ground.copy() for _ in range(24)]
    for number, frame in enumerate(still):
        frame.putpixel((number, 63), (121, 120, 120))
    frames = [still[(number * step) % 24] for step in (1, 5, 7, 11, 13, 17, 19, 23) for number in range(24)]
    image = decode(animation(frames + split_over(picture, ground, 4) * 4, "PNG"))
    assert image.frame_count == 28
    reds = [redness(frame) for frame in image.frames]
    assert max(reds[:28]) < 160 < 200 < max(reds[28:])


def test_more_images_in_fast_frames_than_are_judged_are_refused() -> None:
    images = []
    for number in range(24):
        image = plain((120, 120, 120), (64, 64))
        left, top = number % 8 * 8, number // 8 * 8
        image.paste((0, 0, 0), (left, top, left + 8, top + 8))
        images.append(image)
    steps = (1, 5, 7, 11, 13, 17, 19, 23)
    first, *rest = [images[(number * step) % 24] for step in steps for number in range(24)]
    fast, slow = (
        encode(first, "PNG", save_all=True, append_images=rest, duration=delay) for delay in (100, 110)
    )
    with pytest.raises(ImageError, match=r"in so many orders.*\n.*more than 100 ms"):
        decode(fast)
    assert len(decode(slow).frames) == 24
