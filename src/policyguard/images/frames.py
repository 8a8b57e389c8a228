"""Puts the patches of an animation together as browsers do, and chooses the frames that are judged.

Pillow composites too, but it keeps a GIF's disposal method from one frame to the next and paints the
uncovered canvas in a palette colour, so that it can be made to show other things than people see.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL.Image import Image as PILImage

from policyguard.images.container import DECODE_VERSION, MAX_FRAMES, Limits
from policyguard.images.refusal import Refusal

if TYPE_CHECKING:
    from policyguard.images.container import Image

__all__ = [
    "Disposal",
    "Patch",
    "Selection",
    "compose",
    "decoder",
    "digest",
    "frame_key",
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


@dataclass(frozen=True, slots=True)
class Selection:
    """The frames to judge, and how many distinct ones there are in all."""

    frames: Frames
    distinct: int
    partial: bool = False


def select(
    frames: Callable[[], Iterator[PILImage]],
    render: Callable[[PILImage], Frames],
    *,
    animated: bool,
    sample: bool,
    limits: Limits,
) -> Selection:
    """Render the frames and keep the distinct ones, in order of first appearance.

    ``frames`` starts anew with each call: a sample of a long animation needs to know how many distinct
    frames there are before it can pick, and keeping them all meanwhile would take too much memory.
    """
    if not animated:
        return Selection(_bounded([render(next(frames()))], limits), 1)
    kept: list[Frames] = []
    count = 0
    for count, rendered in enumerate(_distinct(map(render, frames())), 1):
        if count <= MAX_FRAMES:
            kept.append(rendered)
            _bounded(kept, limits)
        elif not sample:
            raise Refusal(
                f"is an animation of more than {MAX_FRAMES} distinct frames, too many to judge all",
                hint="shorten it, or let the policy judge a sample with `frames: sample`",
            )
        else:
            kept.clear()
    if count <= MAX_FRAMES:
        return Selection(_bounded(kept, limits), count)
    chosen = {round(step * (count - 1) / (MAX_FRAMES - 1)) for step in range(MAX_FRAMES)}
    for number, rendered in enumerate(_distinct(map(render, frames()))):
        if number in chosen:
            kept.append(rendered)
            _bounded(kept, limits)
    return Selection(_bounded(kept, limits), count, partial=True)


def digest(frames: Frames) -> bytes:
    """SHA-256 of frames: mode, size and pixels of each, so that 30 x 150 and 150 x 30 differ."""
    result = hashlib.sha256(_DOMAIN)
    for frame in frames:
        result.update(f"{frame.mode} {frame.width} {frame.height}\0".encode())
        result.update(frame.tobytes())
    return result.digest()


def _distinct(rendered: Iterable[Frames]) -> Iterator[Frames]:
    seen: set[bytes] = set()
    for frames in rendered:
        key = digest(frames)
        if key not in seen:
            seen.add(key)
            yield frames


def _bounded(kept: list[Frames], limits: Limits) -> Frames:
    flat = tuple(frame for frames in kept for frame in frames)
    total = sum(frame.width * frame.height for frame in flat)
    if total > limits.max_total_pixels:
        raise Refusal(
            f"has {total:,} pixels over all frames and backgrounds; the limit is {limits.max_total_pixels:,}",
            hint="make it smaller or shorter",
        )
    return flat
