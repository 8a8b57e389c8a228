"""Every mode of Pillow, taken apart into colours (L, RGB or CMYK) and real transparency."""

from __future__ import annotations

import math
from typing import cast

from PIL.Image import Image as PILImage
from PIL.Image import Resampling, frombytes

from .refusal import Refusal

__all__ = ["eight_bit", "rgb", "split"]


def split(picture: PILImage) -> tuple[PILImage, PILImage | None]:
    """(colours in mode L, RGB or CMYK, alpha in mode L); alpha is ``None`` if nothing is transparent."""
    if picture.mode.startswith("I;16"):
        picture = eight_bit(picture)
    elif picture.mode in ("I", "F"):
        picture = _scaled(picture)
    elif picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        grey = picture.mode in ("1", "L", "LA")
        if picture.mode == "P":
            picture = picture.copy()  # converting it writes the transparency into its palette
        if picture.mode not in ("LA", "RGBA"):
            picture = picture.convert("LA" if grey else "RGBA")
        alpha = picture.getchannel("A")
        picture = picture.getchannel("L") if grey else picture.convert("RGB")
        return picture, None if alpha.getextrema() == (255, 255) else alpha
    if picture.mode not in ("L", "RGB", "CMYK"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    return picture, None


def rgb(picture: PILImage) -> PILImage:
    """The picture in RGB; itself if it is (Pillow would copy it)."""
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def eight_bit(picture: PILImage) -> PILImage:
    """16-bit grey as 8-bit grey: the upper byte of each sample. (Pillow's own conversion clamps to white.)"""
    upper = 0 if picture.mode.endswith("B") else 1
    result = frombytes("L", picture.size, picture.tobytes()[upper::2])
    key = picture.info.get("transparency")
    result.info = {**picture.info, "transparency": key >> 8} if isinstance(key, int) else dict(picture.info)
    return result


def _scaled(picture: PILImage) -> PILImage:
    """Modes I and F, which have no agreed range: 0..1 (F only), 0..255 or 0..65535, the first that fits.

    A picture darker than its range is so shown brighter than meant, which hides nothing.
    """
    low, high = cast("tuple[float, float]", picture.getextrema())
    tops = (1, 255, 65535) if picture.mode == "F" else (255, 65535)
    top = next((top for top in tops if 0 <= low <= high <= top), None)
    if top is None:
        raise Refusal(
            f"holds values from {low} to {high} in mode {picture.mode}, which has no agreed range",
            hint="scale the values to 0..255 and convert to mode L",
        )
    if picture.mode == "F":  # the extremes pass over NaN; a mean does not
        mean = cast("float", picture.resize((1, 1), Resampling.BOX).getpixel((0, 0)))
        if math.isnan(mean):
            raise Refusal(
                "holds values that are not numbers (NaN)", hint="replace them, and convert to mode L"
            )
    factor = 255 / top
    return picture.convert("F").point(lambda value: value * factor + 0.5).convert("L")
