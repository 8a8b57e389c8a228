"""What the extractor reports: where an image stands, what it is, and what a provider refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Literal, TypeAlias

__all__ = [
    "JSON",
    "Codec",
    "ImageSite",
    "Occurrence",
    "Path",
    "ProviderRefusal",
    "Replacement",
    "SiteKind",
    "Step",
    "pointer",
    "steps",
]


class SiteKind(StrEnum):
    """How an image stands in a payload."""

    INLINE = "inline"
    URL = "url"
    FILE = "file"
    DOCUMENT = "document"
    LINK = "link"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class ImageSite:
    """One place in a payload where an image stands.

    ``where`` is a JSON Pointer into the payload. A part ``#0`` counts the images in one text, and ``#json``
    stands before a pointer into JSON that is itself a string. ``data`` (INLINE) is the encoded image file,
    of any image format; ``url`` (URL) an http(s) address; ``file_id`` (FILE) what a provider calls a file it
    holds, or an address in a cloud's storage; ``problem`` (UNREADABLE, DOCUMENT) says in one sentence why
    there are no bytes. A LINK is an image that words link to by ``url``, in Markdown or HTML: no provider
    fetches it. A DOCUMENT (a PDF, a film) shows images that are not taken out of it; it has a
    ``file_id`` where the provider holds it. ``media_type`` is the declared one, in lower case, never checked
    against the bytes.
    """

    where: str
    kind: SiteKind
    data: bytes | None = field(default=None, repr=False)
    media_type: str | None = None
    url: str | None = None
    file_id: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Replacement:
    """An encoded image file to stand in an image's place, and its media type, such as ``image/png``."""

    data: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True, slots=True)
class ProviderRefusal:
    """A provider's own refusal found in a response. ``where`` is a JSON Pointer; ``reason`` its own words."""

    where: str
    provider: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in self.__slots__}


class _Json(Enum):
    JSON = "json"


JSON = _Json.JSON
"""The step from a string into the JSON that it holds."""
Step: TypeAlias = str | int | _Json

Path: TypeAlias = tuple["Path", Step] | None
"""Linked from the end to the beginning, so that a step costs the same at any depth."""
Codec: TypeAlias = Literal["data-uri", "base64", "base64url", "bytes", "ints", "address", "file", "none"]


@dataclass(frozen=True, slots=True)
class Occurrence:
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
            url=self.address if self.kind in (SiteKind.URL, SiteKind.LINK) else None,
            file_id=self.address if self.kind in (SiteKind.FILE, SiteKind.DOCUMENT) else None,
            problem=self.problem,
        )


def steps(path: Path) -> list[Step]:
    """The steps from the root to the place."""
    backwards = []
    while path is not None:
        path, step = path
        backwards.append(step)
    return backwards[::-1]


def pointer(path: Path) -> str:
    """The path as a JSON Pointer (RFC 6901), with ``#json`` for a step into a string."""
    return "".join("#json" if step is JSON else f"/{_escaped(step)}" for step in steps(path))


def _escaped(step: object) -> str:
    return str(step).replace("~", "~0").replace("/", "~1")
