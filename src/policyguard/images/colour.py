"""How viewers take the colours of an image: which colour profiles they all read alike, and PNG's gamma.

A profile is *plain* if it is made of a matrix and smooth curves, is complete, and says nothing twice: those
littlecms, skcms (Chromium) and qcms (Firefox) apply alike. An image with any other is refused, for one viewer
may apply it and the next leave it out. Profiles for ink (CMYK) always hold a table; there, the colours are
judged with the profile and without.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL import ImageChops, ImageCms
from PIL.Image import Image as PILImage
from PIL.ImageCms import PyCMSError

from policyguard.images.refusal import Refusal

__all__ = ["Colours", "check_profile", "gamma_table"]

_MAX_PROFILE = 4 * 1024 * 1024
_MAX_PLAIN, _MAX_TAGS, _MAX_CURVE = 1024 * 1024, 64, 4096
_SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
_CLASSES = {b"mntr", b"spac", b"scnr", b"prtr"}
_HINT = "convert it to plain sRGB, for example `magick in.png -profile sRGB.icc -strip out.png`"
_D50 = (0.9642, 1.0, 0.8249)
_ROUNDING = 3
_DISPLAY_GAMMA = 2.2

#: Takes an image in mode L, RGB or CMYK, gives it in RGB.
Way = Callable[[PILImage], PILImage]


@dataclass(frozen=True, slots=True)
class Colours:
    """What a file says of its colours: ``icc`` is its profile, ``gamma`` what a PNG's gAMA declares.

    ``untagged_first`` says that browsers rather leave the gamma out (there is an sRGB chunk), ``deep`` that
    there were 16 bits per sample.
    """

    icc: bytes | None = None
    gamma: float | None = None
    untagged_first: bool = False
    deep: bool = False

    def ways(self, mode: str) -> list[Way]:
        """The ways to see the colours of an image in ``mode`` (L, RGB or CMYK), the likeliest first.

        The last is always as they stand. Raises Refusal where viewers disagree and cannot all be followed.
        """
        if self.icc:
            meant = profile_way(self.icc, mode)
            return [_as_it_stands] if meant is None else [meant, _as_it_stands]
        table = gamma_table(self.gamma, deep=self.deep) if self.gamma is not None and mode != "CMYK" else None
        if table is None:
            return [_as_it_stands]
        ways: list[Way] = [
            lambda image: _as_it_stands(image.point(table * len(image.getbands()))),
            _as_it_stands,
        ]
        return ways[::-1] if self.untagged_first else ways

    @property
    def plain(self) -> bool:
        """Whether there is nothing but the samples as they stand."""
        return not self.icc and self.gamma is None

    @property
    def doubtful(self) -> bool:
        """Whether some browsers take the one way and some the other."""
        return not self.icc


def _as_it_stands(image: PILImage) -> PILImage:
    return image if image.mode == "RGB" else image.convert("RGB")


# --- profiles ----------------------------------------------------------------------------------------------


def profile_way(icc: bytes, mode: str) -> Way | None:
    """The way through an ICC profile; ``None`` if that leaves the colours as they are, within rounding."""
    space = check_profile(icc)
    if space != mode and (space, mode) != ("RGB", "L"):
        raise Refusal(f"has a colour profile for {space} on an image in {mode}", hint=_HINT)
    if space == "RGB" and is_srgb(icc):
        return None
    transform = _transform(icc, space)
    return lambda image: transform.apply(image if image.mode == space else image.convert(space))


def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ValueError, TypeError, PyCMSError) as error:
        raise _doubtful("cannot be applied") from error


@lru_cache(maxsize=64)
def is_srgb(icc: bytes) -> bool:
    """Whether a plain RGB profile leaves colours as they are: tried on every level of each channel."""
    ramp = bytes(range(256))
    zero = bytes(256)
    planes = [ramp + zero + zero + ramp, zero + ramp + zero + ramp, zero + zero + ramp + ramp]
    probe = pil.merge("RGB", [pil.frombytes("L", (256, 4), plane) for plane in planes])
    apart = ImageChops.difference(probe, _transform(icc, "RGB").apply(probe))
    return max(apart.tobytes()) <= _ROUNDING


def _doubtful(what: str) -> Refusal:
    return Refusal(f"has a colour profile that {what}; viewers disagree on it", hint=_HINT)


@lru_cache(maxsize=64)
def check_profile(icc: bytes) -> str:
    """The mode of image that a plain ICC profile, or one for ink, is made for. Refuses any other."""
    if len(icc) > _MAX_PROFILE or len(icc) < 132:
        raise _doubtful(f"is {len(icc):,} bytes long")
    size, version, kind, space, connection = struct.unpack_from(">I4xB3x4s4s4s", icc)
    if size != len(icc) or icc[36:40] != b"acsp":
        raise _doubtful("is damaged or incomplete")
    if version not in (2, 4) or kind not in _CLASSES or space not in _SPACES:
        raise _doubtful("is of an unusual version, class or colour space")
    tags = _tags(icc)
    white = _numbers(tags, b"wtpt", b"XYZ ")
    if not (len(white) == 3 and all(abs(a - b) <= 0.35 for a, b in zip(white, _D50, strict=True))):
        raise _doubtful("has no sensible white point")
    if _SPACES[space] == "CMYK":
        _check_ink(icc, tags, connection)
    else:
        _check_matrix(tags, space, connection)
    return _SPACES[space]


def _tags(icc: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", icc, 128)
    if count > _MAX_TAGS:
        raise _doubtful(f"has {count} tags")
    tags: dict[bytes, bytes] = {}
    for at in range(132, 132 + 12 * count, 12):
        if at + 12 > len(icc):
            raise _doubtful("is damaged or incomplete")
        name, start, length = struct.unpack_from(">4sII", icc, at)
        if name in tags:
            raise _doubtful(f"holds its {_text(name)} twice")
        if start < 132 + 12 * count or start + length > len(icc):
            raise _doubtful("is damaged or incomplete")
        tags[name] = icc[start : start + length]
    return tags


def _text(name: bytes) -> str:
    return name.decode("ascii", "replace").strip()


def _numbers(tags: dict[bytes, bytes], name: bytes, kind: bytes) -> list[float]:
    body = tags.get(name, b"")
    if body[:4] != kind or len(body) % 4:
        return []
    return [value / 65536 for (value,) in struct.iter_unpack(">i", body[8:])]


def _check_matrix(tags: dict[bytes, bytes], space: bytes, connection: bytes) -> None:
    tables = [name for name in tags if name[:3] in (b"A2B", b"D2B", b"B2A", b"B2D") or name == b"cicp"]
    if tables:
        raise _doubtful(f"holds a table ({_text(tables[0])})")
    if len(b"".join(tags.values())) > _MAX_PLAIN:
        raise _doubtful("is too large")
    if space == b"RGB ":
        if connection != b"XYZ ":
            raise _doubtful("has no matrix")
        columns = [_numbers(tags, name, b"XYZ ") for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        if [len(column) for column in columns] != [3, 3, 3]:
            raise _doubtful("has no matrix")
        white = [sum(parts) for parts in zip(*columns, strict=True)]
        if any(abs(a - b) > 0.06 for a, b in zip(white, _D50, strict=True)):
            raise _doubtful("does not keep white white")
        if any(not -0.2 <= value <= 1.2 for column in columns for value in column):
            raise _doubtful("has a strange matrix")
    for name in (b"rTRC", b"gTRC", b"bTRC") if space == b"RGB " else (b"kTRC",):
        _check_curve(tags.get(name, b""))


def _check_curve(body: bytes) -> None:
    """Refuse a curve that is not smooth: steep steps and flat steps hide what they pull together."""
    values = _curve(body)
    levels = [255 * (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055) for v in values]
    steps = [after - before for before, after in pairwise(levels)]
    if levels[0] > 16 or levels[-1] < 247 or min(steps) < 0 or max(steps[16:]) > 8 or max(steps) > 20:
        raise _doubtful("has a curve with steps")


def _curve(body: bytes) -> list[float]:
    """What the curve makes of each of 256 levels, 0 to 1."""
    places = [level / 255 for level in range(256)]
    if body[:4] == b"curv" and len(body) >= 12:
        (count,) = struct.unpack_from(">I", body, 8)
        if count <= _MAX_CURVE and len(body) >= 12 + 2 * count:
            points = [value / 65535 for value in struct.unpack_from(f">{count}H", body, 12)]
            if count == 0:
                return places
            if count == 1:
                return [place ** (points[0] * 65535 / 256) for place in places]
            return [_between(points, place * (count - 1)) for place in places]
    elif body[:4] == b"para" and len(body) >= 16:
        kind = struct.unpack_from(">H", body, 8)[0]
        values = [value / 65536 for (value,) in struct.iter_unpack(">i", body[12 : len(body) // 4 * 4])]
        if kind < 5 and len(values) >= (1, 3, 4, 5, 7)[kind]:
            return [_parametric(kind, values, place) for place in places]
    raise _doubtful("has a damaged curve")


def _between(points: Sequence[float], place: float) -> float:
    below = min(int(place), len(points) - 2)
    return points[below] + (points[below + 1] - points[below]) * (place - below)


def _parametric(kind: int, values: Sequence[float], x: float) -> float:
    """ICC.1:2022 table 68, clipped to 0..1."""
    g, a, b, c, d, e, f = (*values, *(0.0,) * 7)[:7]
    if kind == 0:
        a, b, c, d, e, f = 1.0, 0.0, 0.0, -1.0, 0.0, 0.0
    elif kind in (1, 2):
        d, e, f, c = (-b / a if a else 0.0), (c if kind == 2 else 0.0), (c if kind == 2 else 0.0), 0.0
    y = max(a * x + b, 0.0) ** g + e if x >= d else c * x + f
    return min(max(y, 0.0), 1.0)


_MAX_GRID = 21
#: The most levels that a channel may change from one point of a table of nine to the next, and along one ink.
_MAX_INK_STEP, _MAX_RAMP_STEP = 96, 12


def _check_ink(icc: bytes, tags: dict[bytes, bytes], connection: bytes) -> None:
    """Refuse a profile for CMYK that does not behave like ink: tried at every point of its table."""
    table = tags.get(b"A2B0", b"")
    if table[:4] not in (b"mft1", b"mft2") or connection != b"Lab " or len(table) < 52:
        raise _doubtful("holds no table in the usual form for ink")
    grid = table[10]
    if table[8:10] != b"\4\3" or not 2 <= grid <= _MAX_GRID or any(name[:1] == b"D" for name in tags):
        raise _doubtful("holds no table in the usual form for ink")
    transform = _transform(icc, "CMYK")
    steps = bytes(round(255 * step / (grid - 1)) for step in range(grid))
    most = _MAX_INK_STEP * 8 / (grid - 1)
    for ink in range(4):
        inks = [steps] * 4
        zero = [b"\0"] * 4
        for levels, limit, rest in ((steps, most, inks), (bytes(range(256)), _MAX_RAMP_STEP, zero)):
            before, after = (
                transform.apply(_grid([*rest[:ink], part, *rest[ink + 1 :]]))
                for part in (levels[:-1], levels[1:])
            )
            if max(ImageChops.difference(before, after).tobytes()) > limit:
                raise _doubtful("has a table with steps")


def _grid(levels: Sequence[bytes]) -> PILImage:
    """A CMYK image of one row that holds every combination of the ``levels`` of its inks."""
    count = math.prod(map(len, levels))
    planes = []
    repeat = 1
    for values in levels:
        plane = b"".join(bytes([value]) * repeat for value in values)
        planes.append(pil.frombytes("L", (count, 1), plane * (count // len(plane))))
        repeat *= len(values)
    return pil.merge("CMYK", planes)


# --- gamma -------------------------------------------------------------------------------------------------


def gamma_table(gamma: float, *, deep: bool = False) -> list[int] | None:
    """What viewers that honour a PNG's gAMA make of each level; ``None`` if that changes nothing.

    A sample s (0..1) is meant as light s ** (1 / gamma), PNG specification section 11.3.2.2.
    """
    if not 0.15 <= gamma <= (1.1 if deep else 2.6):  # a steep curve brings out what 8 bits lose
        raise Refusal(
            f"declares a gamma of {gamma:g}, which viewers show in different ways",
            hint="save it again without gamma, for example `magick in.png +profile '*' out.png`",
        )
    exponent = 1 / (gamma * _DISPLAY_GAMMA)
    table = [round(255 * (level / 255) ** exponent) for level in range(256)]
    if all(abs(output - level) <= _ROUNDING for level, output in enumerate(table)):
        return None
    return table
