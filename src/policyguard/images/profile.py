"""Colour profiles: what the picture looks like in sRGB, and whether viewers will disagree about it."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL import ImageChops, ImageCms
from PIL.Image import Image as PILImage

from .colour import rgb

__all__ = ["Profile", "disagree", "gamma_corrected"]

_MAX_PROFILE = 4 * 1024 * 1024
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_ROUNDING = 3
#: Two readings of a picture disagree if more than this share of its pixels differs by more than these levels.
_VISIBLE_LEVELS, _VISIBLE_SHARE = 48, 0.001
_DISPLAY_GAMMA = 2.2


class Profile:
    """An ICC profile, for one thread.

    Making and using it raises whatever littlecms makes of a broken profile, and ValueError for one that is
    too large or for another colour space.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) > _MAX_PROFILE:
            raise ValueError("it is too large")
        self._data = data
        self._profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        self._mode = _MODES.get(self._profile.profile.xcolor_space.strip())
        self._transform: ImageCms.ImageCmsTransform | None = None

    def to_srgb(self, picture: PILImage) -> PILImage | None:
        """``picture`` (L, RGB or CMYK) in sRGB; ``None`` if the profile is sRGB already, within rounding."""
        if self._mode == "RGB" and picture.mode == "L":
            picture = picture.convert("RGB")
        if self._mode != picture.mode:
            raise ValueError("it is for another colour space")
        if self._mode == "RGB" and _is_srgb(self._data):
            return None
        if self._transform is None:
            self._transform = _transform(self._profile, picture.mode)
        return self._transform.apply(picture)


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes) -> bool:
    """Whether an RGB profile leaves colours as they are.

    Tried on every level of each channel. That proves it for profiles made of curves and a matrix; one with
    lookup tables could hide anything between the samples, and is never taken for sRGB.
    """
    count = min(int.from_bytes(profile[128:132]), 1000)
    if any(profile[132 + 12 * n :][:3] in (b"A2B", b"D2B") for n in range(count)):
        return False
    ramp = bytes(range(256))
    zero = bytes(256)
    planes = [ramp + zero + zero + ramp, zero + ramp + zero + ramp, zero + zero + ramp + ramp]
    probe = pil.merge("RGB", [pil.frombytes("L", (256, 4), plane) for plane in planes])
    shown = _transform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), "RGB").apply(probe)
    apart = ImageChops.difference(probe, shown)
    return max(apart.tobytes()) <= _ROUNDING


def gamma_corrected(picture: PILImage, gamma: float) -> PILImage | None:
    """``picture`` (L or RGB) as viewers that honour a PNG's gAMA show it; ``None`` if that changes nothing.

    A sample s (0..1) is meant as light s ** (1 / gamma), PNG specification section 11.3.2.2.
    """
    if gamma <= 0:
        return None
    exponent = 1 / (gamma * _DISPLAY_GAMMA)
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    if all(abs(shown - level) <= _ROUNDING for level, shown in enumerate(table)):
        return None
    return picture.point(table * len(picture.getbands()))


def disagree(one: PILImage, other: PILImage) -> bool:
    """Whether two readings of a picture differ so much that one could show what the other hides."""
    histogram = ImageChops.difference(rgb(one), rgb(other)).convert("L").histogram()
    return sum(histogram[_VISIBLE_LEVELS + 1 :]) > _VISIBLE_SHARE * one.width * one.height
