"""A place where an image was found: its path, and how it is written down there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from .site import ImageSite, SiteKind

__all__ = ["JSON", "Codec", "Found", "Path", "Step", "pointer", "steps"]


class _Json(Enum):
    JSON = "json"


JSON = _Json.JSON
"""The step from a string into the JSON that it holds."""

Step: TypeAlias = str | int | _Json
Path: TypeAlias = tuple["Path", Step] | None
"""Linked from the end to the beginning, so that a step costs the same at any depth."""

Codec: TypeAlias = Literal["data-uri", "base64", "base64url", "bytes", "ints", "address", "file", "none"]


@dataclass(frozen=True, slots=True)
class Found:
    """An image site with what it takes to put another image there.

    ``span`` is the part of a text that the image takes up, None where it takes up the whole value; ``number``
    counts the images of one text.
    """

    path: Path
    kind: SiteKind
    codec: Codec
    data: bytes | None = None
    media_type: str | None = None
    address: str | None = None
    problem: str | None = None
    span: tuple[int, int] | None = None
    number: int | None = None

    @property
    def where(self) -> str:
        return pointer(self.path) + ("" if self.number is None else f"#{self.number}")

    def site(self) -> ImageSite:
        return ImageSite(
            self.where,
            self.kind,
            data=self.data,
            media_type=self.media_type,
            url=self.address if self.kind is SiteKind.URL else None,
            file_id=self.address if self.kind in (SiteKind.FILE, SiteKind.DOCUMENT) else None,
            problem=self.problem,
        )


def steps(path: Path) -> list[Step]:
    """The steps from the root to the place."""
    found = []
    while path is not None:
        path, step = path
        found.append(step)
    return found[::-1]


def pointer(path: Path) -> str:
    """The path as a JSON Pointer (RFC 6901), with ``#json`` for a step into a string."""
    return "".join("#json" if step is JSON else f"/{_escaped(step)}" for step in steps(path))


def _escaped(step: object) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")
