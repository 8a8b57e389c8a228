"""What the extractor says: where an image stands, what it is, and what a provider refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["ImageSite", "ProviderRefusal", "Replacement", "SiteKind"]


class SiteKind(StrEnum):
    """How an image stands in a payload."""

    INLINE = "inline"
    URL = "url"
    FILE = "file"
    DOCUMENT = "document"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class ImageSite:
    """One place in a payload where an image stands.

    ``where`` is a JSON Pointer into the payload. A part ``#0`` counts the images in one text, and ``#json``
    stands before a pointer into JSON that is itself a string. ``data`` (INLINE) is the encoded image file,
    of any image format; ``url`` (URL) an http(s) address; ``file_id`` (FILE) what a provider calls a file it
    holds, or an address in a cloud's storage; ``problem`` (UNREADABLE, DOCUMENT) says in one sentence why
    there are no bytes. A DOCUMENT (a PDF, a film) shows images that are not taken out of it; it has a
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
