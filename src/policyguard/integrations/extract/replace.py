"""Puts other images in the places that ``find_images`` names.

The encoding stays: a data URI becomes a data URI, bare base64 bare base64, bytes bytes. An image by URL or by
file id becomes an inline one where the shape around it has a form for that (``shapes``); declared media types
beside it follow.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policyguard.errors import ImageError
from policyguard.integrations.extract.shapes import data_uri, follow, rewrite, written
from policyguard.integrations.extract.site import JSON, Occurrence, Replacement, Step, steps
from policyguard.integrations.extract.walk import fields_of, walk

__all__ = ["replace_images"]


def replace_images(payload: object, replacements: Mapping[str, Replacement]) -> object:
    """``payload`` with other images in the places ``replacements`` names (``ImageSite.where``).

    Nothing in ``payload`` is changed: what lies on the way to a replaced place is copied, the rest shared.
    Raises ImageError for a place that is not in the payload or whose shape cannot hold an image inline.
    """
    if not replacements:
        return payload
    root, missing = _Edits(), set(replacements)
    for occurrence in walk(payload):
        where = occurrence.where
        if where in replacements:
            missing.discard(where)
            root.add(occurrence, replacements[where])
    if missing:
        raise ImageError(f"there is no image at {min(missing)!r}")
    try:
        return _apply(payload, root)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ImageError(f"an image cannot be replaced: {type(error).__name__}: {error}") from error


@dataclass(slots=True)
class _Edits:
    """What is to be changed at one place of the payload, and below it."""

    below: dict[Step, _Edits] = field(default_factory=dict)
    whole: tuple[Occurrence, Replacement] | None = None
    spans: list[tuple[Occurrence, Replacement]] = field(default_factory=list)

    def add(self, occurrence: Occurrence, replacement: Replacement) -> None:
        edits = self
        for step in steps(occurrence.path):
            edits = edits.below.setdefault(step, _Edits())
        if occurrence.span is None:
            edits.whole = (occurrence, replacement)
        else:
            edits.spans.append((occurrence, replacement))

    def all(self) -> Iterator[tuple[Occurrence, Replacement]]:
        """What is changed here and below."""
        yield from self.spans if self.whole is None else [self.whole]
        for inner in self.below.values():
            yield from inner.all()


def _apply(value: Any, edits: _Edits) -> Any:
    if edits.whole is not None:
        return written(value, *edits.whole)
    if edits.spans:
        return _spliced(value, edits)
    if JSON in edits.below:
        return json.dumps(_apply(json.loads(value), edits.below[JSON]), ensure_ascii=False)
    if isinstance(value, Mapping):
        return _mapping(value, edits)
    if isinstance(value, list | tuple):
        items = list(value)
        for step, inner in edits.below.items():
            items[step] = _apply(items[step], inner)  # type: ignore[index]
        return items if isinstance(value, list) else tuple(items)
    return _model(value, edits)


def _spliced(text: str, edits: _Edits) -> str:
    for occurrence, replacement in sorted(edits.spans, key=lambda pair: pair[0].span or (0, 0), reverse=True):
        start, end = occurrence.span or (0, 0)
        text = text[:start] + data_uri(replacement) + text[end:]
    return text


def _mapping(value: Mapping[Any, Any], edits: _Edits) -> dict[Any, Any]:
    changed = dict(value)
    for key, inner in edits.below.items():
        if inner.whole is not None:
            rewrite(changed, str(key), *inner.whole)
        elif key in ("fileData", "file_data") and isinstance(changed[key], Mapping) and _by_address(inner):
            _inline_gemini(changed, str(key), inner)
        else:
            changed[key] = _apply(changed[key], inner)
        for occurrence, replacement in inner.all():
            follow(changed, str(key), occurrence, replacement)
    return changed


def _by_address(edits: _Edits) -> bool:
    return any(key in ("fileUri", "file_uri") and inner.whole for key, inner in edits.below.items())


def _inline_gemini(part: dict[Any, Any], key: str, edits: _Edits) -> None:
    """A Gemini part with ``fileData`` becomes one with ``inlineData``."""
    (pair,) = (inner.whole for inner in edits.below.values() if inner.whole)
    camel = key == "fileData"
    inline = {"mimeType" if camel else "mime_type": pair[1].media_type}
    inline["data"] = data_uri(pair[1]).partition(",")[2]
    del part[key]
    part["inlineData" if camel else "inline_data"] = inline


def _model(value: Any, edits: _Edits) -> Any:
    """A copy of a dataclass or pydantic model with other fields."""
    fields = fields_of(value)
    if fields is None:
        raise TypeError(f"a {type(value).__name__} cannot be changed")
    changed = _mapping(fields, edits)
    if changed.keys() != fields.keys():
        raise TypeError(f"the fields of a {type(value).__name__} cannot be changed")
    update = {key: changed[key] for key in changed if changed[key] is not fields[key]}
    if hasattr(value, "model_copy"):
        return value.model_copy(update=update)
    return dataclasses.replace(copy.copy(value), **update)
