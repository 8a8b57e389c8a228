"""What travels as the picture: exactly the judged pixels, at the size that the model looks at."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from PIL import Image

from backends.remote.server import ToyServer
from backends.remote.support import backend, policy
from images.support import chunk
from policyguard import Guard
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.registry import resolve_model
from policyguard.backends.remote.frame_encoding import Grid, data_uri, grid_for
from policyguard.errors import ImageError
from policyguard.images import decode

USUAL = policy().resolve()


def noise(size: tuple[int, int] = (60, 40)) -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise(size, 90) for _ in range(3)])


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def sent(data: bytes, grid: Grid | None = None) -> tuple[str, bytes, AssessmentRequest]:
    """Media type and bytes of what goes out for an image file, and the request it is made from."""
    image = decode(data)
    request = AssessmentRequest(image.frames[0], USUAL, encoded=image.plain)
    head, body = data_uri(request, grid or grid_for("safeguard", "m")).decode().split(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(body), request


def pixels(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")  # noqa: TID251 (as a server opens it)


PLAIN = {
    "png": encoded(noise(), "PNG"),
    "jpeg": encoded(noise(), "JPEG", quality=90),
    "jpeg without subsampling": encoded(noise(), "JPEG", subsampling=0),
    "jpeg of half the colours": encoded(noise(), "JPEG", subsampling=1, optimize=True),
    "jpeg with metadata": encoded(
        noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", comment="home"
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_file_goes_out_as_it_was_compressed_and_shows_the_judged_pixels(name: str) -> None:
    kind, body, request = sent(PLAIN[name])
    assert kind == f"image/{'png' if 'png' in name else 'jpeg'}"
    assert len(body) <= len(PLAIN[name])
    assert pixels(body).tobytes() == request.frame.tobytes()
    assert b"home" not in body
    assert b"Exif" not in body


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif)


def _profiled() -> bytes:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(noise(), "PNG", icc_profile=profile)


def _with_gamma() -> bytes:
    body = b"gAMA" + (100_000).to_bytes(4)
    data = encoded(noise(), "PNG")
    return data[:33] + (4).to_bytes(4) + body + zlib.crc32(body).to_bytes(4) + data[33:]


NOT_PLAIN = {
    "progressive jpeg": encoded(noise(), "JPEG", progressive=True, subsampling=2),
    "jpeg with restart markers": encoded(noise(), "JPEG", restart_marker_blocks=1),
    "rgb jpeg": encoded(noise(), "JPEG", keep_rgb=True),
    "with gamma": _with_gamma(),
    "turned by its orientation": _turned(),
    "with a colour profile": _profiled(),
    "grey": encoded(noise().convert("L"), "JPEG"),
    "cmyk": encoded(noise().convert("CMYK"), "JPEG"),
    "palette": encoded(noise().convert("P"), "PNG"),
    "with a transparent colour": encoded(noise(), "PNG", transparency=(1, 2, 3)),
    "webp": encoded(noise(), "WEBP", lossless=True),
    "gif": encoded(noise(), "GIF"),
    "animated png": encoded(noise(), "PNG", save_all=True, append_images=[noise()]),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_our_decoding_changes_goes_out_as_the_judged_pixels(name: str) -> None:
    kind, body, request = sent(NOT_PLAIN[name])
    assert kind == "image/png"
    assert pixels(body).tobytes() == request.frame.tobytes()
    assert decode(NOT_PLAIN[name]).plain is None


def test_transparency_shows_two_pictures_and_neither_is_the_file() -> None:
    picture = noise().convert("RGBA")
    picture.putalpha(Image.effect_noise(picture.size, 200))
    assert decode(encoded(picture, "PNG")).plain is None


BASE = encoded(noise(), "JPEG", subsampling=0)
SCAN = BASE.index(b"\xff\xda")


def _named(*names: int) -> bytes:
    """BASE with components under other names."""
    data, frame = bytearray(BASE), BASE.index(b"\xff\xc0")
    for number, name in enumerate(names):
        data[frame + 10 + 3 * number] = data[SCAN + 5 + 2 * number] = name
    return bytes(data)


def _with(segment: str, at: int = 2) -> bytes:
    return BASE[:at] + bytes.fromhex(segment) + BASE[at:]


def _past_restart() -> bytes:
    """A restart marker with a number from the past: libjpeg skips what follows it, others decode it."""
    data = encoded(noise(), "JPEG", subsampling=0, restart_marker_blocks=1)
    return data.replace(b"\xff\xd0", b"\xff\xd7\x00\xff\xd0", 1)


def _first_huffman_table() -> tuple[int, int]:
    start = BASE.index(b"\xff\xc4")
    return start, start + 2 + int.from_bytes(BASE[start + 2 : start + 4])


def _in_turn() -> bytes:
    """One scan per component, as in a file that then paints a second picture over the first."""
    single = encoded(noise().convert("L"), "JPEG")
    at = single.index(b"\xff\xda")
    scans = [bytes([*single[at : at + 5], name, 0, *single[at + 7 : -2]]) for name in (1, 2, 3) * 2]
    frame = BASE.index(b"\xff\xc0")
    one_table = bytearray(BASE[: frame + 19])
    one_table[frame + 12 : frame + 19 : 3] = bytes(3)
    first, last = single.index(b"\xff\xc4"), at
    return bytes(one_table) + single[first:last] + b"".join(scans) + b"\xff\xd9"


AMBIGUOUS = {
    "a restart marker from the past": _past_restart(),
    "a restart marker without an interval": BASE[:-9] + b"\xff\xd0" + BASE[-9:],
    "components in scans of their own, twice": _in_turn(),
    "another height after the scan": BASE[:-2] + bytes.fromhex("ffdc00040008") + b"\xff\xd9",
    "a fill byte in the data": BASE[:-2] + b"\xff" + BASE[-2:],
    "components named RGB beside JFIF": _named(*b"RGB"),
    "components named 0, 1, 2": _named(0, 1, 2),
    "no transform by Adobe, YCbCr by JFIF": _with("ffee000e41646f62650064000000000000"),
    "a table defined twice": BASE.replace(
        BASE[slice(*_first_huffman_table())], BASE[slice(*_first_huffman_table())] * 2, 1
    ),
}

REFUSED = {
    "components in scans of their own, twice": "viewers disagree",
    "another height after the scan": "damaged",
}
"""Those of them that are not judged at all."""


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_jpeg_that_decoders_read_differently_goes_out_as_the_judged_pixels(name: str) -> None:
    assert AMBIGUOUS[name] != BASE
    if name in REFUSED:
        with pytest.raises(ImageError, match=REFUSED[name]):
            decode(AMBIGUOUS[name])
        return
    kind, body, request = sent(AMBIGUOUS[name])
    assert kind == "image/png"
    assert pixels(body).tobytes() == request.frame.tobytes()


def test_a_picture_without_a_table_that_decoders_would_have_to_make_up_is_not_sent_on() -> None:
    start, end = _first_huffman_table()
    try:
        image = decode(BASE[:start] + BASE[end:])
    except ImageError:
        return
    assert image.plain is None


def test_an_interlaced_png_goes_out_as_the_judged_pixels() -> None:
    rows = zlib.compress(b"\0\1\2\3")
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1)
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )
    image = decode(data)
    assert image.frames[0].getpixel((0, 0)) == (1, 2, 3)
    assert image.plain is None


def test_what_follows_a_picture_in_its_file_does_not_travel() -> None:
    for name in ("png", "jpeg"):
        assert b"secret" not in sent(PLAIN[name] + b"secret")[1]


def test_a_guard_s_jpeg_travels_as_jpeg(server: ToyServer) -> None:
    guard = Guard(policy(), backend=backend(server))
    guard.check(PLAIN["jpeg"])
    guard.backend.close()
    parts = server.bodies()[0]["messages"][1]["content"]
    assert parts[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_picture_above_max_pixels_is_scaled_to_the_model_s_grid(server: ToyServer) -> None:
    guard = Guard(policy(), backend=backend(server, model="qwen3-vl", max_pixels=64 * 64))
    server.model = "qwen3-vl"
    guard.check(noise((300, 200)))
    guard.check(noise((60, 60)))
    guard.backend.close()
    urls = [body["messages"][1]["content"][0]["image_url"]["url"] for body in server.bodies()]
    sizes = [pixels(base64.b64decode(url.split(",")[1])).size for url in urls]
    assert sizes == [(64, 32), (60, 60)]


def test_pico_s_grid_is_that_of_its_processor() -> None:
    folder = resolve_model("pico").path
    assert folder is not None
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    grid = grid_for("pico", "anything")
    assert grid.factor == settings["patch_size"] * settings["merge_size"]
    assert (grid.min_pixels, grid.max_pixels) == tuple(settings["size"].values())


@pytest.mark.parametrize("factor", [16, 28, 32])
def test_the_grid_is_the_processors_own(factor: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    grid = Grid(factor, max_pixels=factor**2 * 40, min_pixels=factor**2 * 9, always=True)
    for width in range(20, 1500, 97):
        for height in range(20, 1500, 83):
            down, across = smart_resize(
                height, width, factor=factor, min_pixels=grid.min_pixels, max_pixels=grid.max_pixels
            )
            assert grid.fit((width, height)) == (across, down), (width, height)


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ("Qwen/Qwen3-VL-4B-Instruct", 32),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 28),
        ("tyodd/SafeGuard-VL-RL", 28),
        ("AIML-TUDA/QwenGuard-v1.2-7B", 28),
        ("my-guard", 1),
    ],
)
def test_a_family_s_pictures_are_left_alone_up_to_its_own_limit(model: str, factor: int) -> None:
    grid = grid_for("safeguard", model)
    assert grid.factor == factor
    assert grid.fit((4000, 3000)) == (4000, 3000)
    across, down = grid.fit((9000, 5000))
    assert across * down <= grid.max_pixels
    assert across % factor == down % factor == 0
