"""What stands in an image's place: for a blocked one, an image that shows nothing of it but its size
(placeholder, blur, pixelation); for one that passes, a plain file of what was judged.

Covered: PNG, JPEG, WebP and GIF. What stands in for a blocked image has its size and format, one frame, and
no metadata. Blur and pixelation keep at most 8 colours along the longer side, spread over the whole image,
so that shapes and text are gone. Not covered: what large areas of colour still tell.
"""

from __future__ import annotations

import io
from typing import Literal, TypeAlias, get_args

from policyguard.errors import ConfigurationError, ImageError
from policyguard.images import decode
from policyguard.integrations.extract import Replacement
from policyguard.integrations.extract.magic import sniff
from policyguard.strict.lru import LruDict

__all__ = ["REPLACEMENTS", "PassOn", "PlainFiles", "ReplaceWith", "altered", "plain_files"]

ReplaceWith: TypeAlias = Literal["placeholder", "blur", "pixelate"]
REPLACEMENTS: tuple[str, ...] = get_args(ReplaceWith)
PassOn: TypeAlias = Literal["judged", "original"]
_KEPT = 64 * 2**20
"""Bytes of files that are kept, so that an image is not written anew at every turn of a conversation."""

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


class PlainFiles:
    """What passes in the place of images that viewers may show otherwise than they were judged.

    ``sample`` says that long animations were judged by a sample. Thread-safe; keeps what was used last.
    """

    def __init__(self, *, sample: bool) -> None:
        self._sample = sample
        self._made: LruDict[bytes, Replacement | str] = LruDict(_KEPT, weigh=_weight)

    def of(self, digest: bytes, data: bytes) -> Replacement | None:
        """The file to pass on for ``data``, whose hash is ``digest``; None: it passes as it is.

        Raises ImageError where none can be made.
        """
        made = self._made.get(digest)
        if made is None:
            made = self._make(data)
            self._made.put(digest, made)
        return None if isinstance(made, str) else made

    def note(self, digest: bytes, new: bytes | None) -> None:
        """Note what ``of`` is to give for the image of that hash, as it was made where it was judged."""
        self._made.put(digest, _replacement(new))

    def _make(self, data: bytes) -> Replacement | str:
        from policyguard.images.written import plain_file

        image = decode(data, frames="sample" if self._sample else "all")
        return _replacement(None if image.is_plain else plain_file(image))


def _replacement(new: bytes | None) -> Replacement | str:
    return "as it is" if new is None else Replacement(new, sniff(new) or "image/png")


def _weight(made: Replacement | str) -> int:
    return 256 + (0 if isinstance(made, str) else len(made.data))


def plain_files(pass_on: PassOn, *, sample: bool) -> PlainFiles | None:
    """None where the originals pass. Raises ConfigurationError for another word."""
    if pass_on not in get_args(PassOn):
        raise ConfigurationError(f"pass_on is {pass_on!r}; it must be 'judged' or 'original'")
    return PlainFiles(sample=sample) if pass_on == "judged" else None
