"""From a decoded frame to the RGB frames that people may see of it: upright, in sRGB, on white and on black.

Covered: every mode of Pillow, transparency, colour profiles and gamma, and the orientation in EXIF, which is
read here and not with Pillow, whose reader parses every tag of an untrusted block for the sake of one.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL import ImageChops, ImageCms
from PIL.Image import Image as PILImage
from PIL.Image import Resampling, Transpose, frombytes
from PIL.ImageCms import PyCMSError

from policyguard.images.refusal import Refusal

__all__ = [
    "Profile",
    "Renderer",
    "disagree",
    "eight_bit",
    "gamma_corrected",
    "orientation",
    "rgb",
    "split",
    "upright",
]


def split(image: PILImage) -> tuple[PILImage, PILImage | None]:
    """(colours in mode L, RGB or CMYK, alpha in mode L); alpha is ``None`` if nothing is transparent."""
    if image.mode.startswith("I;16"):
        image = eight_bit(image)
    elif image.mode in ("I", "F"):
        image = _scaled(image)
    elif image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA")
        if image.mode == "P":
            image = image.copy()  # converting it writes the transparency into its palette
        if image.mode not in ("LA", "RGBA"):
            image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
        image = image.getchannel("L") if grey else image.convert("RGB")
        return image, None if alpha.getextrema() == (255, 255) else alpha
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image, None


def rgb(image: PILImage) -> PILImage:
    """The image in RGB; itself if it is (Pillow would copy it)."""
    return image if image.mode == "RGB" else image.convert("RGB")


def eight_bit(image: PILImage) -> PILImage:
    """16-bit grey as 8-bit grey: the upper byte of each sample. (Pillow's own conversion clamps to white.)"""
    upper = 0 if image.mode.endswith("B") else 1
    result = frombytes("L", image.size, image.tobytes()[upper::2])
    key = image.info.get("transparency")
    result.info = {**image.info, "transparency": key >> 8} if isinstance(key, int) else dict(image.info)
    return result


def _scaled(image: PILImage) -> PILImage:
    """Modes I and F, which have no agreed range: 0..1 (F only), 0..255 or 0..65535, the first that fits.

    An image darker than its range is shown brighter than meant, which hides nothing.
    """
    low, high = cast("tuple[float, float]", image.getextrema())
    tops = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    top = next((top for top in tops if 0 <= low <= high <= top), None)
    if top is None:
        raise Refusal(
            f"holds values from {low} to {high} in mode {image.mode}, which has no agreed range",
            hint="scale the values to 0..255 and convert to mode L",
        )
    if image.mode == "F":  # the extremes pass over NaN; a mean does not
        mean = cast("float", image.resize((1, 1), Resampling.BOX).getpixel((0, 0)))
        if math.isnan(mean):
            raise Refusal(
                "holds values that are not numbers (NaN)", hint="replace them, and convert to mode L"
            )
    factor = 255 / top
    return image.convert("F").point(lambda value: value * factor + 0.5).convert("L")


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


def upright(image: PILImage, turn: int) -> PILImage:
    """The image as a viewer that honours the orientation shows it."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


_MAX_PROFILE = 4 * 1024 * 1024
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_ROUNDING = 3

#: Two readings of an image disagree if more than this share of its pixels differs by more than these levels.
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

    def to_srgb(self, image: PILImage) -> PILImage | None:
        """``image`` (L, RGB or CMYK) in sRGB; ``None`` if the profile is sRGB already, within rounding."""
        if self._mode == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if self._mode != image.mode:
            raise ValueError("it is for another colour space")
        if self._mode == "RGB" and _is_srgb(self._data):
            return None
        if self._transform is None:
            self._transform = _transform(self._profile, image.mode)
        return self._transform.apply(image)


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
    converted = _transform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), "RGB").apply(probe)
    apart = ImageChops.difference(probe, converted)
    return max(apart.tobytes()) <= _ROUNDING


def gamma_corrected(image: PILImage, gamma: float) -> PILImage | None:
    """``image`` (L or RGB) as viewers that honour a PNG's gAMA show it; ``None`` if that changes nothing.

    A sample s (0..1) is meant as light s ** (1 / gamma), PNG specification section 11.3.2.2.
    """
    if gamma <= 0:
        return None
    exponent = 1 / (gamma * _DISPLAY_GAMMA)
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    if all(abs(output - level) <= _ROUNDING for level, output in enumerate(table)):
        return None
    return image.point(table * len(image.getbands()))


def disagree(one: PILImage, other: PILImage) -> bool:
    """Whether two readings of an image differ so much that one could show what the other hides."""
    histogram = ImageChops.difference(rgb(one), rgb(other)).convert("L").histogram()
    return sum(histogram[_VISIBLE_LEVELS + 1 :]) > _VISIBLE_SHARE * one.width * one.height


_BACKGROUNDS = ("white", "black")


@dataclass(slots=True)
class Renderer:
    """Renders the frames of one image. ``notes`` collects remarks for the evidence, each once; ``alpha`` is
    that of the last frame, upright, None where it was opaque."""

    exif: bytes | None
    icc: bytes | None
    gamma: float | None
    notes: list[str] = field(default_factory=list)
    alpha: PILImage | None = None
    _profile: Profile | None = None

    @property
    def faithful(self) -> bool:
        """Whether images without transparency are the decoded pixels as they stand."""
        return not self.icc and not self.gamma and orientation(self.exif) == 1

    def __call__(self, frame: PILImage) -> tuple[PILImage, ...]:
        """One to four RGB images, upright: each reading of the colours on each background that shows."""
        colours, alpha = split(frame)
        turn = orientation(self.exif)
        self.alpha = None if alpha is None else upright(alpha, turn)
        return tuple(
            upright(image, turn)
            for reading in self._readings(colours)
            for image in _on_backgrounds(rgb(reading), alpha)
        )

    def _readings(self, colours: PILImage) -> list[PILImage]:
        """The colours as the file means them, and, if that is something else altogether, as they stand."""
        meant = None
        if self.icc:
            try:
                self._profile = self._profile or Profile(self.icc)
                meant = self._profile.to_srgb(colours)
            except (OSError, ValueError, TypeError, PyCMSError) as error:
                self._note(f"its colour profile was not applied: {' '.join(str(error).split())[:100]}")
        elif self.gamma and colours.mode != "CMYK":
            meant = gamma_corrected(colours, self.gamma)
        if meant is None:
            return [colours]
        if not disagree(meant, colours):
            return [meant]
        self._note("viewers disagree on its colours; judged with and without its colour information")
        return [meant, colours]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _on_backgrounds(image: PILImage, alpha: PILImage | None) -> list[PILImage]:
    if alpha is None:
        return [image]
    composed = []
    for colour in _BACKGROUNDS:
        canvas = pil.new("RGB", image.size, colour)
        canvas.paste(image, mask=alpha)
        composed.append(canvas)
    return composed
