"""Damaged and malicious files: an ``ImageError`` or a picture, and nothing else."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image as pil  # noqa: N813 (the module)
from PIL import ImageCms, ImageFile
from PIL.Image import Image as PILImage

from images.crafted import KINDS
from images.fuzz import CORPUS, holds
from images.support import (
    animation,
    chunk,
    encode,
    exif,
    gif,
    gif_frame,
    join_png,
    matrix_profile,
    plain,
    png_chunks,
    reference,
    segment,
    sixteen_bit_rgb,
    ycck,
)
from policyguard.errors import ConfigurationError, ImageError
from policyguard.images import Image, decode
from policyguard.images.refusal import boundary
from support.work import calls, most_bytes

SMALL = (24, 18)


def seeds() -> dict[str, bytes]:
    """One small file for every path through the decoders."""
    picture = reference().resize(SMALL)
    clear = picture.convert("RGBA")
    clear.putalpha(picture.convert("L"))
    moving = [picture, picture.rotate(180), plain((9, 8, 7), SMALL)]
    return {
        "png": encode(picture, "PNG"),
        "png with profile and orientation": encode(
            picture, "PNG", icc_profile=matrix_profile(gamma=9.0), exif=exif(6)
        ),
        "png, rgba": encode(clear, "PNG"),
        "png, palette": encode(picture.quantize(30), "PNG", transparency=b"\0\x80\xff"),
        "png, 1 bit": encode(picture.convert("1"), "PNG"),
        "png, 16 bits": sixteen_bit_rgb(picture),
        "png, 16-bit grey": encode(pil.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257), "PNG"),
        "apng": animation([*moving, clear], "PNG"),
        "jpeg": encode(picture, "JPEG", exif=b"Exif\0\0" + exif(8)),
        "jpeg, progressive": encode(picture, "JPEG", progressive=True, icc_profile=matrix_profile()),
        "jpeg, grey": encode(picture.convert("L"), "JPEG", restart_marker_blocks=1),
        "jpeg, ycck": ycck(picture),
        "gif": encode(picture.quantize(64), "GIF"),
        "gif, animated": animation([frame.quantize(32) for frame in moving], "GIF", disposal=2),
        "gif, parts": gif(
            (20, 20), *(gif_frame((n, n, 9, 9), n, disposal=n, transparent=n) for n in range(4))
        ),
        "webp": encode(picture, "WEBP"),
        "webp, rgba": encode(clear, "WEBP", exif=exif(6), icc_profile=matrix_profile()),
        "webp, lossless": encode(picture, "WEBP", lossless=True),
        "webp, animated": animation(moving, "WEBP"),
    }


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Flip, overwrite, cut, double or splice a few bytes."""
    result = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(result))
        match chance.randrange(8):
            case 0 | 1:
                result[at] ^= 1 << chance.randrange(8)
            case 2 | 3:
                result[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            case 4:
                result[at : at + 4] = chance.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1")
                )
            case 5:
                del result[at : at + chance.choice((1, 4, 40))]
            case 6:
                result[at:at] = result[at : at + chance.choice((1, 8, 60))]
            case _:
                end = chance.randrange(len(result))
                result[end : end + 12] = result[at : at + 12]
        if len(result) < 12:
            break
    return bytes(result)


def fix_checksums(data: bytes) -> bytes:
    """A PNG whose damage is not given away by its checksums."""
    try:
        chunks = [(kind, chunk(kind, whole[8:-4])) for kind, whole in png_chunks(data)]
    except Exception:
        return data
    return join_png(chunks)


def check_reason(error: ImageError) -> None:
    """A refusal names what is wrong with the file in our own words, and a way out."""
    assert error.hint
    assert "cannot be decoded" not in error.message  # what is said of what nobody thought of
    cause: BaseException | None = error
    while cause := cause.__cause__:
        assert str(cause) not in error.message or not str(cause)


def attack(rounds: int, seed: int) -> tuple[int, int]:
    """(decoded, refused) of ``rounds`` mutated files; everything else fails."""
    chance = random.Random(seed)
    files = list(seeds().items())
    decoded = 0
    for number in range(rounds):
        name, data = files[number % len(files)]
        hostile = mutate(data, chance)
        if "png" in name and chance.random() < 0.7:
            hostile = fix_checksums(hostile)
        images: list[Image] = []

        def attempt(data: bytes = hostile, images: list[Image] = images) -> None:
            try:
                images.append(decode(data, frames="sample"))
            except ImageError as error:
                check_reason(error)

        try:
            work = calls(attempt)
        except BaseException as error:
            pytest.fail(f"round {number} ({name}): {error!r} for {hostile.hex()}")
        assert work < 20_000, f"round {number} ({name}) was too much work: {hostile.hex()}"
        for image in images:
            assert isinstance(image, Image)
            assert image.frames
            assert all(frame.mode == "RGB" for frame in image.frames)
        decoded += len(images)
    return decoded, rounds - decoded


@pytest.mark.filterwarnings("ignore")  # what Pillow warns of must not matter
def test_20_000_mutated_files_give_a_picture_or_an_image_error() -> None:
    decoded, refused = attack(20_000, seed=1)
    assert min(decoded, refused) > 2_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_100_000_mutated_files_give_a_picture_or_an_image_error() -> None:
    attack(100_000, seed=2)


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name[:12])
@pytest.mark.filterwarnings("error")
def test_what_fuzzing_found_keeps_the_promises(path: Path) -> None:
    holds(path.read_bytes())


def test_every_seed_is_a_good_file() -> None:
    for name, data in seeds().items():
        assert all("judged " in note for note in decode(data).notes), name


@pytest.mark.parametrize("name", seeds())
def test_a_truncated_file_is_never_judged_by_what_is_left(name: str) -> None:
    """Only the end marker itself may be missing (a GIF's is one byte, a PNG's twelve), and that is noted."""
    data = seeds()[name]
    whole = [frame.tobytes() for frame in decode(data).frames]
    for length in range(len(data)):
        try:
            image = decode(data[:length])
        except ImageError as error:
            check_reason(error)
            continue
        assert "no end marker" in image.notes[0]
        if "gif" in name:  # a GIF does not say how many frames it has
            frames = image.frames[: image.frame_count]  # and then what they look like together
            assert whole[: len(frames)] == [frame.tobytes() for frame in frames]
        else:
            assert length >= len(data) - 12
            assert whole == [frame.tobytes() for frame in image.frames]


def test_nothing_is_decoded_while_pillow_is_told_to_accept_truncated_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for source in (encode(reference(), "PNG"), reference()):
        with pytest.raises(ConfigurationError, match=r"LOAD_TRUNCATED_IMAGES.*\n.*set it to False"):
            decode(source)


@pytest.mark.parametrize("kind", [b"PLTE", b"tRNS", b"IHDR", b"gAMA", b"iCCP"])
def test_a_png_with_a_chunk_twice_is_refused(kind: bytes) -> None:
    data = encode(reference(), "PNG")
    twice = chunk(kind, data[16:29] if kind == b"IHDR" else bytes(4 if kind == b"gAMA" else 6))
    with pytest.raises(ImageError, match=f"two {kind.decode()}"):
        decode(data[:33] + twice * 2 + data[33:])


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(encode(reference(), "PNG"))
    data[-20] ^= 1
    with pytest.raises(ImageError, match="wrong checksum in IDAT"):
        decode(bytes(data))


def test_a_compressed_text_bomb_is_never_unpacked() -> None:
    data = encode(reference(), "PNG")
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000)))
    hostile = data[:33] + bomb * 20 + data[33:]
    assert len(decode(hostile).frames) == 1
    assert most_bytes(lambda: decode(hostile)) < 1_000_000
    assert calls(lambda: decode(hostile)) < calls(lambda: decode(data)) + 20 * 10


def test_a_profile_bomb_is_refused_and_not_unpacked() -> None:
    data = encode(reference(), "PNG")
    bomb = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(40_000_000)))
    hostile = data[:33] + bomb + data[33:]

    def attempt() -> None:
        with pytest.raises(ImageError, match="damaged colour profile"):
            decode(hostile)

    assert most_bytes(attempt) < 10_000_000


def test_a_jpeg_with_two_sizes_is_refused() -> None:
    data = encode(reference(), "JPEG")
    second = segment(0xC0, b"\x08\x00\x10\x00\x10\x03\x01\x22\0\x02\x11\1\x03\x11\1")
    with pytest.raises(ImageError, match="size twice"):
        decode(data[:2] + second + data[2:])


def test_a_jpeg_whose_first_picture_is_followed_by_more_is_judged_by_the_first_and_says_so() -> None:
    first, second = encode(plain((200, 0, 0), (32, 32)), "JPEG"), encode(plain((0, 0, 200), (32, 32)), "JPEG")
    index = segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\0")
    image = decode(first[:2] + index + first[2:] + second)
    assert len(image.frames) == 1
    assert image.frames[0].getpixel((9, 9))[0] > 190
    assert "more images" in image.notes[0]


def test_a_phone_picture_that_pil_opened_as_several_is_judged_by_the_first() -> None:
    data = encode(
        plain((200, 0, 0), (32, 32)), "MPO", save_all=True, append_images=[plain((0, 0, 200), (32, 32))]
    )
    opened = pil.open(io.BytesIO(data))  # noqa: TID251
    assert opened.format == "MPO"
    for source in (opened, data):
        image = decode(source)
        assert len(image.frames) == 1
        assert image.frames[0].getpixel((9, 9))[0] > 190
        assert "more images" in image.notes[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_what_follows_the_end_of_a_picture_is_noted(kind: str) -> None:
    data = encode(reference(), kind)
    image = decode(data + b"<script>")
    assert image.notes == ("8 bytes after the end of the image were not looked at",)
    assert image.frames[0].tobytes() == decode(data).frames[0].tobytes()
    assert decode(data + bytes(64)).notes == ()


class Treacherous(PILImage):
    """Stands for whatever Pillow may raise on load."""

    error: type[BaseException] = ValueError

    def load(self) -> None:
        raise self.error


def exceptions_of(module: object) -> list[type[Exception]]:
    return [
        value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Exception)
    ]


FOREIGN = [
    *dict.fromkeys(error for module in (PIL, pil, ImageFile, ImageCms) for error in exceptions_of(module)),
    *(MemoryError, RecursionError, OSError, SyntaxError, IndexError, EOFError, StopIteration, UserWarning),
]


@pytest.mark.parametrize("error", FOREIGN, ids=lambda error: error.__name__)
def test_every_exception_of_pillow_becomes_an_image_error(error: type[Exception]) -> None:
    picture = Treacherous()
    picture.error = error  # type: ignore[misc]
    picture._mode, picture._size = "RGB", (4, 4)
    with pytest.raises(ImageError, match="<PIL image>: ") as caught:
        decode(picture)
    assert caught.value.hint


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_not_an_image_error(error: type[BaseException]) -> None:
    with pytest.raises(error), boundary("x"):
        raise error


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_a_frame_among_many_is_as_much_work_as_one_among_few(kind: str) -> None:
    """Thousands of tiny frames, which cost work per frame and not per pixel."""
    options = {} if kind == "GIF" else {"icc_profile": matrix_profile(gamma=1.8)}
    for count in (100, 1500):
        data = animation([plain((n % 7 * 30, 0, 0), (4, 4)) for n in range(count)], kind, **options)
        assert calls(lambda data=data: decode(data, frames="sample")) < 800 * count


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_with_a_crafted_file_is_told_in_our_own_words(kind: str) -> None:
    reasons = set()
    for _, data in KINDS[kind]():
        try:
            decode(data)
        except ImageError as error:
            check_reason(error)
            reasons.add(error.message)
    assert reasons


@pytest.mark.parametrize(
    "error",
    [
        AssertionError(),
        struct.error("unpack_from requires a buffer"),
        IndexError("index out of range"),
        OSError("broken data stream when reading image file"),
    ],
)
def test_a_slip_of_the_decoder_over_damaged_data_is_not_told_as_a_reason(error: Exception) -> None:
    with (
        pytest.raises(ImageError, match=r"^x: cannot be decoded: its parts do not fit together"),
        boundary("x"),
    ):
        raise error
