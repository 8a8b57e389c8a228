"""Crafted files, by kind, that one viewer may show otherwise than another: what `make test-viewers` compares.

Most hold an image with a mark (``shown``), some also the ground alone (``decoy``), put together so that what
is seen depends on how a reader takes one structure.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image as pil  # noqa: N813 (the module)
from PIL import ImageDraw
from PIL.Image import Image as PILImage

from images.support import (
    animation,
    chunk,
    encode,
    exif,
    gif_frame,
    header,
    matrix_profile,
    png,
    png_chunks,
    segment,
    srgb_profile,
)

Files = Iterator[tuple[str, bytes]]
SIZE = (96, 64)
START = b"\x89PNG\r\n\x1a\n"


def decoy() -> PILImage:
    """A soft ground."""
    x, y = np.meshgrid(np.linspace(60, 200, SIZE[0]), np.linspace(60, 200, SIZE[1]))
    return pil.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def shown() -> PILImage:
    """The same with a large mark, nowhere symmetrical."""
    picture = decoy()
    draw = ImageDraw.Draw(picture)
    draw.polygon([(10, 8), (80, 20), (50, 34), (30, 58)], fill=(250, 20, 20))
    draw.rectangle((70, 40, 90, 60), fill=(0, 0, 0))
    return picture


def mask() -> PILImage:
    """The mark alone, white on black."""
    gap = np.abs(np.asarray(shown(), int) - np.asarray(decoy(), int)).max(axis=2) > 8
    return pil.fromarray((gap * 255).astype(np.uint8))


def with_chunks(data: bytes, *chunks: bytes, before: bytes = b"IDAT") -> bytes:
    at = data.index(before) - 4
    return data[:at] + b"".join(chunks) + data[at:]


# --- 1: colour -------------------------------------------------------------------------------------------


def profile(
    *,
    tags: dict[bytes, bytes] | None = None,
    kind: bytes = b"mntr",
    version: int = 2,
    space: bytes = b"RGB ",
    twice: bytes = b"",
    gamma: float = 6.0,
    many: int = 0,
    pad: int = 0,
) -> bytes:
    """An ICC profile that changes colours visibly, and what is odd about it."""
    data = matrix_profile(gamma=gamma)
    count = int.from_bytes(data[128:132])
    table = [struct.unpack_from(">4sII", data, 132 + 12 * n) for n in range(count)]
    bodies = {name: data[start : start + length] for name, start, length in table}
    bodies |= tags or {}
    bodies |= {b"x%03d" % n: b"text\0\0\0\0odd" for n in range(many)}
    names = [*bodies, *([twice] if twice else [])]
    parts, entries = b"", struct.pack(">I", len(names))
    first = 132 + 12 * len(names)
    for n, name in enumerate(names):
        body = bodies[name] if n < len(bodies) else srgb_curve(2.2)
        entries += name + struct.pack(">II", first + len(parts), len(body))
        parts += body + bytes(-len(body) % 4)
    parts += bytes(pad)
    head = bytearray(data[:128])
    head[0:4] = struct.pack(">I", first + len(parts))
    head[8], head[12:16], head[16:20] = version, kind, space
    return bytes(head) + entries + parts


def srgb_curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def curve(values: list[int]) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


def step(size: int, at: float = 0.5) -> dict[bytes, bytes]:
    body = curve([0 if n < size * at else 65535 for n in range(size)])
    return {b"rTRC": body, b"gTRC": body, b"bTRC": body}


def table(kind: bytes = b"A2B0") -> dict[bytes, bytes]:
    """A lookup table of two points a side that turns colours around."""
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = bytes(range(256))
    corners = bytes(255 - value for value in itertools.chain(*itertools.product((0, 255), repeat=3)))
    return {kind: b"mft1\0\0\0\0\3\3\2\0" + matrix + ramp * 3 + corners + ramp * 3}


def profiles() -> Iterator[tuple[str, bytes]]:
    yield "sRGB", srgb_profile()
    for gamma in (1.0, 1.8, 2.6, 4.0, 8.0):
        yield f"gamma {gamma}", matrix_profile(gamma=gamma)
    yield "channels turned", matrix_profile((1, 2, 0))
    yield "channels swapped", matrix_profile((0, 2, 1))
    for many in (60, 93, 101, 250):
        yield f"{many} more tags", profile(many=many)
    for kind in (b"link", b"abst", b"nmcl", b"prtr", b"scnr", b"spac", b"junk", b"\0\0\0\0"):
        yield f"class {kind!r}", profile(kind=kind)
    for version in (0, 1, 3, 4, 5, 9):
        yield f"version {version}", profile(version=version)
    for kind in (b"A2B0", b"A2B1", b"A2B2", b"D2B0", b"D2B1", b"B2A0"):
        yield f"table {kind.decode()}", profile(tags=table(kind))
    for name in (b"rTRC", b"wtpt", b"rXYZ", b"bTRC"):
        yield f"{name.decode()} twice", profile(twice=name)
    for size in (2, 4, 256, 4096, 5000, 70_000):
        yield f"step of {size}", profile(tags=step(size))
    for at in (0.1, 0.3, 0.9):
        yield f"step at {at}", profile(tags=step(1024, at))
    yield "white point gone", profile(tags={b"wtpt": b""})
    yield "white point odd", profile(tags={b"wtpt": b"XYZ \0\0\0\0" + bytes(12)})
    yield "white point of text", profile(tags={b"wtpt": b"text\0\0\0\0" + bytes(12)})
    yield "curve gone", profile(tags={b"gTRC": b""})
    yield "padded", profile(pad=5 * 1024 * 1024)
    yield "padded a little", profile(pad=64)
    yield "cut short", profile()[:-40]
    yield "longer than it says", profile() + bytes(16)
    yield "for grey", profile(space=b"GRAY", tags={b"kTRC": srgb_curve(6.0)})
    yield "for ink", profile(space=b"CMYK")
    yield "for Lab", profile(space=b"Lab ")
    yield "not a profile", b"not a profile" * 20


def colour() -> Files:
    for name, icc in profiles():
        yield f"icc {name}.png", encode(shown(), "PNG", icc_profile=icc)
        if len(icc) < 60_000:
            yield f"icc {name}.jpg", encode(shown(), "JPEG", icc_profile=icc, quality=92)
            yield f"icc {name}.webp", encode(shown(), "WEBP", icc_profile=icc, lossless=True)
    for name in ("gamma 8.0", "sRGB"):
        icc = dict(profiles())[name]
        yield f"icc {name} on grey.png", encode(shown().convert("L"), "PNG", icc_profile=icc)
        yield f"icc {name} on grey.jpg", encode(shown().convert("L"), "JPEG", icc_profile=icc, quality=92)
    plain = encode(shown(), "PNG")
    packed = zlib.compress(profile())
    for name, body in {
        "no name": b"\0\0" + packed,
        "no checksum": b"x\0\0" + packed[:-4],
        "method": b"x\0\1" + packed,
        "more behind": b"x\0\0" + packed + b"more",
        "not packed": b"x\0\0" + profile(),
        "long name": b"x" * 90 + b"\0\0" + packed,
    }.items():
        yield f"iccp {name}.png", with_chunks(plain, chunk(b"iCCP", body))
        yield (
            f"iccp {name} gama.png",
            with_chunks(plain, chunk(b"iCCP", body), chunk(b"gAMA", struct.pack(">I", 600_000))),
        )
    broken = chunk(b"sRGB", b"\0")[:-1] + b"?"
    srgb = {"none": b"", "sound": chunk(b"sRGB", b"\0"), "crc": broken, "empty": chunk(b"sRGB", b"")}
    srgb |= {"long": chunk(b"sRGB", b"\0\0"), "intent": chunk(b"sRGB", b"\x09")}
    for gamma in (10_000, 20_000, 30_000, 45_455, 60_000, 100_000, 200_000, 600_000, 1_000_000):
        for name, part in srgb.items():
            gama = chunk(b"gAMA", struct.pack(">I", gamma))
            yield f"gama {gamma} srgb {name}.png", with_chunks(plain, part, gama)
        deep = png(SIZE, (np.asarray(shown(), np.uint16) * 257).astype(">u2").tobytes(), gama, depth=16)
        yield f"gama {gamma} 16 bits.png", deep
    for name, values in {
        "swap": (31270, 32900, 15000, 6000, 30000, 60000, 64000, 33000),
        "wide": (31270, 32900, 73500, 26500, 11500, 82600, 15700, 1800),
        "white": (44757, 40745, 64000, 33000, 30000, 60000, 15000, 6000),
        "zero": (0,) * 8,
        "extreme": (31270, 32900, 2**31, 33000, 30000, 60000, 15000, 6000),
    }.items():
        primaries = chunk(b"cHRM", struct.pack(">8I", *values))
        yield f"chrm {name}.png", with_chunks(plain, primaries)
        yield (
            f"chrm {name} gama.png",
            with_chunks(plain, primaries, chunk(b"gAMA", struct.pack(">I", 45455))),
        )
    for code in (
        (1, 13, 0, 1),
        (12, 13, 0, 1),
        (9, 16, 0, 1),
        (9, 18, 0, 1),
        (1, 8, 0, 1),
        (1, 1, 0, 1),
        (1, 13, 0, 0),
    ):
        yield f"cicp {code}.png", with_chunks(plain, chunk(b"cICP", bytes(code)))


# --- 2: geometry -----------------------------------------------------------------------------------------


def directory(entries: list[tuple[int, int, int, bytes]], order: str = ">", extra: bytes = b"") -> bytes:
    """An EXIF block of (tag, type, count, value) with ``extra`` behind the entries."""
    mark = b"MM\0*" if order == ">" else b"II*\0"
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    return mark + struct.pack(order + "IH", 8, len(entries)) + body + bytes(4) + extra


def short(value: int, order: str = ">") -> bytes:
    return struct.pack(order + "H", value)


def density(across: tuple[int, int], down: tuple[int, int], size: tuple[int, int], order: str = ">") -> bytes:
    """EXIF with a density of ``across`` and ``down`` (fractions) that says that the image is of ``size``."""
    at = 8 + 2 + 4 * 12 + 4
    extra = struct.pack(order + "IIII", *across, *down)
    inner = struct.pack(order + "H", 2)
    for tag, side in ((0xA002, size[0]), (0xA003, size[1])):
        inner += struct.pack(order + "HHII", tag, 4, 1, side)
    entries = [
        (0x011A, 5, 1, struct.pack(order + "I", at)),
        (0x011B, 5, 1, struct.pack(order + "I", at + 8)),
        (0x0128, 3, 1, short(2, order)),
        (0x8769, 4, 1, struct.pack(order + "I", at + 16)),
    ]
    return directory(entries, order, extra + inner + bytes(4))


def blocks() -> Iterator[tuple[str, bytes]]:
    for turn in (3, 6):
        for order in "<>":
            yield f"{turn}{order}", exif(turn, order=order)
            yield f"{turn}{order} long", exif(turn, order=order, kind=4)
            for kind in (1, 2, 6, 7, 8, 9):
                yield f"{turn}{order} type {kind}", directory([(0x0112, kind, 1, short(turn, order))], order)
            for count in (0, 2, 3, 255):
                yield (
                    f"{turn}{order} count {count}",
                    directory([(0x0112, 3, count, short(turn, order))], order),
                )
            first, second = (0x0112, 3, 1, short(1, order)), (0x0112, 3, 1, short(turn, order))
            yield f"{turn}{order} twice", directory([first, second], order)
            yield f"{turn}{order} twice back", directory([second, first], order)
            inner = struct.pack(order + "HHHI", 1, 0x0112, 3, 1) + short(turn, order) + bytes(6)
            at = 8 + 2 + 12 + 4
            pointer = (0x8769, 4, 1, struct.pack(order + "I", at))
            yield f"{turn}{order} nested", directory([pointer], order, inner)
            own = [(0x0112, 3, 1, short(1, order)), (0x8769, 4, 1, struct.pack(order + "I", at + 12))]
            yield f"{turn}{order} nested too", directory(own, order, inner)
        yield f"{turn} second directory", exif(1)[:-4] + struct.pack("<I", 26) + exif(turn)[8:]
        yield f"{turn} prefix", b"Exif\0\0" + exif(turn)
        yield f"{turn} far", exif(turn)[:4] + struct.pack("<I", 60) + bytes(52) + exif(turn)[8:]


def geometry() -> Files:
    for name, block in blocks():
        yield f"exif {name}.jpg", encode(shown(), "JPEG", exif=b"Exif\0\0" + block, quality=92)
        yield f"exif {name}.webp", encode(shown(), "WEBP", exif=block, lossless=True)
        yield f"exif {name}.png", with_chunks(encode(shown(), "PNG"), chunk(b"eXIf", block))
    data = encode(shown(), "JPEG", quality=92)
    for prefix in (b"Exif\0\xff", b"Exif\xff\0", b"EXIF\0\0", b"Exif\0", b"Exif"):
        yield f"exif prefix {prefix!r}.jpg", data[:2] + segment(0xE1, prefix + exif(6)) + data[2:]
    for one, other in ((1, 6), (6, 1), (3, 6)):
        pair = [segment(0xE1, b"Exif\0\0" + exif(turn)) for turn in (one, other)]
        yield f"exif segments {one} {other}.jpg", data[:2] + b"".join(pair) + data[2:]
    late = encode(shown(), "PNG")
    for turn in (3, 6, 8):
        yield f"exif late {turn}.png", with_chunks(late, chunk(b"eXIf", exif(turn)), before=b"IEND")
    wide = shown().resize((160, 20))
    for order in "<>":
        for scale in (2, 4, 8, 16):
            block = density((72, 1), (72, scale), (160, 20 * scale), order)
            yield f"density {scale}{order}.jpg", encode(wide, "JPEG", exif=b"Exif\0\0" + block, quality=92)
            yield f"density {scale}{order}.png", with_chunks(encode(wide, "PNG"), chunk(b"eXIf", block))
            yield f"density {scale}{order}.webp", encode(wide, "WEBP", exif=block, lossless=True)
            block = density((72 * scale, 1), (72, 1), (160 // scale, 20), order)
            yield (
                f"density across {scale}{order}.jpg",
                encode(wide, "JPEG", exif=b"Exif\0\0" + block, quality=92),
            )


# --- 3: palette ------------------------------------------------------------------------------------------


def indexed(depth: int, values: list[int], palette: bytes, *more: bytes, order: bool = True) -> bytes:
    """A palette PNG in which the mark is ``values[1]`` and the ground ``values[0]``."""
    grid = np.where(np.asarray(mask()) > 0, values[1], values[0]).astype(np.uint8)
    per = 8 // depth
    rows = np.zeros((SIZE[1], SIZE[0] // per), np.uint8)
    for n in range(per):
        rows |= (grid[:, n::per] << (8 - depth * (n + 1))).astype(np.uint8)
    parts = [chunk(b"PLTE", palette), *more] if order else [*more, chunk(b"PLTE", palette)]
    return png(SIZE, rows.tobytes(), *parts, depth=depth, colour_type=3)


def palettes() -> Files:
    black_white = bytes(3) + b"\xff" * 3
    for depth in (1, 2, 4, 8):
        yield f"sound {depth}.png", indexed(depth, [0, 1], black_white)
        for entries in (1, 2, 3, 4):
            palette = bytes(40 + 60 * n + m for n in range(entries) for m in (0, 10, 20))
            for index in sorted({1, min(entries, (1 << depth) - 1), (1 << depth) - 1}):
                yield f"{depth} bits {entries} entries {index}.png", indexed(depth, [0, index], palette)
    for index in (2, 3, 16, 128, 200, 255):
        yield f"white out {index}.png", indexed(8, [1, index], black_white)
        yield f"black out {index}.png", indexed(8, [0, index], black_white)
        yield f"clear out {index}.png", indexed(8, [1, index], black_white, chunk(b"tRNS", b"\xff\0"))
    for length in (0, 1, 2, 4, 5, 7):
        yield f"palette of {length} bytes.png", indexed(8, [0, 1], b"\xff" * length)
    yield "palette too long.png", indexed(1, [0, 1], bytes(range(48)))
    yield "palette of 257.png", indexed(8, [0, 1], bytes(range(256)) * 3 + b"\1\2\3")
    for clear in (b"\0\0", b"\0", b"\xff\0", b"\0" * 4, b"\0" * 300, b""):
        for order in (True, False):
            trns = chunk(b"tRNS", clear)
            yield (
                f"trns {clear[:4]!r} {len(clear)} {order}.png",
                indexed(8, [0, 1], black_white, trns, order=order),
            )
    for level in (0, 0x80, 0x0101, 0x8000, 0x80FF, 0xFFFF):
        rows = np.where(np.asarray(mask())[..., None] > 0, level, level ^ 1).astype(">u2")
        key = struct.pack(">H", level)
        yield (
            f"deep grey key {level}.png",
            png(SIZE, rows.tobytes(), chunk(b"tRNS", key), depth=16, colour_type=0),
        )
        deep = np.repeat(rows, 3, axis=2).tobytes()
        yield f"deep key {level}.png", png(SIZE, deep, chunk(b"tRNS", key * 3), depth=16)
    for length in (0, 1, 4, 5, 8):
        rows = np.asarray(shown()).tobytes()
        yield f"key of {length} bytes.png", png(SIZE, rows, chunk(b"tRNS", bytes(length)))


def lzw(values: bytes, bits: int) -> bytes:
    """Codes for a GIF, with a clear code before each pixel but one so that they stay short."""
    clear = 1 << bits
    codes = [part for value in values for part in (clear, value)] + [clear + 1]
    text = "".join(f"{code:0{bits + 1}b}"[::-1] for code in codes)
    packed = bytes(int(text[n : n + 8][::-1], 2) for n in range(0, len(text), 8))
    return (
        b"".join(bytes([len(packed[n : n + 255])]) + packed[n : n + 255] for n in range(0, len(packed), 255))
        + b"\0"
    )


def gif_of(
    values: list[int],
    palette: bytes,
    bits: int = 8,
    *,
    local: bool = False,
    clear: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A GIF of one frame in which the mark is ``values[1]`` and the ground ``values[0]``."""
    grid = np.where(np.asarray(mask()) > 0, values[1], values[0]).astype(np.uint8)
    flags = 0x80 | (len(palette) // 3).bit_length() - 2
    control = b"" if clear is None else bytes([0x21, 0xF9, 4, 1, 5, 0, clear, 0])
    top = b"GIF89a" + struct.pack("<HHBBB", *SIZE, 0 if local else flags, 0, 0) + (b"" if local else palette)
    image = struct.pack("<BHHHHB", 0x2C, 0, 0, *SIZE, flags if local else 0) + (palette if local else b"")
    return top + before + control + image + bytes([bits]) + lzw(grid.tobytes(), bits) + b";"


def gif_palettes() -> Files:
    black_white = bytes(3) + b"\xff" * 3
    yield "sound.gif", gif_of([0, 1], black_white, 2)
    for local in (True, False):
        for index in (2, 3, 100, 201, 255):
            for ground in (0, 1):
                yield f"out {index} {ground} {local}.gif", gif_of([ground, index], black_white, local=local)
            yield f"out {index} clear {local}.gif", gif_of([1, index], black_white, local=local, clear=index)
            yield (
                f"out {index} other clear {local}.gif",
                gif_of([1, index], black_white, local=local, clear=0),
            )
    for bits in (1, 2, 3, 7, 8, 9, 10, 11, 12):
        yield f"codes of {bits}.gif", gif_of([0, 1], black_white, bits)
    for zeros in (1, 7, 300):
        yield f"{zeros} zeros.gif", gif_of([0, 1], black_white, 2, before=bytes(zeros))


# --- 4: transparency -------------------------------------------------------------------------------------


def denied(data: bytes) -> bytes:
    """A lossless WebP whose header says that its transparency is not used."""
    at = data.index(b"VP8L") + 12
    return data[:at] + bytes([data[at] & ~0x10]) + data[at + 1 :]


def extended(data: bytes, flags: int) -> bytes:
    """A simple WebP with an extended header of these ``flags``."""
    size = b"".join((side - 1).to_bytes(3, "little") for side in SIZE)
    body = b"VP8X" + struct.pack("<IB3x", 10, flags) + size + data[12:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def transparency() -> Files:
    alphas = {"mark": mask(), "ground": mask().point(lambda level: 255 - level)}
    alphas |= {name + " half": alpha.point(lambda level: level // 2) for name, alpha in list(alphas.items())}
    alphas |= {"none": pil.new("L", SIZE, 0), "all": pil.new("L", SIZE, 255)}
    for name, alpha in alphas.items():
        picture = shown()
        picture.putalpha(alpha)
        for colour_, under in (
            ("", picture),
            (" black", pil.merge("RGBA", [*[pil.new("L", SIZE, 0)] * 3, alpha])),
        ):
            yield f"{name}{colour_}.png", encode(under, "PNG")
            yield f"{name}{colour_} grey.png", encode(under.convert("LA"), "PNG")
            lossless = encode(under, "WEBP", lossless=True, exact=True)
            yield f"{name}{colour_}.webp", lossless
            yield f"{name}{colour_} denied.webp", denied(lossless)
            yield f"{name}{colour_} lossy.webp", encode(under, "WEBP", quality=90, exact=True)
            for flags in (0, 0x10):
                yield f"{name}{colour_} flags {flags}.webp", extended(lossless, flags)
                yield f"{name}{colour_} flags {flags} denied.webp", extended(denied(lossless), flags)
        moving = animation([picture, decoy()], "WEBP", minimize_size=False)
        yield f"{name} moving.webp", moving
        yield f"{name} moving denied.webp", moving[:20] + bytes([moving[20] & ~0x10]) + moving[21:]


# --- 5: time ---------------------------------------------------------------------------------------------


def fctl(
    number: int, size: tuple[int, int], at: tuple[int, int] = (0, 0), *, dispose: int = 0, blend: int = 0
) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *size, *at, 5, 100, dispose, blend))


def idat(picture: PILImage) -> bytes:
    return next(whole[8:-4] for kind, whole in png_chunks(encode(picture, "PNG")) if kind == b"IDAT")


def apng(*chunks: bytes, count: int) -> bytes:
    control = chunk(b"acTL", struct.pack(">II", count, 0))
    return START + header(SIZE) + control + b"".join(chunks) + chunk(b"IEND", b"")


def time() -> Files:
    hidden, mark = idat(decoy()), idat(shown())
    still, moved = chunk(b"IDAT", hidden), chunk(b"IDAT", mark)

    def fdat(number: int, body: bytes = mark) -> bytes:
        return chunk(b"fdAT", struct.pack(">I", number) + body)

    for first in ((96, 32), (48, 64), (1, 1), (96, 63)):
        body = idat(decoy().crop((0, 0, *first)))
        yield (
            f"first fctl {first}.png",
            apng(fctl(0, first), chunk(b"IDAT", body), fctl(1, SIZE), fdat(2, hidden), count=2),
        )
        yield (
            f"first fctl {first} whole.png",
            apng(fctl(0, first), moved, fctl(1, SIZE), fdat(2, hidden), count=2),
        )
    yield "data after.png", apng(fctl(0, SIZE), still, fctl(1, SIZE), fdat(2), moved, count=2)
    yield "data after, no fctl.png", apng(still, fctl(0, SIZE), fdat(1), moved, count=1)
    halves = [chunk(b"IDAT", part) for part in (hidden[:300], hidden[300:])]
    for name, part in {
        "text": chunk(b"tEXt", b"a\0b"),
        "fctl": fctl(0, SIZE),
        "private": chunk(b"prIv", b""),
    }.items():
        yield (
            f"split by {name}.png",
            START + header(SIZE) + halves[0] + part + halves[1] + chunk(b"IEND", b""),
        )
        yield (
            f"split by {name}, moving.png",
            apng(halves[0], part, halves[1], fctl(1, SIZE), fdat(2), count=1),
        )
    for dispose in (0, 1, 2):
        for blend in (0, 1):
            parts = [fctl(0, SIZE, dispose=dispose, blend=blend), still]
            parts += [fctl(1, SIZE, dispose=dispose, blend=blend), fdat(2)]
            parts += [
                fctl(3, (20, 20), (9, 9), dispose=dispose, blend=blend),
                fdat(4, idat(decoy().crop((0, 0, 20, 20)))),
            ]
            yield f"disposal {dispose} blend {blend}.png", apng(*parts, count=3)
            yield (
                f"disposal {dispose} blend {blend}, still apart.png",
                apng(moved, *[fctl(0, SIZE, dispose=dispose, blend=blend), fdat(1, hidden)], count=1),
            )
    for count in (0, 1, 3):
        yield f"declares {count}.png", apng(fctl(0, SIZE), still, fctl(1, SIZE), fdat(2), count=count)
    yield (
        "without actl.png",
        START + header(SIZE) + fctl(0, SIZE) + still + fctl(1, SIZE) + fdat(2) + chunk(b"IEND", b""),
    )
    palette = bytes(3) + b"\xff\0\0\0\xff\0\xff\xff\xff"
    for first, second in itertools.product(range(8), range(8)):
        parts = [
            gif_frame((0, 0, 24, 24), 3, disposal=first),
            gif_frame((4, 4, 12, 12), 1, disposal=second),
            gif_frame((10, 10, 6, 6), 2),
        ]
        top = b"GIF89a" + struct.pack("<HHBBB", 24, 24, 0x81, 0, 0) + palette
        yield f"disposal {first} {second}.gif", top + b"".join(parts) + b";"
    for delay in (0, 1, 2, 5, 10, 200):
        yield (
            f"delay {delay}.gif",
            animation([shown(), decoy()], "GIF").replace(
                b"\x21\xf9\x04\x00\x05", b"\x21\xf9\x04\x00" + bytes([delay])
            ),
        )


# --- 6: damage -------------------------------------------------------------------------------------------


def scans(data: bytes) -> list[bytes]:
    """What comes before the first scan of a JPEG, then each scan with its tables."""
    marks = [n for n in range(len(data) - 1) if data[n : n + 2] in (b"\xff\xda", b"\xff\xc4")]
    starts = []
    scan_seen = True
    for at in marks:
        if scan_seen:
            starts.append(at)
        scan_seen = data[at + 1] == 0xDA
    return [data[one:other] for one, other in itertools.pairwise([0, *starts, len(data) - 2])]


def damage() -> Files:
    progressive = encode(shown(), "JPEG", progressive=True, quality=92)
    parts = scans(progressive)
    for n in range(1, len(parts)):
        yield f"without scan {n}.jpg", b"".join(parts[:n] + parts[n + 1 :]) + b"\xff\xd9"
        yield f"scan {n} twice.jpg", b"".join(parts[: n + 1] + parts[n:]) + b"\xff\xd9"
        yield f"cut after scan {n}.jpg", b"".join(parts[: n + 1]) + b"\xff\xd9"
        yield f"cut in scan {n}.jpg", b"".join(parts[:n]) + parts[n][: len(parts[n]) // 2] + b"\xff\xd9"
        yield f"cut at scan {n}.jpg", b"".join(parts[:n])
    baseline = encode(shown(), "JPEG", quality=92)
    at = baseline.index(b"\xff\xc0")
    for code in (0xC1, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB):
        yield f"frame {code:x}.jpg", baseline[: at + 1] + bytes([code]) + baseline[at + 2 :]
    for ids in (b"\1\1\1", b"RGB", b"\0\1\2"):
        data = bytearray(baseline)
        for n in range(3):
            data[at + 10 + 3 * n] = ids[n]
        scan = baseline.index(b"\xff\xda")
        for n in range(3):
            data[scan + 5 + 2 * n] = ids[n]
        yield f"components {ids!r}.jpg", bytes(data)
    cmyk = encode(shown().convert("CMYK"), "JPEG", quality=92)
    yield "cmyk.jpg", cmyk
    adobe = cmyk.index(b"\xff\xee")
    yield "cmyk without adobe.jpg", cmyk[:adobe] + cmyk[adobe + 16 :]
    rows = np.asarray(shown()).tobytes()
    filtered = b"".join(b"\0" + rows[n : n + 3 * SIZE[0]] for n in range(0, len(rows), 3 * SIZE[0]))
    packed = zlib.compress(filtered)
    for name, body in {
        "no checksum": packed[:-4],
        "wrong checksum": packed[:-1] + bytes([packed[-1] ^ 1]),
        "rows missing": zlib.compress(filtered[: len(filtered) // 2]),
        "last byte missing": zlib.compress(filtered[:-1]),
        "rows too many": zlib.compress(filtered + filtered),
        "more behind": packed + b"more",
        "cut": packed[: len(packed) // 2],
        "empty": b"",
        "filter 5": zlib.compress(b"\5" + filtered[1:]),
        "small window": b"\x08\x1d" + packed[2:],
    }.items():
        yield f"data with {name}.png", START + header(SIZE) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    whole = encode(shown(), "PNG")
    yield "unknown critical.png", with_chunks(whole, chunk(b"ABCD", b""))
    yield "no end.png", whole[:-12]
    yield "header twice.png", whole[:33] + header(SIZE) + whole[33:]
    for kind in (b"gAMA", b"cHRM", b"iCCP"):
        bad = {
            b"gAMA": struct.pack(">I", 900_000),
            b"cHRM": bytes(32),
            b"iCCP": b"x\0\0" + zlib.compress(profile()),
        }[kind]
        yield f"{kind.decode()} with a wrong checksum.png", with_chunks(whole, chunk(kind, bad)[:-1] + b"?")
        yield f"{kind.decode()} after the image.png", with_chunks(whole, chunk(kind, bad), before=b"IEND")
    for at in (20, 40, 60, 80, 95):
        for kind, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("JPEG", {}), ("PNG", {})):
            data = encode(shown().quantize(16) if kind == "GIF" else shown(), kind, **options)
            yield f"{at} of a hundred.{kind.lower()}", data[: len(data) * at // 100]
            end = {"GIF": b"\0;", "JPEG": b"\xff\xd9", "PNG": chunk(b"IEND", b""), "WEBP": b""}[kind]
            yield f"{at} of a hundred, ended.{kind.lower()}", data[: len(data) * at // 100] + end


# --- 7: several at once ------------------------------------------------------------------------------------


def filtered_rows(rows: np.ndarray, kinds: list[int]) -> bytes:
    """Rows of one byte a pixel, each with a filter of these kinds (0 none, 1 left, 2 up) in turn."""
    result = bytearray()
    above = np.zeros(rows.shape[1], np.uint8)
    for number, row in enumerate(rows):
        kind = kinds[number % len(kinds)]
        left = np.concatenate([[0], row[:-1]]).astype(np.uint8)
        result += bytes([kind]) + (row - (0, left, above)[kind]).astype(np.uint8).tobytes()
        above = row
    return bytes(result)


def combined_png() -> Files:
    plain = encode(shown(), "PNG")
    icc = {"gamma": matrix_profile(gamma=4.0), "turned": matrix_profile((1, 2, 0)), "sRGB": srgb_profile()}
    gama = {"dark": 25_000, "light": 100_000}
    for turn in (3, 6):
        for name, body in icc.items():
            parts = chunk(b"iCCP", b"x\0\0" + zlib.compress(body)), chunk(b"eXIf", exif(turn))
            yield f"{name} and turned {turn}.png", with_chunks(plain, *parts)
            clear = shown().convert("RGBA")
            clear.putalpha(mask())
            yield f"{name}, clear and turned {turn}.png", with_chunks(encode(clear, "PNG"), *parts)
        for name, value in gama.items():
            parts = chunk(b"gAMA", struct.pack(">I", value)), chunk(b"eXIf", exif(turn))
            yield f"{name} and turned {turn}.png", with_chunks(plain, *parts)
            late = with_chunks(with_chunks(plain, parts[0]), parts[1], before=b"IEND")
            yield f"{name} and turned late {turn}.png", late
    values = (np.asarray(mask()) > 0).astype(np.uint8)
    black_white = bytes(3) + b"\xff" * 3
    for name, kinds in {
        "none": [0],
        "left": [1],
        "up": [2],
        "mixed": [0, 1, 2],
        "late": [0] * 60 + [2],
    }.items():
        for index in (1, 2, 130):
            rows = filtered_rows(values * index, kinds)
            body = chunk(b"PLTE", black_white) + chunk(b"tRNS", b"\x80") + chunk(b"IDAT", zlib.compress(rows))
            yield (
                f"palette filtered {name} {index}.png",
                START + header(SIZE, 8, 3) + body + chunk(b"IEND", b""),
            )
    for width in (1, 3, 5, 7, 95):
        for depth in (1, 2, 4):
            per = 8 // depth
            grid = np.zeros((SIZE[1], -(-width // per) * per), np.uint8)
            grid[:, :width] = values[:, :width]
            grid[:, width:] = (1 << depth) - 1  # padding, beyond the palette
            packed = np.zeros((SIZE[1], grid.shape[1] // per), np.uint8)
            for n in range(per):
                packed |= grid[:, n::per] << (8 - depth * (n + 1))
            parts = [chunk(b"PLTE", black_white)]
            yield (
                f"{width} wide of {depth} bits.png",
                png((width, SIZE[1]), packed.tobytes(), *parts, depth=depth, colour_type=3),
            )


def combined_jpeg() -> Files:
    def segments(data: bytes) -> tuple[bytes, int, int]:
        return data, data.index(b"\xff\xc0"), data.index(b"\xff\xda")

    data, frame, scan = segments(encode(shown(), "JPEG", quality=92))
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0")
    jfif = data[2:20]
    bare = data[:2] + data[20:]
    for ids in (b"\1\2\3", b"RGB", b"\0\1\2", b"rgb"):
        for name, parts in {
            "nothing": b"",
            "JFIF": jfif,
            "Adobe 0": adobe,
            "Adobe 1": adobe[:-1] + b"\1",
            "Adobe 2": adobe[:-1] + b"\2",
            "JFIF, Adobe 0": jfif + adobe,
            "Adobe 0, JFIF": adobe + jfif,
            "Adobe 0, Adobe 1": adobe + adobe[:-1] + b"\1",
        }.items():
            changed = bytearray(bare)
            for n in range(3):
                changed[frame - 18 + 10 + 3 * n] = ids[n]
                changed[scan - 18 + 5 + 2 * n] = ids[n]
            yield f"{name}, components {ids!r}.jpg", bytes(changed[:2]) + parts + bytes(changed[2:])
    for sampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        for restart in (0, 1, 7):
            options = {"quality": 92, "subsampling": sampling, "restart_marker_blocks": restart}
            for progressive in (False, True):
                for block in (b"", b"Exif\0\0" + exif(6)):
                    yield (
                        f"{sampling} {restart} {progressive} {bool(block)}.jpg",
                        encode(shown(), "JPEG", progressive=progressive, exif=block, **options),
                    )
    for profile_name in ("gamma 4.0", "channels turned"):
        icc = dict(profiles())[profile_name]
        for turn in (3, 6):
            block = b"Exif\0\0" + exif(turn)
            yield f"{profile_name}, turned {turn}.jpg", encode(shown(), "JPEG", exif=block, icc_profile=icc)
            grey = encode(shown().convert("L"), "JPEG", exif=block)
            yield f"grey, turned {turn} {profile_name}.jpg", grey
            yield (
                f"ink, turned {turn} {profile_name}.jpg",
                encode(shown().convert("CMYK"), "JPEG", exif=block),
            )
    for fill in (b"\xff" * 3, b"\xff" * 500):
        yield f"fill {len(fill)}.jpg", data[:scan] + fill + data[scan:]
    grey = bytearray(encode(shown().convert("L"), "JPEG", quality=92))
    for factors in (0x11, 0x22, 0x12, 0x41):
        grey[grey.index(b"\xff\xc0") + 11] = factors
        yield f"grey with factors {factors:x}.jpg", bytes(grey)


def combined_moving() -> Files:
    frames = [decoy(), shown(), decoy().transpose(pil.Transpose.FLIP_LEFT_RIGHT)]
    clear = [frame.convert("RGBA") for frame in frames]
    for frame in clear:
        frame.putalpha(mask().point(lambda level: 255 - level // 2))
    for kind, options in (("PNG", {"exif": exif(6)}), ("WEBP", {"exif": exif(6)})):
        yield f"moving, turned.{kind.lower()}", animation(frames, kind, **options)
        yield f"moving, turned, clear.{kind.lower()}", animation(clear, kind, **options)
    for name in ("gamma 4.0", "channels turned"):
        icc = dict(profiles())[name]
        for kind in ("PNG", "WEBP"):
            yield f"moving, {name}.{kind.lower()}", animation(frames, kind, icc_profile=icc)
            yield f"moving, {name}, clear.{kind.lower()}", animation(clear, kind, icc_profile=icc)
    for disposal in (0, 1, 2):
        for blend in (0, 1):
            options = {"disposal": disposal, "blend": blend}
            yield f"moving, clear, {disposal} {blend}.png", animation(clear, "PNG", **options)
            yield (
                f"moving, still apart, {disposal} {blend}.png",
                animation(clear, "PNG", default_image=True, **options),
            )
    for disposal in (0, 1, 2, 3):
        yield f"moving, clear, {disposal}.gif", animation(clear, "GIF", disposal=disposal)
        yield (
            f"moving, {disposal}, own palettes.gif",
            animation(
                [frame.quantize(n) for frame, n in zip(frames, (4, 60, 200), strict=True)],
                "GIF",
                disposal=disposal,
            ),
        )
    data = animation(clear, "WEBP", minimize_size=True, allow_mixed=True)
    starts = [at for at in range(len(data) - 4) if data[at : at + 4] == b"ANMF"]
    for n, at in enumerate(starts):
        for flags in range(4):
            yield f"frame {n} flags {flags}.webp", data[: at + 23] + bytes([flags]) + data[at + 24 :]


KINDS = {
    "colour": colour,
    "geometry": geometry,
    "palette": lambda: itertools.chain(palettes(), gif_palettes()),
    "transparency": transparency,
    "time": time,
    "damage": damage,
    "combined": lambda: itertools.chain(combined_png(), combined_jpeg(), combined_moving()),
}
