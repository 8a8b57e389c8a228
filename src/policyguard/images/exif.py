"""What viewers may read out of EXIF blocks: which way is up, and whether a density stretches the image.

Covered: every place of a block where a reader may find one of the few entries that change what is shown,
whether or not the block is well-formed. A block in which all of them say the same, in the usual form, has one
reading; of any other, all readings are judged, or the image is refused.
Not covered: orientation in XMP, which browsers do not read.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence

from policyguard.images.refusal import Refusal

__all__ = ["STRIP", "check_density", "turns"]

_ORIENTATION, _EXIF = 0x0112, 0x8769
_X_RESOLUTION, _Y_RESOLUTION, _X_PIXELS, _Y_PIXELS = 0x011A, 0x011B, 0xA002, 0xA003
_SHORT, _LONG, _RATIONAL = 3, 4, 5
_PREFIX = b"Exif\0\0"
_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_MAX_LENGTH = 4 * 1024 * 1024
#: How many ways round an image is judged.
_MAX_TURNS = 3
#: Browsers scale an image to the size that its EXIF block states if that is its size at this density.
_DENSITY = 72
STRIP = "save it again without metadata, for example `magick in.jpg -auto-orient -strip out.jpg`"


def turns(blocks: Sequence[bytes], *, agreed: bool = True) -> tuple[int, ...]:
    """The orientations, 1 to 8, by which viewers may turn the image; as its EXIF says comes first.

    ``agreed`` says whether they all honour a well-formed block, as they do for JPEG.
    """
    if not blocks:
        return (1,)
    if (length := sum(map(len, blocks))) > _MAX_LENGTH:
        raise Refusal(f"has {length / 2**20:.1f} MiB of EXIF metadata", hint=STRIP)
    usual = _usual(blocks[0]) if len(blocks) == 1 else None
    anywhere = {turn for block in blocks for turn in _anywhere(block)}
    if agreed and usual is not None and anywhere <= {usual}:
        return (usual,)
    first = usual or 1
    found = (first, *sorted((anywhere | {1}) - {first}))
    if len(found) > _MAX_TURNS:
        raise Refusal(
            f"turns {len(found)} ways by its EXIF metadata; viewers disagree on which is right", hint=STRIP
        )
    return found


def check_density(blocks: Iterable[bytes], size: tuple[int, int]) -> None:
    """Refuse an image that browsers stretch to the size in its EXIF block."""
    for block in blocks:
        across, down = (
            [(pixels, density) for pixels in _numbers(block, side) for density in _numbers(block, resolution)]
            for side, resolution in ((_X_PIXELS, _X_RESOLUTION), (_Y_PIXELS, _Y_RESOLUTION))
        )
        for width, height in (size, size[::-1]):
            wide = {pixels for pixels, density in across if _is(pixels, width, density)}
            high = {pixels for pixels, density in down if _is(pixels, height, density)}
            if wide and high and (wide - {width} or high - {height}):
                raise Refusal(
                    f"is {size[0]} x {size[1]} pixels, and its EXIF metadata has browsers show it as "
                    f"{min(wide):g} x {min(high):g}",
                    hint=STRIP,
                )


def _is(pixels: float, stored: int, density: float) -> bool:
    return density > 0 and abs(pixels - stored * _DENSITY / density) <= 1


def _usual(block: bytes) -> int | None:
    """The orientation of a block that every reader reads alike; ``None`` if this is not one."""
    tiff = block.removeprefix(_PREFIX)
    order = _ORDERS.get(tiff[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        entries = list(_entries(tiff, order, start))
        inner = [
            tag
            for at in (value for tag, kind, count, value in entries if tag == _EXIF)
            for tag, *_ in _entries(tiff, order, struct.unpack(order + "I", at)[0])
        ]
    except struct.error:
        return None
    found = [(kind, count, value) for tag, kind, count, value in entries if tag == _ORIENTATION]
    if _ORIENTATION in inner or _EXIF in inner or len(found) > 1:
        return None
    if not found:
        return 1
    kind, count, value = found[0]
    turn = struct.unpack_from(order + "H", value)[0]
    return turn if (kind, count) == (_SHORT, 1) and 1 <= turn <= 8 else None


def _entries(tiff: bytes, order: str, start: int) -> Iterator[tuple[int, int, int, bytes]]:
    """(tag, type, count, four bytes of value) of a directory."""
    (count,) = struct.unpack_from(order + "H", tiff, start)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        yield struct.unpack_from(order + "HHI4s", tiff, at)


def _matches(block: bytes, tag: int) -> Iterator[tuple[str, int, bytes]]:
    """(byte order, type, value) of whatever looks like an entry with this ``tag``, wherever it stands."""
    for order, form in (
        (">", rb"(?=%b\0([\1-\15])\0\0\0.(.{4}))"),
        ("<", rb"(?=%b([\1-\15])\0.\0\0\0(.{4}))"),
    ):
        pattern = form % re.escape(struct.pack(order + "H", tag))
        for match in re.finditer(pattern, block, re.DOTALL):
            yield order, match[1][0], match[2]


def _anywhere(block: bytes) -> set[int]:
    """Every orientation but upright that some reader may make of the block."""
    return {
        turn
        for order, _, value in _matches(block, _ORIENTATION)
        for turn in (value[0], *struct.unpack_from(order + "H", value), *struct.unpack(order + "I", value))
        if 2 <= turn <= 8
    }


def _numbers(block: bytes, tag: int) -> set[float]:
    """The values that some reader may take for those of ``tag``."""
    result: set[float] = set()
    for order, kind, value in _matches(block, tag):
        if len(result) > 16:
            break
        (number,) = struct.unpack(order + "I", value)
        result |= {float(number), float(struct.unpack_from(order + "H", value)[0])}
        if kind >= _RATIONAL:
            for base in (0, len(_PREFIX)):
                above, below = struct.unpack(order + "II", (block[base + number :][:8]).ljust(8, b"\0"))
                result.add(above / below if below else 0.0)
    return result
