"""Puts the patches of an animation together as browsers do, and chooses the frames that are judged.

Pillow composites too, but it keeps a GIF's disposal method from one frame to the next and paints the
uncovered canvas in a palette colour, so that it can be made to show other things than people see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL import ImageChops
from PIL.Image import Image as PILImage

from policyguard.images.container import DECODE_VERSION, MAX_FRAMES, Limits
from policyguard.images.refusal import Refusal
from policyguard.images.render import disagree, reduced

if TYPE_CHECKING:
    from policyguard.images.container import Image

__all__ = [
    "Disposal",
    "Patch",
    "Selection",
    "blended",
    "compose",
    "decoder",
    "digest",
    "frame_key",
    "numbered",
    "sample_of",
    "select",
]


def frame_key(image: Image, number: int) -> str:
    """Names the pixels of one of ``image.frames``. Where transparency shows, each background is a frame."""
    return f"{image.sha256} {'sample' if image.partial else 'all'} {number} {decoder()}"


@cache
def decoder() -> str:
    """What turns bytes into pixels, with the codecs that Pillow was built with."""
    from PIL import features

    codecs = {name: features.version(name) for name in ("libjpeg_turbo", "jpg", "zlib", "webp", "littlecms2")}
    return " ".join([DECODE_VERSION, *(f"{name}-{version}" for name, version in codecs.items())])


class Disposal(IntEnum):
    """What happens to a patch before the next one is drawn (numbers as in APNG)."""

    KEEP = 0
    CLEAR = 1
    RESTORE = 2


@dataclass(frozen=True, slots=True)
class Patch:
    """A piece of a frame at ``position`` (left, top), blended ``over`` what lies below or replacing it."""

    image: PILImage
    position: tuple[int, int]
    disposal: Disposal
    over: bool


def compose(size: tuple[int, int], patches: Iterable[Patch]) -> Iterator[PILImage]:
    """Yield one RGBA image of the whole canvas per patch, drawn over when the next one is asked for.

    The canvas starts out transparent.
    """
    canvas = pil.new("RGBA", size)
    for patch in patches:
        before = canvas.copy() if patch.disposal is Disposal.RESTORE else None
        piece = patch.image.convert("RGBA")
        if patch.over:
            canvas.alpha_composite(piece, patch.position)
        else:
            canvas.paste(piece, patch.position)
        yield canvas
        if before is not None:
            canvas = before
        elif patch.disposal is Disposal.CLEAR:
            left, top = patch.position
            canvas.paste((0, 0, 0, 0), (left, top, left + piece.width, top + piece.height))


Frames = tuple[PILImage, ...]
_DOMAIN = b"policyguard pixels 1\0"
#: Frames shown for at most so many ms run together in the eye (browsers turn 0 and 10 into 100), up to 16.
_FAST, _STRETCH = 100, 16
#: Of so many stretches that show more than their frames do, what they show is judged.
_MOST_STRETCHES = 8
#: Where more than this share of pixels changes by more levels with every frame, whole images take turns.
_MOST_CHANGED, _CHANGED = 0.95, 24


@dataclass(frozen=True, slots=True)
class Selection:
    """The frames to judge, and how many distinct ones there are in all."""

    frames: Frames
    distinct: int
    partial: bool = False


def select(
    frames: Callable[[], Iterator[PILImage]],
    render: Callable[[Iterator[PILImage]], Frames],
    *,
    delays: Sequence[int],
    sample: bool,
    limits: Limits,
) -> Selection:
    """Render the frames and keep the distinct ones, in order of first appearance; add what speed shows.

    ``delays`` says for how many ms each frame is shown, and has one entry for a still image. ``frames``
    starts anew with each call: a sample of a long animation needs to know how many distinct frames there are
    before it can pick, and keeping them all meanwhile would take too much memory.
    """
    if len(delays) == 1:
        return Selection(_bounded([render(frames())], limits), 1)
    kept: list[Frames] = []
    order: list[int] = []
    for number, frame in numbered(frames()):
        if number == len(kept) < MAX_FRAMES:
            kept.append(render(iter((frame,))))
            _bounded(kept, limits)
        elif number >= MAX_FRAMES and not sample:
            raise Refusal(
                f"is an animation of more than {MAX_FRAMES} distinct frames, too many to judge all",
                hint="shorten it, or let the policy judge a sample with `frames: sample`",
            )
        order.append(number)
    count = max(order) + 1
    if count > MAX_FRAMES:
        kept.clear()
        chosen = sample_of(order, delays)
        for position, frame in enumerate(frames()):
            if position in chosen:
                kept.append(render(iter((frame,))))
                _bounded(kept, limits)
        order, delays = list(range(len(kept))), list(chosen.values())
    speed = blended(order, delays, [looks[0] for looks in kept])
    return Selection((*_bounded(kept, limits), *speed), count, partial=count > MAX_FRAMES)


def numbered(frames: Iterator[PILImage]) -> Iterator[tuple[int, PILImage]]:
    """Each of the frames, and which one of the distinct frames it is, counted from 0."""
    known: dict[bytes, int] = {}
    for frame in frames:
        yield known.setdefault(digest((_rgba(frame),)), len(known)), frame


def sample_of(order: Sequence[int], delays: Sequence[int]) -> dict[int, int]:
    """The positions of the frames that stand for a long animation, and for how many ms each does.

    ``order`` says for each frame which of the distinct ones it is, ``delays`` for how long it is shown.
    """
    last = max(order)
    chosen = sorted({order.index(round(step * last / (MAX_FRAMES - 1))) for step in range(MAX_FRAMES)})
    return {start: sum(delays[start:stop]) for start, stop in pairwise([*chosen, len(order)])}


def blended(order: Sequence[int], delays: Sequence[int], looks: Sequence[PILImage]) -> Iterator[PILImage]:
    """What people see where frames follow each other so fast that they run together, and no frame shows.

    That is, for each stretch of up to 16 frames of at most 100 ms, the average; and, but for whole images in
    turn, what stands out from it, for what flickers by is brighter to the eye than its share of time.
    ``order`` says which of the ``looks`` each frame is; large ones are taken at the size of a second look.
    Raises Refusal where it is too much to judge.
    """
    small = [reduced(look) for look in looks]
    found = 0
    for stretch in _stretches(order, delays):
        shown = [small[number] for number in stretch]
        pairs = pairwise([*stretch, stretch[0]])
        whole = all(_changed(small[one], small[other]) > _MOST_CHANGED for one, other in pairs)
        mean, low, high = shown[0], shown[0], shown[0]
        for count, look in enumerate(shown[1:], 2):
            mean = pil.blend(mean, look, 1 / count)
            low, high = ImageChops.darker(low, look), ImageChops.lighter(high, look)
        bands = []
        for least, middle, most in zip(low.split(), mean.split(), high.split(), strict=True):
            above, below = ImageChops.subtract(most, middle), ImageChops.subtract(middle, least)
            mask = ImageChops.subtract(below, above).point(lambda level: 255 if level else 0)
            bands.append(pil.composite(least, most, mask))
        blends = [
            blend
            for blend in ((mean,) if whole else (mean, pil.merge("RGB", bands)))
            if all(disagree(blend, small[number]) for number in set(stretch))
        ]
        found += bool(blends)
        if found > _MOST_STRETCHES:
            raise Refusal(
                "shows its frames so fast, and in so many orders, that too many other images appear",
                hint="show each frame for more than 100 ms",
            )
        yield from blends


def _stretches(order: Sequence[int], delays: Sequence[int]) -> Iterator[list[int]]:
    """Runs of fast frames, in pieces that overlap by half; each set of frames once."""
    runs: list[list[int]] = [[]]
    for number, delay in zip(order, delays, strict=True):
        if delay > _FAST:
            runs.append([])
        elif runs[-1][-1:] != [number]:
            runs[-1].append(number)
    known: set[frozenset[int]] = set()
    for run in runs:
        for start in range(0, max(len(run) - _STRETCH // 2, 1), _STRETCH // 2):
            stretch = run[start : start + _STRETCH]
            if len(set(stretch)) > 1 and frozenset(stretch) not in known:
                known.add(frozenset(stretch))
                yield stretch


def _changed(one: PILImage, other: PILImage) -> float:
    """The share of pixels that visibly differ between two looks."""
    if one.size != other.size:
        return 1.0
    red, green, blue = ImageChops.difference(one, other).split()
    most = ImageChops.lighter(red, ImageChops.lighter(green, blue))
    return sum(most.histogram()[_CHANGED + 1 :]) / (one.width * one.height)


def _rgba(frame: PILImage) -> PILImage:
    return frame if frame.mode == "RGBA" else frame.convert("RGBA")


def digest(frames: Frames) -> bytes:
    """SHA-256 of frames: mode, size and pixels of each, so that 30 x 150 and 150 x 30 differ."""
    result = hashlib.sha256(_DOMAIN)
    for frame in frames:
        result.update(f"{frame.mode} {frame.width} {frame.height}\0".encode())
        result.update(frame.tobytes())
    return result.digest()


def _bounded(kept: list[Frames], limits: Limits) -> Frames:
    flat = tuple(frame for frames in kept for frame in frames)
    total = sum(frame.width * frame.height for frame in flat)
    if total > limits.max_total_pixels:
        raise Refusal(
            f"has {total:,} pixels over all frames and backgrounds; the limit is {limits.max_total_pixels:,}",
            hint="make it smaller or shorter",
        )
    return flat
