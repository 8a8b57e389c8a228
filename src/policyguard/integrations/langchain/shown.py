"""What a trace may record of a value: the value without its images."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from policyguard.integrations.extract.walk import fields_of

if TYPE_CHECKING:
    from policyguard.integrations.extract import ImageSite

__all__ = ["shown"]


def shown(value: Any, sites: Sequence[ImageSite]) -> Any:
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
    found: set[str] = set()
    for pointer in pointers:
        steps = pointer.partition("#")[0].split("/")
        found.update("/".join(steps[:length]) for length in range(1, len(steps) + 1))
    return found


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
