"""From a decoded frame to the RGB frames that people may see of it.

Covered: every mode of Pillow; transparency, on white, on black and left out (for readers that know none);
each way to take the colours, and each orientation. A second look is judged only where it shows something else
than the first, and at up to four megapixels: a guard model sees no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL import ImageChops
from PIL.Image import Image as PILImage
from PIL.Image import Resampling, Transpose, frombytes

from policyguard.images.colour import Colours, Way
from policyguard.images.refusal import Refusal

__all__ = [
    "Renderer",
    "disagree",
    "eight_bit",
    "rgb",
    "upright",
]

#: Blocks of so many pixels a side are compared, and differ by more than so many levels of a channel...
_SIDE, _VISIBLE = 8, 24
#: ... or, where browsers take sides, the whole image differs by more than so many.
_VISIBLE_MEAN = 5
_STRIP_PIXELS = 2_000_000
#: The most pixels of a second look.
_SECOND = 4_000_000
_BACKGROUNDS = ("white", "black")
_COMMON = ("1", "L", "LA", "P", "RGB", "RGBA")


def _usual(image: PILImage) -> PILImage:
    """The image in mode L, RGB or CMYK, or, if any of it is transparent, LA or RGBA."""
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
        if cast("tuple[tuple[int, int], ...]", image.getextrema())[-1] != (255, 255):
            return image
        return image.getchannel("L") if grey else image.convert("RGB")
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image


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


_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def upright(image: PILImage, turn: int) -> PILImage:
    """The image as a viewer that honours the orientation shows it."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


@dataclass(slots=True)
class _Gap:
    """How far two looks are apart, summed up over strips: in the worst block, and on average."""

    block: float = 0
    total: float = 0

    def add(self, one: PILImage, other: PILImage) -> None:
        blocks = ImageChops.difference(one, other).reduce(_SIDE)
        extrema = cast("tuple[tuple[int, int], ...]", blocks.getextrema())
        self.block = max(self.block, *(high for _, high in extrema))
        mean = cast("tuple[int, ...]", blocks.resize((1, 1), Resampling.BOX).getpixel((0, 0)))
        self.total += max(mean) * one.width * one.height

    def shows(self, pixels: int, *, doubtful: bool) -> bool:
        return self.block > _VISIBLE or (doubtful and self.total > _VISIBLE_MEAN * pixels)


def disagree(one: PILImage, other: PILImage) -> bool:
    """Whether two RGB images of a size differ so much that one could show what the other hides."""
    gap = _Gap()
    gap.add(one, other)
    return gap.shows(one.width * one.height, doubtful=True)


def _strips(size: tuple[int, int], unit: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that cover an image from top to bottom, of a few megapixels and a multiple of ``unit`` rows."""
    width, height = size
    rows = max(_STRIP_PIXELS // width // unit, 1) * unit
    for top in range(0, height, rows):
        yield (0, top, width, min(top + rows, height))


@dataclass(slots=True)
class Renderer:
    """Renders the frames of one image.

    ``notes`` collects remarks for the evidence, each once; ``alpha`` is the transparency of the last frame,
    upright, None where it was opaque.
    """

    turns: tuple[int, ...]
    colours: Colours
    notes: list[str] = field(default_factory=list)
    alpha: PILImage | None = None
    _rare: bool = False

    @property
    def usual(self) -> bool:
        """Whether readers that pass over metadata, or know no more than 8 bits and RGB, get the same colours
        the same way up, as far as frames were rendered (``notes`` says where that shows)."""
        return self.turns == (1,) and not self.colours.deep and not self._rare

    @property
    def faithful(self) -> bool:
        """Whether images without transparency are the decoded pixels as they stand."""
        return self.colours.plain and self.turns == (1,)

    def __call__(self, frame: PILImage) -> tuple[PILImage, ...]:
        """The RGB images that people may see of one frame; the likeliest first."""
        self._rare |= frame.mode not in _COMMON
        image = _usual(frame)
        looks = self._looks(image)
        first = self.turns[0]
        self.alpha = upright(image.getchannel("A"), first) if image.mode.endswith("A") else None
        turned = [upright(look, first) for look in looks]
        for turn in self.turns[1:]:
            self._note("viewers disagree on which way is up; judged in each")
            turned += [upright(_reduced(look), turn) for look in looks]
        return tuple(turned)

    def _looks(self, image: PILImage) -> list[PILImage]:
        clear = image.mode in ("LA", "RGBA")
        way, *others = self.colours.ways(image.mode.removesuffix("A"))
        if not clear and not others:
            return [way(image)]
        step = math.ceil(math.sqrt(image.width * image.height / _SECOND))
        # (way, background, how it is reduced): the first on each background, then the others.
        backgrounds: tuple[str | None, ...] = _BACKGROUNDS if clear else (None,)
        kinds: list[tuple[Way, str | None, int]] = [(way, background, 1) for background in backgrounds]
        kinds += [(other, background, step) for other in others for background in backgrounds]
        if clear:
            kinds.append((way, None, step))
        looks: list[PILImage | None] = [None] * len(kinds)
        gaps = [[_Gap() for _ in backgrounds] for _ in kinds]
        for box in _strips(image.size, _SIDE * step):
            piece = image if box[3] - box[1] == image.height else image.crop(box)
            painted = [_painted(piece, *kind[:2]) for kind in kinds]
            for number, ((_, _, scale), part) in enumerate(zip(kinds, painted, strict=True)):
                if number >= len(backgrounds):
                    hidden = clear and number == len(kinds) - 1
                    against = range(len(backgrounds)) if hidden else [number % len(backgrounds)]
                    for base in against:
                        gaps[number][base].add(painted[base], part)
                looks[number] = _put(looks[number], part, box, image.size, scale)
        pixels = image.width * image.height
        kept = [look for look in looks[: len(backgrounds)] if look is not None]
        for number in range(len(backgrounds), len(kinds)):
            hidden = clear and number == len(kinds) - 1
            shown = [
                gap.shows(pixels, doubtful=not hidden and self.colours.doubtful)
                for base, gap in enumerate(gaps[number])
                if hidden or base == number % len(backgrounds)
            ]
            look = looks[number]
            if all(shown) and look is not None:
                kept.append(look)
                self._note(
                    "it holds colours under its transparency; judged with them as well"
                    if hidden
                    else "viewers disagree on its colours; judged with and without its colour information"
                )
        return kept

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _painted(piece: PILImage, way: Way, background: str | None) -> PILImage:
    """A piece of an image, its colours taken in one ``way``, on a background or as if nothing were clear."""
    if background is None:
        return way(piece.convert(piece.mode.removesuffix("A")) if piece.mode.endswith("A") else piece)
    canvas = pil.new("RGB", piece.size, background)
    canvas.paste(way(piece.convert(piece.mode.removesuffix("A"))), mask=piece.getchannel("A"))
    return canvas


def _put(
    look: PILImage | None, part: PILImage, box: tuple[int, int, int, int], size: tuple[int, int], step: int
) -> PILImage:
    """``part`` in its place in a look that is reduced by ``step``; a look of one piece is that piece."""
    part = part.reduce(step) if step > 1 else part
    if box[3] - box[1] == size[1]:
        return part
    if look is None:
        look = pil.new("RGB", (-(-size[0] // step), -(-size[1] // step)))
    look.paste(part, (0, box[1] // step))
    return look


def _reduced(image: PILImage) -> PILImage:
    step = math.ceil(math.sqrt(image.width * image.height / _SECOND))
    return image.reduce(step) if step > 1 else image
