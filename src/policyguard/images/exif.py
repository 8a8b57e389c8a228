"""The one thing that EXIF data says about what a viewer shows: which way is up.

Read here and not with Pillow, whose reader parses every tag of an untrusted block for the sake of one.
"""

from __future__ import annotations

import struct

from PIL.Image import Image as PILImage
from PIL.Image import Transpose

__all__ = ["orientation", "upright"]

_ORIENTATION_TAG, _SHORT, _LONG = 0x0112, 3, 4
_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def orientation(exif: bytes | None) -> int:
    """The orientation, 1 to 8, of a raw EXIF block; 1 (upright) where there is none or it cannot be read."""
    if not exif:
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION_TAG and kind in (_SHORT, _LONG):
                (value,) = struct.unpack_from(order + ("H" if kind == _SHORT else "I"), tiff, entry + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def upright(picture: PILImage, turn: int) -> PILImage:
    """The picture as a viewer that honours the orientation shows it."""
    return picture.transpose(_TURNS[turn]) if turn in _TURNS else picture
