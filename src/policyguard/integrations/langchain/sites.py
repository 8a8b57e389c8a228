"""The images in what a step of a chain takes, and the same value without them, for traces.

Covered: all that ``find_images`` covers, in messages, prompt values, strings, dicts and lists; and values
that are images themselves: bytes, paths, open buffers, PIL images, arrays. A value that cannot be looked
into, such as a tensor, is UNSCANNABLE. Not covered: other objects deep inside of dicts and lists, and files
that are merely named.
"""

from __future__ import annotations

import datetime as dt
import io
import numbers
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from policyguard.images import Limits
from policyguard.images.sniff import IMAGE_SUFFIXES
from policyguard.integrations.extract import ImageSite, SiteKind, find_images
from policyguard.integrations.extract.walk import fields_of

__all__ = [
    "is_alone",
    "is_path",
    "sites_of",
    "without_images",
]


def without_images(value: Any, sites: Sequence[ImageSite]) -> Any:
    """A copy of ``value`` in which a note stands in the place of each of ``sites``.

    What holds no image is shared and not copied. A text with an image in it is left out as a whole.
    """
    if not sites:
        return str(value) if isinstance(value, os.PathLike) else value
    notes = {site.where: _note(site) for site in sites}
    try:
        return _without(value, "", notes, _ancestors(notes))
    except Exception:  # a value that cannot be copied
        return f"[{type(value).__name__} with {len(notes)} image(s)]"


def _note(site: ImageSite) -> str:
    size = "" if site.data is None else f", {len(site.data)} bytes"
    return f"[image: {site.kind.value}{size}]"


def _ancestors(pointers: Collection[str]) -> set[str]:
    """Every place on the way to one of the images. A string that holds some is the last on its way."""
    places: set[str] = set()
    for pointer in pointers:
        steps = pointer.partition("#")[0].split("/")
        places.update("/".join(steps[:length]) for length in range(1, len(steps) + 1))
    return places


def _without(value: Any, where: str, notes: Mapping[str, str], on_the_way: Collection[str]) -> Any:
    if where in notes:
        return notes[where]
    if where not in on_the_way:
        return value
    if isinstance(value, Mapping):
        return {key: _without(item, _below(where, key), notes, on_the_way) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_without(item, _below(where, index), notes, on_the_way) for index, item in enumerate(value)]
    fields = None if isinstance(value, str | bytes) else fields_of(value)
    if fields is None:
        return f"[{'text' if isinstance(value, str) else type(value).__name__} with images]"
    changed = {
        key: _without(item, _below(where, key), notes, on_the_way)
        for key, item in fields.items()
        if _below(where, key) in on_the_way or _below(where, key) in notes
    }
    return value.model_copy(update=changed) if hasattr(value, "model_copy") else {**fields, **changed}


def _below(where: str, step: object) -> str:
    return f"{where}/{str(step).replace('~', '~0').replace('/', '~1')}"


_PLAIN = (str, Mapping, list, tuple, set, frozenset, numbers.Number, dt.date, dt.time, uuid.UUID)


def sites_of(value: Any) -> list[ImageSite]:
    """Every image in ``value``, in order. Reads the file that a path names. Raises nothing.

    A text by itself is a path if it ends as an image file does and such a file is there.
    """
    if isinstance(value, str) and _names_image(value):
        return [_file(Path(value))]
    if (sites := _alone(value)) is not None:
        return sites
    if not isinstance(value, list | tuple):
        return find_images(value)
    alone = [_alone(item) for item in value]
    if not any(alone):
        return find_images(value)
    return [
        replace(site, where=f"/{index}{site.where}")
        for index, (item, sites) in enumerate(zip(value, alone, strict=True))
        for site in (find_images(item) if sites is None else sites)
    ]


def _names_image(text: str) -> bool:
    try:
        return text.lower().endswith(IMAGE_SUFFIXES) and Path(text).is_file()
    except (OSError, ValueError):
        return False


def is_path(value: Any) -> bool:
    """Whether a value names a file that would be judged."""
    return isinstance(value, os.PathLike) or (isinstance(value, str) and _names_image(value))


def is_alone(value: Any) -> bool:
    """Whether a value is an image by itself: bytes, a buffer, a path or a PIL image."""
    if isinstance(value, bytes | bytearray | memoryview | io.BytesIO):
        return True
    return type(value).__module__.partition(".")[0] == "PIL" or is_path(value)


def _alone(value: Any) -> list[ImageSite] | None:
    """The sites of a value that is an image by itself; None for one that may hold images."""
    if value is None or isinstance(value, _PLAIN):
        return None
    if isinstance(value, bytes | bytearray | memoryview):
        return [_inline(bytes(value))]
    if isinstance(value, io.BytesIO):
        return [_inline(value.getvalue())]
    if isinstance(value, os.PathLike):
        return [_file(value)]
    try:
        if fields_of(value) is not None:
            return None
    except Exception:
        return [_unreadable(f"is a {type(value).__name__}, which cannot be looked into")]
    places = find_images(value)
    return places or [_unreadable(f"is a {type(value).__name__}, which cannot be looked into")]


def _inline(data: bytes) -> ImageSite:
    return ImageSite("", SiteKind.INLINE, data=data)


def _file(path: os.PathLike[Any]) -> ImageSite:
    limit = Limits().max_bytes
    try:
        with open(path, "rb") as file:  # noqa: PTH123 (any path-like object)
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        return _unreadable(f"cannot be read: {type(error).__name__}")
    if len(data) > limit:
        return _unreadable(f"has more than {limit >> 20} MiB")
    return _inline(data)


def _unreadable(problem: str) -> ImageSite:
    return ImageSite("", SiteKind.UNREADABLE, problem=problem)
