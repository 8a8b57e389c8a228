"""What a file is, by its first bytes and never by its name.

Four formats are opened: PNG, JPEG, WebP, GIF. The others are recognised only to say what they are and how
to convert them.
"""

from __future__ import annotations

from typing import Literal

from policyguard.images.refusal import RESAVE, Refusal

__all__ = ["Format", "sniff"]

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]

_SAVE = "save it as PNG or JPEG"
_PHONE = (
    "convert it to JPEG first, for example with `magick in.{0} out.jpg`, or on a Mac with "
    "`sips -s format jpeg in.{0} --out out.jpg`; phones can be set to take JPEG pictures"
)
_VIDEO = "save the frames you need as PNG or JPEG, for example `ffmpeg -i in.mp4 -vf fps=1 frame-%03d.png`"
_TEXT = "pass the picture itself"

#: (first bytes, what it is, hint). Longer beginnings come before the shorter ones that they contain.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"BM", "a BMP picture", _SAVE),
    (b"II*\0", "a TIFF or camera raw picture", _SAVE),
    (b"MM\0*", "a TIFF or camera raw picture", _SAVE),
    (b"II+\0", "a TIFF picture", _SAVE),
    (b"MM\0+", "a TIFF picture", _SAVE),
    (b"8BPS", "a Photoshop file", "export it as PNG or JPEG"),
    (
        b"%PDF",
        "a PDF document",
        "turn its pages into pictures, for example `pdftoppm -png -r 150 in.pdf page`",
    ),
    (b"%!PS", "a PostScript file", _SAVE),
    (b"\xc5\xd0\xd3\xc6", "an EPS file", _SAVE),
    (b"\0\0\1\0", "an icon file (ICO)", _SAVE),
    (b"icns", "an icon file (ICNS)", _SAVE),
    (b"\xff\x0a", "a JPEG XL picture", "convert it, for example `djxl in.jxl out.png`"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture", "convert it, for example `djxl in.jxl out.png`"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture", _SAVE),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture", _SAVE),
    (b"qoif", "a QOI picture", _SAVE),
    (b"\x76\x2f\x31\x01", "an OpenEXR picture", _SAVE),
    (b"#?RADIANCE", "a Radiance HDR picture", _SAVE),
    (b"FUJIFILM", "a camera raw picture", _SAVE),
    (b"DDS ", "a DDS texture", _SAVE),
    (b"gimp xcf", "a GIMP file", "export it as PNG or JPEG"),
    (b"\x1aE\xdf\xa3", "a video", _VIDEO),
    (b"PK\x03\x04", "a ZIP archive or an office document", "take the pictures out and pass them one by one"),
    (b"\x1f\x8b", "a gzip file", "unpack it first; if it is an SVG drawing, render it to PNG"),
    (b"\x93NUMPY", "a NumPy file", "load it and pass the array, or save it as PNG"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself", "run `git lfs pull`"),
)
_BRANDS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"avif", b"avis"), "an AVIF picture", _PHONE.format("avif")),
    (
        (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"),
        "a HEIC picture",
        _PHONE.format("heic"),
    ),
    ((b"crx ",), "a camera raw picture", _SAVE),
)
_MARKUP = (b"<?xml", b"<!--", b"<!doctype", b"<svg", b"<html", b"<head", b"<body")
_HEAD = 4096


def sniff(data: bytes) -> Format:
    """The format of ``data``; refuses, by name where it can, everything that is not one of the four."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"RIFF"):
        if data[8:12] == b"WEBP":
            return "WEBP"
        raise _refused("a sound or video file", _VIDEO)
    if data[4:8] == b"ftyp":
        for brands, what, hint in _BRANDS:
            if data[8:12] in brands:
                raise _refused(what, hint)
        raise _refused("a video", _VIDEO)
    for magic, what, hint in _OTHERS:
        if data.startswith(magic):
            raise _refused(what, hint)
    if data[:1] == b"P" and data[1:2] in b"1234567" and data[2:3].isspace():
        raise _refused("a PNM picture", _SAVE)
    raise _refused_text(data[:_HEAD])


def _refused(what: str, hint: str) -> Refusal:
    return Refusal(f"is {what}; PNG, JPEG, WebP and GIF are opened", hint=hint)


def _refused_text(head: bytes) -> Refusal:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_MARKUP):
        if b"<svg" in text:
            return _refused("an SVG drawing", "render it first, for example `rsvg-convert in.svg -o out.png`")
        return _refused("a web page or XML, perhaps an error page saved under a picture's name", _TEXT)
    if not head.strip(b"\0"):
        return _refused("nothing but zeros; its download or copy may have failed", "get the file again")
    if _is_text(head):
        return _refused("text", _TEXT)
    return _refused("not a picture of a known kind", RESAVE)


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        text = head[: error.start].decode() if error.start >= _HEAD - 3 else "\0"  # a character cut in two
    return all(character.isprintable() or character.isspace() for character in text)
