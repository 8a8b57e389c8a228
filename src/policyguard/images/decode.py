"""The one door through which image bytes come in.

Covered: PNG, JPEG, WebP and GIF by content, all else refused; bounds on bytes, sides, pixels, frames and
work, checked from headers before anything is decoded; every frame, orientation, transparency, colour
profiles, 16-bit, CMYK and palette images, so that what is judged is what people see; all errors
as ``ImageError``. No global state of Pillow is changed, so threads do not disturb each other.
Not covered: bugs in the decoders' native code (run untrusted input in a separate, confined process), patterns
made to appear only when the image is scaled down, and what a file carries besides its image (metadata,
thumbnails, further images, trailing data), which is never looked at.
"""

from __future__ import annotations

import hashlib
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from PIL import ImageFile
from PIL.Image import Image as PILImage
from PIL.Image import open as open_lazily  # noqa: TID251 (see header_size)

from policyguard.errors import ConfigurationError, ImageError
from policyguard.images import gif, jpeg, png, webp
from policyguard.images.colour import Colours
from policyguard.images.container import Container, Image, Limits, check_size
from policyguard.images.exif import check_density, turns
from policyguard.images.frames import digest, select
from policyguard.images.refusal import Refusal, boundary, damaged
from policyguard.images.render import Renderer
from policyguard.images.sniff import Format, sniff
from policyguard.images.sources import describe, load

__all__ = ["decode", "header_size", "parse"]

_PARSERS: Mapping[Format, Callable[[bytes], Container]] = {
    "PNG": png.parse,
    "JPEG": jpeg.parse,
    "WEBP": webp.parse,
    "GIF": gif.parse,
}
_DEFAULT_LIMITS = Limits()
#: Pillow opens files lazily, and two threads that load the same image at once get garbage.
_LOADING = threading.Lock()


def decode(
    source: object, *, frames: Literal["all", "sample"] = "all", limits: Limits = _DEFAULT_LIMITS
) -> Image:
    """Open an image and return the frames that have to be judged, in RGB.

    ``source`` is a path, encoded bytes, a binary file object, a PIL image, a data URI, or a uint8 array of
    shape (H, W), (H, W, 3) or (H, W, 4) in RGB(A) order. ``frames="sample"`` lets an animation of more than
    ``MAX_FRAMES`` distinct frames through, with that many of them, evenly spread, and ``partial`` set.

    Raises ``ImageError``, which names the source, for everything that is wrong with this image. An object
    that is none of the above counts as such, so that a batch goes on. Raises ``ConfigurationError`` while
    Pillow is told to accept truncated files.
    """
    if frames not in ("all", "sample"):
        raise ConfigurationError(f"frames is {frames!r}; it must be 'all' or 'sample'")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigurationError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set",
            hint="set it to False: a cut-off image would be judged by what is left of it",
        )
    data: bytes | None = None
    try:
        with boundary(name := describe(source)):
            loaded = load(source, limits)
            data = loaded if isinstance(loaded, bytes) else None
            return _opened(loaded, name, frames, limits)
    except ImageError as error:
        error.sha256 = _hash_of(source if data is None else data)
        raise


def _hash_of(source: object) -> str | None:
    """Of the bytes of an image that is refused; None where there are none, or not all were read."""
    with suppress(Exception):
        if isinstance(source, bytes | bytearray | memoryview) and len(source):
            return hashlib.sha256(source).hexdigest()
    return None


def _opened(loaded: bytes | PILImage, name: str, frames: Literal["all", "sample"], limits: Limits) -> Image:
    container = parse(loaded) if isinstance(loaded, bytes) else _from_pixels(loaded)
    check_size(container.size, container.frame_count, limits, container.most_pixels)
    render = Renderer(container.turns, container.colours)
    selection = select(
        container.frames,
        render,
        delays=container.delays,
        sample=frames == "sample",
        limits=limits,
    )
    for frame in selection.frames:
        frame.info = {}  # or Pillow would write the file's metadata into whatever is made of the frame
    fingerprint = hashlib.sha256(loaded).digest() if isinstance(loaded, bytes) else digest(selection.frames)
    return Image(
        frames=selection.frames,
        sha256=fingerprint.hex(),
        source=name,
        size=selection.frames[0].size,
        format=container.format,
        partial=selection.partial,
        frame_count=selection.distinct,
        notes=(*container.notes, *render.notes),
        plain=container.plain if len(selection.frames) == 1 and render.faithful else None,
        file=loaded if isinstance(loaded, bytes) else None,
        alpha=render.alpha if selection.distinct == 1 else None,
        is_plain=isinstance(loaded, bytes)
        and render.usual
        and not (container.notes or render.notes or container.unusual or selection.partial),
    )


def header_size(path: Path) -> tuple[int, int] | None:
    """Width and height by the header of a file, before it is turned upright; ``None`` if it has none.

    For a quick look at many files: nothing is decoded, and nothing else is checked.
    """
    with suppress(Exception), warnings.catch_warnings():  # the image is refused where it is decoded
        warnings.simplefilter("ignore")
        with open_lazily(path, formats=[*_PARSERS]) as image:
            return image.size
    return None


def parse(data: bytes) -> Container:
    """Read the structure of a file. Raises Refusal."""
    kind = sniff(data)
    try:
        return _PARSERS[kind](data)
    except (IndexError, ValueError, struct.error) as error:
        raise Refusal(f"is a damaged {kind} image, or cut short") from error


def _key_steps(image: PILImage) -> list[int]:
    """By what the transparent level of a grey PNG may have to be multiplied: Pillow scales the samples alone.

    Once an image is loaded, it does not say any more how many bits its samples had.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode != "L" or not isinstance(key, int) or not 0 < key < 16:
        return []
    tiles = getattr(image, "tile", None)
    if tiles:
        return [step for form, step in (("L;2", 85), ("L;4", 17)) if form in str(tiles[0][3])]
    return [step for step in (1, 17, 85) if key * step < 256]


def _from_pixels(image: PILImage) -> Container:
    """A image that the caller decoded. What it knows about its colours and orientation is honoured."""
    notes: tuple[str, ...] = ()
    if getattr(image, "n_frames", 1) > 1:
        if image.format != "MPO":
            raise Refusal(
                f"is an open file of {image.n_frames} frames",  # type: ignore[attr-defined]
                hint="pass its path or bytes to have all of them judged, or `image.copy()` for this one",
            )
        notes = ("the file holds more images; the one that is open was judged",)

    def frames() -> Iterator[PILImage]:
        with _LOADING, damaged("is a PIL image that cannot be loaded"):
            steps = _key_steps(image)
            image.load()
        result = image.copy()  # what is judged must not change with the caller's image
        key = result.info.get("transparency", 0)
        if len(steps) == 1:
            result.info["transparency"] = key * steps[0]
        elif any(result.histogram()[key * step] for step in steps[1:]):
            raise Refusal(
                "is a grey PNG with a transparent level that Pillow has not scaled",
                hint="pass the path or the bytes of the file",
            )
        yield result

    info = image.info
    exif, icc, gamma = info.get("exif"), info.get("icc_profile"), info.get("gamma")
    blocks = [exif] if isinstance(exif, bytes) else []
    check_density(blocks, image.size)
    return Container(
        None,
        image.size,
        frames,
        turns=turns(blocks, agreed=image.format not in ("PNG", "WEBP")),
        colours=Colours(
            icc if isinstance(icc, bytes) and icc else None,
            float(gamma) if isinstance(gamma, int | float) else None,
            "srgb" in info,
        ),
        notes=notes,
    )
