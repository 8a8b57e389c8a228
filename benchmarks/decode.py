"""What decoding costs: ordinary files against plain Pillow, and hostile files against their bounds.

    PYTHONPATH=src:tests python benchmarks/run.py decode

First, the CPU time of ``decode`` over that of Pillow's ``open`` and ``convert("RGB")`` for pictures of two
megapixels, taken in turns in one process. ``decode`` checks more, and shows transparent pictures on two
backgrounds. Then, each in a process of its own, files of up to 20 MiB that are made to be dear: the CPU
seconds and the peak of memory until they are decoded or refused. Goal: at most 3 seconds and 800 MB.
"""

from __future__ import annotations

import io
import statistics
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pass_on
from PIL import Image

from images.support import chunk, exif, gif, gif_frame, header, matrix_profile, segment
from policyguard.errors import ImageError
from policyguard.images import decode

RUNS = 15
MOST_SECONDS, MOST_MB = 3.0, 800
ROOM = 20 * 1024 * 1024


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# --- ordinary files --------------------------------------------------------------------------------------


def ordinary() -> Iterator[tuple[str, bytes]]:
    photo, page = pass_on.camera(), pass_on.screen()
    clear = photo.convert("RGBA")
    clear.putalpha(Image.radial_gradient("L").resize(photo.size))
    logo = page.convert("RGBA")
    mask = Image.new("L", page.size)
    mask.paste(255, (200, 200, 1400, 1000))
    logo.putalpha(mask)
    yield "JPEG", encoded(photo, "JPEG", quality=85)
    yield "JPEG, progressive", encoded(photo, "JPEG", quality=85, progressive=True)
    yield "PNG, photograph", encoded(photo, "PNG")
    yield "PNG, screen", encoded(page, "PNG")
    yield "PNG, grey", encoded(photo.convert("L"), "PNG")
    yield "PNG, palette of a screen", encoded(page.quantize(64), "PNG")
    yield "PNG, palette of a photograph", encoded(photo.quantize(256), "PNG")
    yield "PNG, transparent photograph", encoded(clear, "PNG")
    yield "PNG, transparent logo", encoded(logo, "PNG")
    yield "WebP, lossy", encoded(photo, "WEBP", quality=80)
    yield "WebP, lossless screen", encoded(page, "WEBP", lossless=True)
    yield "WebP, lossless photograph", encoded(photo, "WEBP", lossless=True)
    yield "WebP, transparent", encoded(clear, "WEBP", lossless=True)
    yield "GIF", encoded(page.quantize(64), "GIF")


def ratio(data: bytes) -> tuple[float, float, float]:
    """Milliseconds of decode, those of Pillow, and the median of the ratios of one to the other."""
    pairs = []
    for _ in range(RUNS):
        started = process_time()
        decode(data)
        between = process_time()
        Image.open(io.BytesIO(data)).convert("RGB")  # noqa: TID251 (the yardstick)
        pairs.append((between - started, process_time() - between))
    ours, theirs = (statistics.median(times) * 1000 for times in zip(*pairs, strict=True))
    return ours, theirs, statistics.median(one / other for one, other in pairs)


# --- hostile files ---------------------------------------------------------------------------------------


def filled(start: bytes, parts: Iterator[bytes] | bytes, end: bytes = b"") -> bytes:
    """``start``, then ``parts`` again and again up to 20 MiB, then ``end``."""
    room = ROOM - len(start) - len(end)
    if isinstance(parts, bytes):
        return start + parts * (room // len(parts)) + end
    result = bytearray(start)
    for part in parts:
        if len(result) + len(part) > ROOM - len(end):
            break
        result += part
    return bytes(result) + end


def noise(size: tuple[int, int], bands: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 255, (*size[::-1], bands), np.uint8))


def png_of(size: tuple[int, int], depth: int, colour: int, *extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG of nothing but zeros of any size."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    top = header(size, depth, colour)
    length = size[1] * (1 + (size[0] * bits + 7) // 8)
    if interlaced:
        top = chunk(b"IHDR", top[8:20] + b"\1")
        length = sum(
            -(-(size[1] - y) // down) * (1 + (-(-(size[0] - x) // across) * bits + 7) // 8)
            for x, y, across, down in (
                *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
                (0, 1, 1, 2),
            )
        )
    data = chunk(b"IDAT", zlib.compress(bytes(length), 9))
    return b"\x89PNG\r\n\x1a\n" + top + b"".join(extra) + data + chunk(b"IEND", b"")


def apng_of(size: tuple[int, int], count: int) -> bytes:
    """An animation that blends transparent frames of full size."""
    colours = [bytes([n * 7 % 256, n % 256, 90, 100]) for n in range(count)]
    rows = [zlib.compress((b"\0" + colour * size[0]) * size[1], 1) for colour in colours]
    control = chunk(b"acTL", struct.pack(">II", count, 0))
    parts, number = [], 0
    for n, row in enumerate(rows):
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *size, 0, 0, 1, 20, n % 3, 1)))
        number += 1
        if n == 0:
            parts.append(chunk(b"IDAT", row))
        else:
            parts.append(chunk(b"fdAT", struct.pack(">I", number) + row))
            number += 1
    return b"\x89PNG\r\n\x1a\n" + header(size, 8, 6) + control + b"".join(parts) + chunk(b"IEND", b"")


def moving_webp(size: tuple[int, int], count: int, *, bands: int = 4, **options: Any) -> bytes:
    """An animation of at most 32 distinct frames."""
    whole = noise((size[0] // 16, size[1] // 16), bands).resize((size[0], size[1] + 64), 0)
    frames = [whole.crop((0, 2 * n, size[0], 2 * n + size[1])) for n in range(min(count, 32))]
    first, *rest = islice(cycle(frames), count)
    return encoded(first, "WEBP", save_all=True, append_images=rest, duration=20, **options)


def hostile() -> Mapping[str, Callable[[], bytes]]:
    def jpeg(**options: Any) -> bytes:
        return encoded(Image.new("RGB", (64, 64), (9, 80, 90)), "JPEG", **options)

    def webp(kind: bytes, body: bytes) -> bytes:
        """A simple lossless WebP with more chunks of this kind, up to 20 MiB."""
        data = encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True)
        flags = {b"EXIF": 0x08, b"ICCP": 0x20}.get(kind, 0)
        top = b"VP8X" + struct.pack("<IB3x", 10, flags) + b"\x3f\0\0\x3f\0\0"
        parts = kind + struct.pack("<I", len(body)) + body + bytes(len(body) & 1)
        inner = filled(b"WEBP" + top + data[12:], parts)
        return b"RIFF" + struct.pack("<I", len(inner)) + inner

    empty, end = chunk(b"IDAT", b""), chunk(b"IEND", b"")
    small = png_of((8, 8), 8, 2)
    spread = (7000, 7000)
    scan = jpeg().index(b"\xff\xda")
    large = (8000, 6250)
    return {
        "GIF of 104 bytes, 7000 x 7000": lambda: gif(spread, *[gif_frame((0, 0, 1, 1), 1)] * 2),
        "WebP, two frames of 7000 x 7000": lambda: (
            (data := moving_webp((64, 64), 2))[:24] + 2 * (6999).to_bytes(3, "little") + data[30:]
        ),
        "PNG, empty IDATs": lambda: filled(small[:33], empty, small[33:]),
        "PNG, IDATs of one byte": lambda: filled(
            small[:33], (chunk(b"IDAT", b"\x78") for _ in range(49_000)), end
        ),
        "PNG, texts": lambda: filled(small[:33], chunk(b"tEXt", b"k\0v"), small[33:]),
        "PNG, 50 MP RGB": lambda: png_of(large, 8, 2),
        "PNG, 50 MP RGBA": lambda: png_of(large, 8, 6),
        "PNG, 50 MP RGB, interlaced": lambda: png_of(large, 8, 2, interlaced=True),
        "PNG, 50 MP of 16 bits": lambda: png_of(large, 16, 2),
        "PNG, 38 MP RGBA of 16 bits": lambda: png_of((6200, 6200), 16, 6),
        "PNG, 50 MP palette with transparency": lambda: png_of(
            large, 8, 3, chunk(b"PLTE", bytes(range(9))), chunk(b"tRNS", b"\x40")
        ),
        "PNG, 50 MP RGBA with profile": lambda: png_of(
            large, 8, 6, chunk(b"iCCP", b"x\0\0" + zlib.compress(matrix_profile(gamma=1.0)))
        ),
        "PNG, 50 MP RGBA with gamma, turned": lambda: png_of(
            large, 8, 6, chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"eXIf", exif(6))
        ),
        "PNG, EXIF of 19 MiB": lambda: filled(
            small[:33], iter([chunk(b"eXIf", b"\1\x12\0\3\0\0\0\1" * 2_400_000)]), small[33:]
        ),
        "PNG, EXIF of densities": lambda: filled(
            small[:33],
            iter([chunk(b"eXIf", b"\1\x1a\0\5\0\0\0\1\0\0\0\x20" * 1_600_000)]),
            small[33:],
        ),
        "APNG, 22 transparent frames": lambda: apng_of((1400, 1400), 22),
        "APNG, 2,000 small frames": lambda: apng_of((100, 100), 2000),
        "JPEG, empty segments": lambda: filled(b"\xff\xd8", segment(0xE5, b""), jpeg()[2:]),
        "JPEG, lone markers": lambda: filled(b"\xff\xd8", b"\xff\x01", jpeg()[2:]),
        "JPEG, lone markers in its scan": lambda: filled(jpeg()[: scan + 20], b"\xff\x01", b"\xff\xd9"),
        "JPEG, empty segments in its scan": lambda: filled(
            jpeg()[: scan + 20], segment(0xE5, b""), b"\xff\xd9"
        ),
        "JPEG, restarts": lambda: filled(jpeg()[: scan + 20], b"\xff\xd0", b"\xff\xd9"),
        "JPEG, 50 MP": lambda: encoded(noise((1000, 782)).resize(large), "JPEG", quality=60),
        "JPEG, 50 MP progressive": lambda: encoded(
            noise((500, 391)).resize(large), "JPEG", quality=40, progressive=True
        ),
        "JPEG, 50 MP with profile": lambda: encoded(
            noise((1000, 782)).resize(large), "JPEG", quality=60, icc_profile=matrix_profile(gamma=1.0)
        ),
        "JPEG, 50 MP turned two ways": lambda: encoded(
            noise((1000, 782)).resize(large), "JPEG", quality=60, exif=b"Exif\0\0" + exif(6, kind=4)
        ),
        "JPEG, 39 MP CMYK": lambda: encoded(
            noise((625, 625), 4).resize((6250, 6250)).convert("CMYK"), "JPEG", quality=60
        ),
        "GIF, zeros": lambda: filled(gif((2, 2))[:-1], b"\0"),
        "GIF, tiny pieces": lambda: filled(gif((9, 9), gif_frame((0, 0, 9, 9), 1))[:-2], b"\1\0", b"\0;"),
        "GIF, comments": lambda: filled(gif((2, 2))[:-1], b"\x21\xfe\0", b";"),
        "GIF, 4,000 frames": lambda: gif(
            (126, 126), *[gif_frame((n % 99, 0, 9, 9), n % 4) for n in range(4000)]
        ),
        "GIF, tiny frames on a large canvas": lambda: gif(
            (2828, 2828), *[gif_frame((n, 0, 1, 1), n % 4, disposal=n % 4) for n in range(8)]
        ),
        "GIF, 50 MP transparent": lambda: gif(large, gif_frame((0, 0, 9, 9), 1)),
        "WebP, 36 MP lossless": lambda: encoded(
            Image.new("RGB", (6000, 6000), (9, 9, 80)), "WEBP", lossless=True
        ),
        "WebP, 36 MP transparent": lambda: encoded(
            Image.new("RGBA", (6000, 6000), (9, 9, 80, 80)), "WEBP", lossless=True
        ),
        "WebP, 36 MP lossy": lambda: encoded(
            noise((750, 750)).resize((6000, 6000)), "WEBP", quality=30, method=0
        ),
        "WebP, animated, lossless": lambda: moving_webp((1400, 1400), 22, lossless=True, method=0),
        "WebP, animated, lossy": lambda: moving_webp((1400, 1400), 22, quality=40, method=0),
        "WebP, animated, opaque": lambda: moving_webp((1400, 1400), 32, bands=3, quality=40, method=0),
        "WebP, animated, 7 large frames": lambda: moving_webp((3000, 3000), 7, quality=40, method=0),
        "WebP, animated, mixed": lambda: moving_webp((1400, 1400), 22, allow_mixed=True, method=0),
        "WebP, animated, 1,000 frames": lambda: moving_webp((250, 250), 1000, lossless=True, method=0),
        "WebP, empty chunks": lambda: webp(b"junk", b""),
        "WebP, EXIF of 1 MiB": lambda: webp(b"EXIF", exif(6)[:18] + b"\1\x12\0\3\0\0\0\1" * 131_072),
    }


def measure(path: str) -> None:
    """Decode one file in this fresh process, and print what came of it."""
    data = Path(path).read_bytes()
    started = process_time()
    try:
        outcome = f"{len(decode(data).frames)} frames"
    except ImageError as error:
        outcome = error.message.removeprefix("<bytes>: ")
    spent = process_time() - started
    status = Path("/proc/self/status").read_text()  # (Linux)
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1000
    print(f"{len(data) / 2**20:6.1f} {spent:7.2f} {peak:6.0f} {outcome}")


def main() -> None:
    print(f"{'ordinary files of 2 MP':34} {'decode ms':>9} {'Pillow ms':>9} {'ratio':>6}")
    for name, data in ordinary():
        decode(data)
        ours, theirs, times = ratio(data)
        print(f"{name:34} {ours:9.1f} {theirs:9.1f} {times:6.2f}", flush=True)
    print(f"\n{'hostile files':34} {'MiB':>6} {'CPU s':>7} {'MB':>6}")
    worst = (0.0, 0.0)
    for name, make in hostile().items():
        with tempfile.NamedTemporaryFile() as file:
            file.write(make())
            file.flush()
            line = subprocess.check_output([sys.executable, __file__, file.name], text=True).rstrip()
        print(f"{name:34} {line}", flush=True)
        _, spent, peak, *_ = line.split()
        worst = max(worst[0], float(spent)), max(worst[1], float(peak))
    print(f"most: {worst[0]:.2f} s, {worst[1]:.0f} MB (goal: {MOST_SECONDS:.0f} s, {MOST_MB} MB)")


if __name__ == "__main__":
    measure(*sys.argv[1:]) if len(sys.argv) > 1 else main()
