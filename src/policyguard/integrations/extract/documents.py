"""What is no image and shows images: PDF, office files, films.

Covered: what a media type says, and what the first bytes say. Not covered: sound, and text of any kind
(HTML, source code, tables), which show a model nothing but words.
"""

from __future__ import annotations

import re

__all__ = ["is_document_type", "sniff_document"]

_WORDS = re.compile(
    r"(?:text|audio|image|multipart|message|font|model)/"
    r"|application/(?:[^;]*\+(?:json|xml|yaml)|(?:x-)?(?:json|xml|yaml|toml|sql|graphql|javascript|ecmascript"
    r"|typescript|python(?:-code)?|sh|httpd-php|ndjson|jsonl|jsonlines|www-form-urlencoded|tex|latex)$)"
)
_PREFIXES = (
    (b"PK\x03\x04", "application/zip"),  # docx, xlsx, pptx, odt, epub
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),  # doc, xls, ppt
    (b"{\\rtf", "application/rtf"),
    (b"%!PS", "application/postscript"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"\0\0\1\xba", "video/mpeg"),
    (b"\0\0\1\xb3", "video/mpeg"),
    (b"FLV\1", "video/x-flv"),
)
_SOUND_BRANDS = (b"M4A ", b"M4B ")


def is_document_type(media_type: str) -> bool:
    """Whether a media type (lower case) is of something that shows images. Unknown ones do."""
    return "/" in media_type and media_type != "application/octet-stream" and not _WORDS.match(media_type)


def sniff_document(data: bytes | bytearray | memoryview) -> str | None:
    """The media type of a document by its first bytes; None if it begins like none."""
    head = bytes(data[:1024])
    if b"%PDF-" in head:
        return "application/pdf"
    for prefix, media_type in _PREFIXES:
        if head.startswith(prefix):
            return media_type
    if head[4:8] == b"ftyp" and head[8:12] not in _SOUND_BRANDS:
        return "video/mp4"
    return "video/x-msvideo" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None
