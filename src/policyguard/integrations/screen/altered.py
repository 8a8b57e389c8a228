"""An image that shows nothing of another one but its size: placeholder, blur, pixelation.

Covered: PNG, JPEG, WebP and GIF; the new image has the old one's size and format, one frame, and no
metadata. Blur and pixelation keep at most 8 colours along the longer side, spread over the whole image, so
that shapes and text are gone. Not covered: what large areas of colour still tell.
"""

from __future__ import annotations

import io
from typing import Literal, TypeAlias, get_args

from policyguard.errors import ImageError
from policyguard.images import decode
from policyguard.integrations.extract import Replacement

__all__ = ["REPLACEMENTS", "ReplaceWith", "altered"]

ReplaceWith: TypeAlias = Literal["placeholder", "blur", "pixelate"]
REPLACEMENTS: tuple[str, ...] = get_args(ReplaceWith)

_GRID = 8
"""Colours along the longer side that are left of an image."""

_GREY = (128, 128, 128)


def altered(data: bytes, how: ReplaceWith) -> Replacement:
    """What stands in for ``data``. Raises ImageError for what cannot be opened or written again."""
    from PIL import Image as pil  # noqa: N813 (the module)

    image = decode(data)
    if image.format is None:
        raise ImageError("only encoded images can be replaced")
    if how == "placeholder":
        frame = pil.new("RGB", image.size, _GREY)
    else:
        width, height = image.size
        scale = _GRID / max(width, height)
        grid = (max(1, round(width * scale)), max(1, round(height * scale)))
        few = image.frames[0].resize(grid, pil.Resampling.BOX)
        smooth = pil.Resampling.BICUBIC if how == "blur" else pil.Resampling.NEAREST
        frame = few.resize(image.size, smooth)
    buffer = io.BytesIO()
    try:
        frame.save(buffer, image.format)
    except (OSError, ValueError) as error:
        raise ImageError(f"the image cannot be written as {image.format} again: {error}") from error
    return Replacement(buffer.getvalue(), f"image/{image.format.lower()}")
