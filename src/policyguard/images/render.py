"""From a decoded frame to the RGB frames that people may see of it.

Covered: every mode of Pillow; transparency, on white, on black and left out (for readers that know none);
each way to take the colours, and each orientation. A second look is judged only where it shows something else
than the first, and at up to four megapixels: a guard model sees no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
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
    "is_opaque",
    "opaque",
    "reduced",
    "rgb",
    "upright",
    "usual",
]

#: Blocks of so many pixels a side are compared, and differ by more than so many levels of a channel...
_SIDE, _VISIBLE = 8, 24
#: ... or, where browsers take sides, the whole image differs by more than so many.
_VISIBLE_MEAN = 5
#: Pixels that are worked on at a time: few enough to stay in the processor's cache.
_STRIP_PIXELS = 128 * 1024
#: The most pixels of a second look.
_SECOND = 4_000_000
_BACKGROUNDS = ("white", "black")
_COMMON = ("1", "L", "LA", "P", "RGB", "RGBA")


def usual(image: PILImage) -> PILImage:
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
        return opaque(image) if is_opaque(image) else image
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return image


def is_opaque(image: PILImage) -> bool:
    """Whether no pixel of an LA or RGBA image is transparent."""
    for _, piece in _strips(image):
        alpha = piece.getchannel("A").tobytes()
        if alpha != b"\xff" * len(alpha):  # many times faster than Pillow's ways to look at each pixel
            return False
    return True


def opaque(image: PILImage) -> PILImage:
    """An LA or RGBA image without its transparency; any other as it is."""
    if image.mode != "RGBA":
        return image.getchannel("L") if image.mode == "LA" else image
    look = _Look(image.size)
    for box, piece in _strips(image):  # in half the time of Pillow's conversion
        look.put(frombytes("RGB", piece.size, piece.tobytes(), "raw", "RGBX"), box)
    return cast("PILImage", look.image)


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


#: What undoes each turn; the others undo themselves.
_BACK = {6: 8, 8: 6}


def upright(image: PILImage, turn: int) -> PILImage:
    """The image as a viewer that honours the orientation shows it."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


@dataclass(slots=True)
class _Gap:
    """How far two looks are apart, summed up over strips: in the worst block, and on average."""

    block: float = 0
    total: float = 0
    pixels: int = 0

    def add(self, one: PILImage, other: PILImage) -> None:
        if one is other or self.block > _VISIBLE:
            return  # nothing to see, or all there is to know
        blocks = ImageChops.difference(one, other).reduce(_SIDE)
        extrema = cast("tuple[tuple[int, int], ...]", blocks.getextrema())
        self.block = max(self.block, *(high for _, high in extrema))
        mean = cast("tuple[int, ...]", blocks.resize((1, 1), Resampling.BOX).getpixel((0, 0)))
        self.total += max(mean) * one.width * one.height
        self.pixels += one.width * one.height

    def shows(self, *, doubtful: bool = False) -> bool:
        return self.block > _VISIBLE or (doubtful and self.total > _VISIBLE_MEAN * self.pixels)


def disagree(one: PILImage, other: PILImage) -> bool:
    """Whether two RGB images of a size differ so much that one could show what the other hides."""
    gap = _Gap()
    gap.add(one, other)
    return gap.shows(doubtful=True)


def _strips(image: PILImage, unit: int = 1) -> Iterator[tuple[tuple[int, int, int, int], PILImage]]:
    """The image from top to bottom in boxes of a multiple of ``unit`` rows."""
    rows = max(_STRIP_PIXELS // image.width // unit, 1) * unit
    if rows >= image.height:
        yield (0, 0, *image.size), image
        return
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        yield box, image.crop(box)


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

    def __call__(self, frames: Iterator[PILImage]) -> tuple[PILImage, ...]:
        """The RGB images that people may see of the next of ``frames``; the likeliest first.

        Whoever gives frames should not hold on to a large one, which takes as much memory as each look.
        """
        image = next(frames)
        self._rare |= image.mode not in _COMMON
        image = upright(usual(image), self.turns[0])
        self.alpha = image.getchannel("A") if image.mode.endswith("A") else None
        looks = self._looks(image)
        del image
        for turn in self.turns[1:]:
            self._note("viewers disagree on which way is up; judged in each")
            back = _BACK.get(self.turns[0], self.turns[0])
            looks += [upright(upright(reduced(look), back), turn) for look in looks[: len(looks)]]
        return tuple(looks)

    def _looks(self, image: PILImage) -> list[PILImage]:
        clear = image.mode.endswith("A")
        first, *others = self.colours.ways(image.mode.removesuffix("A"))
        if not clear and not others:
            return [first(image)]
        step = _step(image)
        looks = [_Look(image.size) for _ in (_BACKGROUNDS if clear else (None,))]
        apart, hidden = [_Gap() for _ in others], [_Gap() for _ in looks]
        for box, piece in _strips(image, _SIDE * step):
            bare = opaque(piece)
            taken = first(bare)
            small = reduced(taken, step)
            for gap, way in zip(apart, others, strict=True):
                if not gap.block > _VISIBLE:
                    gap.add(small, reduced(way(bare), step))
            for look, gap, shown in zip(looks, hidden, _on_backgrounds(taken, piece), strict=True):
                look.put(shown, box)
                if clear:
                    gap.add(small, reduced(shown, step))
        more: list[Callable[[PILImage], list[PILImage]]] = []
        if all(gap.shows() for gap in hidden):
            self._note("it shows something else where its transparency is left out; judged so as well")
            more.append(lambda piece: [first(opaque(piece))])
        for gap, way in zip(apart, others, strict=True):
            if gap.shows(doubtful=self.colours.doubtful):
                self._note("viewers disagree on its colours; judged with and without its colour information")
                more.append(partial(_another_way, way))
        for render in more:
            looks += _second(image, render, step)
        return [look.image for look in looks if look.image is not None]

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _on_backgrounds(colours: PILImage, piece: PILImage) -> list[PILImage]:
    """RGB ``colours`` with the transparency of ``piece``, on white and black; as they are if it has none."""
    if not piece.mode.endswith("A"):
        return [colours]
    alpha = piece.getchannel("A")
    on_black = pil.new("RGB", piece.size)
    on_black.paste(colours, mask=alpha)
    left = ImageChops.invert(alpha)  # what white adds; never more than there is room for
    return [ImageChops.add_modulo(on_black, pil.merge("RGB", [left] * 3)), on_black]


def _another_way(way: Way, piece: PILImage) -> list[PILImage]:
    return _on_backgrounds(way(opaque(piece)), piece)


def _second(image: PILImage, render: Callable[[PILImage], list[PILImage]], step: int) -> list[_Look]:
    """Further looks of an image, put together from what ``render`` makes of each strip."""
    looks: list[_Look] = []
    for box, piece in _strips(image, _SIDE * step):
        shown = render(piece)
        looks = looks or [_Look(image.size, step) for _ in shown]
        for look, part in zip(looks, shown, strict=True):
            look.put(part, box)
    return looks


@dataclass(slots=True)
class _Look:
    """A look that is put together from strips, each reduced by ``step``."""

    size: tuple[int, int]
    step: int = 1
    image: PILImage | None = None

    def put(self, part: PILImage, box: tuple[int, int, int, int]) -> None:
        """Add the part that shows a ``box`` of the whole."""
        part = reduced(part, self.step)
        if box[3] - box[1] == self.size[1]:
            self.image = part
            return
        if self.image is None:
            self.image = pil.new("RGB", (part.width, -(-self.size[1] // self.step)))
        self.image.paste(part, (0, box[1] // self.step))


def _step(image: PILImage) -> int:
    """By how much a second look of the image is reduced."""
    return math.ceil(math.sqrt(image.width * image.height / _SECOND))


def reduced(image: PILImage, step: int | None = None) -> PILImage:
    """The image at a size at which a second look is judged."""
    step = step or _step(image)
    return image.reduce(step) if step > 1 else image
