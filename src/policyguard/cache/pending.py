"""Images whose verdict may be known are not decoded: what decoding them led to is remembered with the scores.

Covered: only bytes that decoded are remembered, under the hash of all of them, what decodes
them, the limits and the way frames are picked, so that what cannot be judged stays so. Where pixels turn out
to be needed after all, they come from the very bytes that were hashed. Sources that are no bytes or files,
and an image whose scores are not known under the first policy, are decoded as ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, cast

from policyguard.cache.keys import FORMAT, digest
from policyguard.strict.jsontext import parse_json

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from policyguard.images import Image

__all__ = ["PendingFrame", "checked_facts", "facts_key", "facts_of", "pending_image", "read_settled"]

Plan = Literal["all", "sample"]
_FIELDS = {"size": list, "format": str, "partial": bool, "frame_count": int, "notes": list, "frames": int}
_MOST_FRAMES = 4096


class PendingFrame:
    """Stands for one frame of an image that has not been decoded. It holds no pixels, so its sides are 0."""

    width = height = 0

    def __init__(self, image: _PendingImage, number: int) -> None:
        self._image, self._number = image, number

    def load(self) -> tuple[PILImage, bytes | None]:
        """The frame, and the file it may be sent as. Raises ImageError if it cannot be decoded now."""
        image = self._image.load()
        return image.frames[self._number], image.plain


class _PendingImage:
    def __init__(self, data: bytes, plan: Plan) -> None:
        self._data, self._plan = data, plan
        self._lock = Lock()
        self._image: Image | None = None

    def load(self) -> Image:
        from policyguard.images import decode

        with self._lock:
            if self._image is None:
                self._image = decode(self._data, frames=self._plan)
            return self._image


def read_settled(source: object) -> bytes | None:
    """The bytes of a source that cannot change while they are read, or None."""
    from PIL import ImageFile

    from policyguard.errors import ImageError
    from policyguard.images import Limits, describe, is_settled
    from policyguard.images.refusal import boundary
    from policyguard.images.sources import load

    if not is_settled(source) or ImageFile.LOAD_TRUNCATED_IMAGES:
        return None
    try:
        with boundary(describe(source)):
            data = load(source, Limits())
    except ImageError:
        return None  # decode says what is wrong
    return data if isinstance(data, bytes) else None


def facts_key(sha256: str, plan: Plan, decoder: str) -> str:
    """Under which key the facts about an image are stored."""
    from policyguard._version import __version__
    from policyguard.images import Limits

    return digest(FORMAT, "image", __version__, sha256, plan, decoder, repr(Limits()))


def facts_of(image: Image) -> str:
    """What is remembered of ``image``, as one line of JSON: no pixels."""
    facts = {name: getattr(image, name) for name in _FIELDS}
    return json.dumps(facts | {"frames": len(image.frames)}, sort_keys=True, separators=(",", ":"))


def pending_image(facts: str, data: bytes, sha256: str, plan: Plan, source: str) -> Image:
    """``data``, whose hash is ``sha256``, to be decoded when pixels are needed. Raises ValueError."""
    from policyguard.images import Image

    known = checked_facts(facts)
    pending = _PendingImage(data, plan)
    frames = tuple(PendingFrame(pending, number) for number in range(known["frames"]))
    return Image(
        frames=cast("tuple[PILImage, ...]", frames),
        sha256=sha256,
        source=source,
        size=(known["size"][0], known["size"][1]),
        format=known["format"],
        partial=known["partial"],
        frame_count=known["frame_count"],
        notes=tuple(known["notes"]),
    )


def checked_facts(facts: str) -> dict[str, Any]:
    """What ``facts_of`` wrote. Raises ValueError for anything else."""
    fields = parse_json(facts)
    if not isinstance(fields, dict) or fields.keys() != _FIELDS.keys():
        raise ValueError("not the facts about an image")
    if any(type(fields[name]) is not kind for name, kind in _FIELDS.items()):
        raise ValueError("not the facts about an image")
    sides: Sequence[Any] = fields["size"]
    counts = [fields["frames"], fields["frame_count"], *sides]
    if len(sides) != 2 or any(type(count) is not int or count < 1 for count in counts):
        raise ValueError("not the size of an image")
    if fields["frames"] > _MOST_FRAMES or not all(isinstance(note, str) for note in fields["notes"]):
        raise ValueError("not the facts about an image")
    return fields
