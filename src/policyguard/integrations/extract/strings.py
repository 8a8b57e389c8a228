"""Images in strings: data URIs, base64, addresses, and pictures that a text links to.

Covered: see ``read_string``. Not covered: base64 in the middle of a text without ``data:`` before it, SVG
drawings written out in a text, and addresses that a text merely mentions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .datauri import DataUri, find_data_uris, is_data_uri, read_data_uri
from .documents import is_document_type, sniff_document
from .found import Codec, Found, Path
from .keys import Position
from .links import find_links
from .magic import (
    base64_head,
    decode_base64,
    looks_like_base64,
    sniff,
    sniff_base64,
    sniff_blurred_base64,
)
from .site import SiteKind

__all__ = ["as_document", "read_string"]

_SHORTEST = 32

_ADDRESS = re.compile(r"\s*(?:https?:)?//[^\s]", re.IGNORECASE)
_SCHEME = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_INVISIBLE = str.maketrans("", "", "\t\r\n")
"""What browsers and many libraries drop from an address before they read it."""
_STORED = re.compile(r"\s*(?:gs|s3)://", re.IGNORECASE)
_PROVIDER_FILE = re.compile(
    r"\s*https://generativelanguage\.googleapis\.com/[^?#]*\bfiles/|\s*files/[a-z0-9-]+\s*$"
)
_IMAGE_ADDRESS = re.compile(
    r"https?://[^\s\"'<>?#]+\.(?:png|jpe?g|gif|webp|bmp|tiff?|avif|hei[cf]|jxl|svg|apng)(?:[?#]\S*)?",
    re.IGNORECASE,
)


def read_string(text: str, path: Path, position: Position, *, quoted: bool, prose: bool) -> Iterator[Found]:
    """The images in one string.

    ``quoted`` says that the string was taken out of JSON in a text, or is meant for a tool: no provider
    fetches an address there, so it counts only in a block that is declared an image. ``prose`` says that
    people or models wrote the string, so that an address which is all of it is no image.
    """
    if not text or text.isspace():
        return
    if is_data_uri(text):
        uri = read_data_uri(text)
        if uri is not None and uri.image and uri.data is not None and (position > 0 or not _goes_on(text)):
            yield _from_uri(uri, path)
            return
        if position >= Position.STRONG or (position > 0 and uri is not None and uri.image):
            yield _unreadable(path, "data-uri", "is a data URI that holds no image, or cannot be decoded")
            return
        if uri is not None and (position is Position.DOCUMENT or not _goes_on(text)):
            code = base64_head(text[text.index(",") + 1 :][:2000])
            if is_document_type(uri.media_type) or sniff_document(code):
                yield as_document(path, uri.media_type)
                return
    elif media_type := sniff_base64(text, expected=position > Position.NONE):
        yield _from_base64(text, path, media_type)
        return
    elif (found_one := _document(text, path, position, quoted=quoted)) is not None:
        yield found_one
        return
    elif position > Position.NONE:
        found_one = _in_position(text, path, position, quoted=quoted)
        if found_one is not None:
            yield found_one
            return
    elif not quoted and not prose and _IMAGE_ADDRESS.fullmatch(text):
        yield Found(path, SiteKind.URL, "address", address=text)
        return
    found_any = False
    for found in _in_text(text, path, links=not quoted):
        found_any = True
        yield found
    if not found_any and (media_type := sniff_blurred_base64(text)):
        yield _unreadable(path, "base64", f"begins like the base64 of an image ({media_type}) and is broken")


def _document(text: str, path: Path, position: Position, *, quoted: bool) -> Found | None:
    """The document that a whole string holds or, where one is expected, names."""
    if position > Position.NONE:
        return None
    if len(text) >= _SHORTEST and (media_type := sniff_document(base64_head(text))) is not None:
        return as_document(path, media_type)
    if position is not Position.DOCUMENT or quoted:
        return None
    named = _ADDRESS.match(text) or _SCHEME.match(text) or _PROVIDER_FILE.match(text)
    return as_document(path) if named or looks_like_base64(text) else None


def _in_position(text: str, path: Path, position: Position, *, quoted: bool) -> Found | None:
    """The image in a string where one is expected."""
    if _STORED.match(text) or _PROVIDER_FILE.match(text):
        return Found(path, SiteKind.FILE, "address", address=text.strip())
    if _ADDRESS.match(text):
        if quoted and position is not Position.DECLARED:
            return None
        address = text.strip()
        return Found(
            path, SiteKind.URL, "address", address=f"https:{address}" if address[0] == "/" else address
        )
    if position >= Position.STRONG and (media_type := sniff(text[:4096].encode("utf-8", "replace"))):
        return Found(
            path, SiteKind.INLINE, "none", data=text.encode("utf-8", "replace"), media_type=media_type
        )
    head = text[:64].translate(_INVISIBLE)
    if _SCHEME.match(text) or (head != text[:64] and (_SCHEME.match(head) or is_data_uri(head))):
        return None if quoted else _unreadable(path, "data-uri", "is an address of a kind that is not read")
    if looks_like_base64(text) or (
        position is Position.DECLARED or (position is Position.STRONG and not quoted)
    ):
        return _unreadable(path, "data-uri", "is neither the base64 of an image nor an address")
    return None


def _goes_on(text: str) -> bool:
    """Whether words may follow the data URI that a text begins with."""
    end = len(text.rstrip())
    return text.find(" ", text.index(",") + 1, end) >= 0


def _in_text(text: str, path: Path, *, links: bool = True) -> Iterator[Found]:
    found: list[tuple[int, int, DataUri | str]] = [(uri.start, uri.end, uri) for uri in find_data_uris(text)]
    if links:
        found += [(start, end, text[start:end]) for start, end in find_links(text)]
    found.sort(key=lambda item: item[0])
    for number, (start, end, what) in enumerate(found):
        if isinstance(what, DataUri):
            yield _from_uri(what, path, span=(start, end), number=number)
        else:
            address = f"https:{what}" if what.startswith("/") else what
            yield Found(path, SiteKind.URL, "address", address=address, span=(start, end), number=number)


def _from_uri(
    uri: DataUri, path: Path, span: tuple[int, int] | None = None, number: int | None = None
) -> Found:
    kind = SiteKind.UNREADABLE if uri.data is None else SiteKind.INLINE
    problem = uri.problem if uri.data is None else None
    return Found(
        path, kind, "data-uri", uri.data, uri.media_type or None, problem=problem, span=span, number=number
    )


def _from_base64(text: str, path: Path, media_type: str) -> Found:
    data = decode_base64(text)
    if data is None:
        return _unreadable(path, "base64", f"begins like the base64 of an image ({media_type}) and is broken")
    codec: Codec = "base64url" if ("-" in text or "_" in text) else "base64"
    return Found(path, SiteKind.INLINE, codec, data)


def as_document(path: Path, media_type: str = "", *, address: str | None = None) -> Found:
    """A document, which a provider holds under ``address`` if that is given."""
    named = f"is a document ({media_type})" if media_type else "is a document"
    problem = f"{named}, and what its pages show cannot be judged (documents='pass' lets it through)"
    return Found(path, SiteKind.DOCUMENT, "none", None, media_type or None, address, problem)


def _unreadable(path: Path, codec: Codec, problem: str) -> Found:
    return Found(path, SiteKind.UNREADABLE, codec, problem=problem)
