"""What holds for every image: hashes, threads, determinism, and Pillow's settings left alone."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image as pil  # noqa: N813 (the module)
from PIL import ImageFile

from images.support import animation, encode, exif, matrix_profile, plain, reference
from policyguard.errors import ConfigurationError
from policyguard.images import DECODE_VERSION, Image, decode


def test_bytes_are_known_by_their_sha256() -> None:
    data = encode(reference(), "PNG")
    assert decode(data).sha256 == hashlib.sha256(data).hexdigest()


def test_pixels_are_known_by_what_is_judged_however_they_came() -> None:
    sources = [reference(), reference().convert("RGBA"), np.asarray(reference())]
    (fingerprint,) = {decode(source).sha256 for source in sources}
    assert len(fingerprint) == 64
    assert fingerprint != decode(encode(reference(), "PNG")).sha256


def test_pixels_that_look_different_have_different_hashes() -> None:
    """Shapes, palettes, transparency, profiles and orientation all change what is judged."""
    pixels = bytes(range(250)) * 18
    wide = pil.frombytes("L", (150, 30), pixels)
    tall = pil.frombytes("L", (30, 150), pixels)
    palettes = []
    for colour in (1, 2):
        picture = pil.new("P", (4, 4), 0)
        picture.putpalette([colour, 0, 0])
        palettes.append(picture)
    keyed, turned, profiled = (reference().copy() for _ in range(3))
    keyed.info["transparency"] = reference().getpixel((0, 0))
    turned.info["exif"] = exif(6)
    profiled.info["icc_profile"] = matrix_profile(gamma=9.0)
    pictures = [wide, tall, *palettes, reference(), keyed, turned, profiled]
    assert len({decode(picture).sha256 for picture in pictures}) == len(pictures)


def test_the_result_does_not_change_with_the_callers_picture() -> None:
    picture = reference().copy()
    image = decode(picture)
    picture.paste((0, 0, 0), (0, 0, 80, 56))
    assert image.frames[0].tobytes() == reference().tobytes()


def test_the_same_image_gives_the_same_result_every_time() -> None:
    data = animation([reference(), reference().rotate(180)], "WEBP")
    one, two = decode(data), decode(data)
    assert [frame.tobytes() for frame in one.frames] == [frame.tobytes() for frame in two.frames]
    assert (one.sha256, one.notes, one.size) == (two.sha256, two.notes, two.size)


def test_eight_threads_see_what_one_thread_sees() -> None:
    opened = pil.open(io.BytesIO(encode(reference(), "JPEG")))  # noqa: TID251
    fresh = pil.open(io.BytesIO(encode(reference(), "JPEG")))  # noqa: TID251
    moving = [plain((n * 9, 0, 0), (50, 40)) for n in range(20)]
    sources = [
        *(encode(reference(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")),
        *(animation(moving, kind) for kind in ("PNG", "WEBP", "GIF")),
        encode(reference(), "PNG", icc_profile=matrix_profile(gamma=1.8)),
    ]

    def seen(image: Image) -> list[bytes]:
        return [frame.tobytes() for frame in image.frames]

    expected = [seen(decode(source)) for source in [*sources, fresh]]
    jobs = [*sources, opened] * 12
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda source: seen(decode(source)), jobs))
    assert expected * 12 == found


def test_pillows_settings_are_left_alone() -> None:
    def settings() -> tuple[object, ...]:
        return pil.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, ImageFile.MAXBLOCK, sorted(pil.ID)

    before = settings()
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
        decode(encode(reference(), kind))
    assert before == settings()


def test_a_wrong_setting_is_the_callers_mistake_and_not_the_images() -> None:
    with pytest.raises(ConfigurationError, match="must be 'all' or 'sample'"):
        decode(reference(), frames="some")  # type: ignore[arg-type]


def test_the_version_names_the_decoder() -> None:
    assert pil.__version__ in DECODE_VERSION


def test_numpy_is_not_loaded_for_pictures_that_are_not_arrays() -> None:
    code = (
        "import sys, policyguard.images as i; from PIL import Image;"
        "i.decode(Image.new('RGB', (4, 4))); sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
