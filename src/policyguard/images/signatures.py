"""The first bytes of image files, for all who ask what a file is by its content.

Covered: formats whose beginning tells them apart from text and from each other in any place. Beginnings that
are too short for that (``BM``, JPEG XL's ``FF 0A``) are left to the caller.
"""

from __future__ import annotations

__all__ = ["PNG", "media_type"]

PNG = b"\x89PNG\r\n\x1a\n"
_PREFIXES = (
    (PNG, "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"\0\0\0\x0cJXL ", "image/jxl"),
    (b"\0\0\0\x0cjP  ", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/jp2"),
    (b"8BPS\0\x01", "image/vnd.adobe.photoshop"),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "image/avif"),
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "image/heic"),
}


def media_type(head: bytes) -> str | None:
    """The media type that the first bytes of an image file tell; 256 are enough."""
    for prefix, name in _PREFIXES:
        if head.startswith(prefix):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        end = min(len(head), int.from_bytes(head[:4], "big") or 16, 256)
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, end, 4))]
        return next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
    return None
