"""What a file is, by its first bytes and never by its name.

Four formats are opened: PNG, JPEG, WebP, GIF. The others are recognised only to say what they are and how
to convert them.
"""

from __future__ import annotations

from typing import Literal

from policyguard.images.refusal import RESAVE, Refusal

__all__ = ["IMAGE_SUFFIXES", "PNG", "READABLE_SUFFIXES", "Format", "media_type", "sniff"]

READABLE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".pjp", ".pjpeg", ".webp", ".gif")
IMAGE_SUFFIXES = (
    *READABLE_SUFFIXES,
    *(".apng", ".avif", ".bmp", ".cur", ".dib", ".dng", ".heic", ".heif", ".hif", ".ico", ".j2k", ".jp2"),
    *(".jpx", ".jxl", ".jxr", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".svg", ".svgz", ".tga", ".tif"),
    ".tiff",
)
"""How names of image files end, in lower case. Those that cannot be decoded are reported, not skipped."""

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]

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

_SAVE = "save it as PNG or JPEG"
_PHONE = (
    "convert it to JPEG first, for example with `magick in.{0} out.jpg`, or on a Mac with "
    "`sips -s format jpeg in.{0} --out out.jpg`; phones can be set to take JPEG images"
)
_VIDEO = "save the frames you need as PNG or JPEG, for example `ffmpeg -i in.mp4 -vf fps=1 frame-%03d.png`"
_TEXT = "pass the image itself"

_JPEG_XL = ("a JPEG XL image", "convert it, for example `djxl in.jxl out.png`")
_FORMATS: dict[str, Format] = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
}
_IMAGES = {
    "image/tiff": ("a TIFF or camera raw image", _SAVE),
    "image/jxl": _JPEG_XL,
    "image/jp2": ("a JPEG 2000 image", _SAVE),
    "image/avif": ("an AVIF image", _PHONE.format("avif")),
    "image/heic": ("a HEIC image", _PHONE.format("heic")),
}
#: (first bytes, what it is, hint)
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"BM", "a BMP image", _SAVE),
    (b"8BPS", "a Photoshop file", "export it as PNG or JPEG"),
    (
        b"%PDF",
        "a PDF document",
        "turn its pages into images, for example `pdftoppm -png -r 150 in.pdf page`",
    ),
    (b"%!PS", "a PostScript file", _SAVE),
    (b"\xc5\xd0\xd3\xc6", "an EPS file", _SAVE),
    (b"\0\0\1\0", "an icon file (ICO)", _SAVE),
    (b"icns", "an icon file (ICNS)", _SAVE),
    (b"\xff\x0a", *_JPEG_XL),
    (b"qoif", "a QOI image", _SAVE),
    (b"\x76\x2f\x31\x01", "an OpenEXR image", _SAVE),
    (b"#?RADIANCE", "a Radiance HDR image", _SAVE),
    (b"FUJIFILM", "a camera raw image", _SAVE),
    (b"DDS ", "a DDS texture", _SAVE),
    (b"gimp xcf", "a GIMP file", "export it as PNG or JPEG"),
    (b"\x1aE\xdf\xa3", "a video", _VIDEO),
    (b"PK\x03\x04", "a ZIP archive or an office document", "take the images out and pass them one by one"),
    (b"\x1f\x8b", "a gzip file", "unpack it first; if it is an SVG drawing, render it to PNG"),
    (b"\x93NUMPY", "a NumPy file", "load it and pass the array, or save it as PNG"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself", "run `git lfs pull`"),
)
_MARKUP = (b"<?xml", b"<!--", b"<!doctype", b"<svg", b"<html", b"<head", b"<body")
_HEAD = 4096


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


def sniff(data: bytes) -> Format:
    """The format of ``data``. Refuses everything but the four, by name where it can."""
    kind = media_type(data)
    if kind in _FORMATS:
        return _FORMATS[kind]
    if kind in _IMAGES:
        raise _refused(*_IMAGES[kind])
    if data.startswith(b"RIFF"):
        raise _refused("a sound or video file", _VIDEO)
    if data[4:8] == b"ftyp":
        raise _refused(*(("a camera raw image", _SAVE) if data[8:12] == b"crx " else ("a video", _VIDEO)))
    for magic, what, hint in _OTHERS:
        if data.startswith(magic):
            raise _refused(what, hint)
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        raise _refused("a PNM image", _SAVE)
    raise _refused_text(data[:_HEAD])


def _refused(what: str, hint: str) -> Refusal:
    return Refusal(f"is {what}; PNG, JPEG, WebP and GIF are opened", hint=hint)


def _refused_text(head: bytes) -> Refusal:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_MARKUP):
        if b"<svg" in text:
            return _refused("an SVG drawing", "render it first, for example `rsvg-convert in.svg -o out.png`")
        return _refused("a web page or XML, perhaps an error page saved under an image's name", _TEXT)
    if not head.strip(b"\0"):
        return _refused("nothing but zeros; its download or copy may have failed", "get the file again")
    if _is_text(head):
        return _refused("text", _TEXT)
    return _refused("not an image of a known kind", RESAVE)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode() if error.start >= _HEAD - 3 else "\0"  # a character cut in two
    return all(character.isprintable() or character.isspace() for character in text)
