"""What the first bytes of an image file look like, and base64 that holds such bytes.

Covered: PNG, JPEG, GIF, WebP, BMP, TIFF, AVIF, HEIC, ICO, JPEG XL, JPEG 2000, PSD, SVG. Most of them are not
opened by ``images.decode``: they are recognised here so that they become UNSCANNABLE instead of unseen.

What shows images without being one (PDF, office files, films) is told by media type or first bytes. Not
covered: sound, and text of any kind (HTML, source code, tables), which show a model nothing but words.
"""

from __future__ import annotations

import base64
import binascii
import re

__all__ = [
    "HEAD",
    "base64_head",
    "decode_base64",
    "is_document_name",
    "is_document_type",
    "is_words_name",
    "looks_like_base64",
    "sniff",
    "sniff_base64",
    "sniff_blurred_base64",
    "sniff_document",
    "sniff_document_text",
]


_WORDS = re.compile(
    r"(?:text|audio|image|multipart|message|font|model)/"
    r"|application/(?:[^;]*\+(?:json|xml|yaml)|(?:x-)?(?:json|xml|yaml|toml|sql|graphql|javascript|ecmascript"
    r"|typescript|python(?:-code)?|c?sh|tcl|ruby|perl|lua|httpd-php|ndjson|jsonl|jsonlines|www-form-urlencoded"
    r"|tex|latex|subrip|xml-dtd|csv|msdos-program|mpegurl|pgp-(?:keys|signature)|pem-[a-z-]+)$)"
)
_UNKNOWN = ("application/octet-stream", "binary/octet-stream", "*/*")
_DOCUMENT_NAME = re.compile(
    r"\.(?:pdf|rtf|e?ps|ai|f?od[tspgf]|ot[tspg]|sx[wcid]|docx?|docm|dot[xm]?|pptx?|ppt[m]|pps[xm]?|xls[xmb]?|pages"
    r"|numbers|epub|fb2|djvu?|o?xps|hwpx?|vsdx?)[\s.]*$",
    re.IGNORECASE,
)
_WORDS_NAME = re.compile(
    r"\.(?:txt|text|log|md|rst|csv|tsv|jsonl?|ndjson|ya?ml|toml|ini|cfg|conf|xml|html?|css|[cm]?[jt]sx?|pyi?|ipynb"
    r"|go|rs|rb|php|java|kt|swift|[ch]|cc|[ch]pp|cs|sh|bash|zsh|ps1|bat|sql|r|lua|pl|scala|tex|srt|vtt)$",
    re.IGNORECASE,
)
_DOCUMENTS = (
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
    return "/" in media_type and media_type not in _UNKNOWN and not _WORDS.match(media_type)


def is_document_name(name: str) -> bool:
    """Whether a file of that name shows images: providers go by the name, too."""
    return _DOCUMENT_NAME.search(name[-16:]) is not None


def is_words_name(name: str) -> bool:
    """Whether a file of that name is text, a table or source code."""
    return _WORDS_NAME.search(name[-16:]) is not None


def sniff_document(data: bytes | bytearray | memoryview) -> str | None:
    """The media type of a document by its first bytes; None if it begins like none."""
    head = bytes(data[:1024])
    if b"%PDF-" in head:
        return "application/pdf"
    for prefix, media_type in _DOCUMENTS:
        if head.startswith(prefix):
            return media_type
    if head[4:8] == b"ftyp" and head[8:12] not in _SOUND_BRANDS:
        return "video/mp4"
    return "video/x-msvideo" if head[:4] == b"RIFF" and head[8:12] == b"AVI " else None


_MARKUP = (
    (b"<office:document", "application/vnd.oasis.opendocument"),  # flat ODF
    (b"urn:oasis:names:tc:opendocument", "application/vnd.oasis.opendocument"),
    (b"<?mso-application", "application/msword"),  # Word and Excel, saved as XML
    (b"schemas.microsoft.com/office/", "application/msword"),
    (b"gribuser.ru/xml/fictionbook", "application/x-fictionbook"),
)
_PDF_OBJECT = re.compile(rb"(?<!\d)\d+\s+\d+\s+obj\b")


def sniff_document_text(data: bytes, *, words: bool) -> str | None:
    """``sniff_document`` for what may as well be text that merely speaks of documents.

    A document begins with its mark; that of a PDF may also follow some bytes later, which counts where
    nothing says that these are ``words``.
    """
    head = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip(b"\0\t\n\f\r \x04")
    if head.startswith(b"%PDF-") or (not words and b"%PDF-" in data[:2048] and _PDF_OBJECT.search(data)):
        return "application/pdf"
    if head.startswith((b"{\\rtf", b"%!PS")):
        return sniff_document(head)
    if head.startswith(b"<"):
        low = head.lower()
        return next((media_type for mark, media_type in _MARKUP if mark in low), None)
    return None


HEAD = 256
"""So many bytes of a file are enough to tell."""
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_SVG = re.compile(
    rb"\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!doctype\s+svg[^>]*>\s*)*<svg[\s>]", re.IGNORECASE | re.DOTALL
)
_XML = re.compile(rb"\s*<(?:\?xml|!--|!doctype\s+svg)", re.IGNORECASE)
_SPACE = re.compile(r"[\s\\]+")
_ALPHABET = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/_-]+")

_BLURRED = re.compile(
    "|".join(
        "".join(rf"[^A-Za-z0-9+/_-]{{0,64}}+{letter}" for letter in letters)
        for letters in ("iVB", ["[/_]", "9", "j"], "R0l", "Ukl", "SUk", "TU0", "Qk", "AAA")
    )
)
"""PNG, JPEG, GIF, WebP, TIFF, BMP, AVIF and its kin: how their base64 begins, with anything in between."""
_TO_STANDARD = str.maketrans("-_", "+/")
_START = re.compile(r"\s*[/A-Za-z7_][A-Za-z0-9+/_-]{23}")
_SHORTEST = 32


def sniff(data: bytes | bytearray | memoryview, *, expected: bool = False) -> str | None:
    """The media type that the first bytes of an image file tell, or None if it is no image file.

    ``expected`` says that an image should stand here: beginnings too short to tell anything elsewhere count.
    """
    from policyguard.images.sniff import media_type  # its package loads PIL

    head = bytes(data[:HEAD])
    if known := media_type(head):
        return known
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    if head[:4] == b"\0\0\1\0" and head[5:6] == b"\0" and head[9:10] == b"\0" and head[4:5] != b"\0":
        return "image/x-icon"
    if _SVG.match(head.removeprefix(b"\xef\xbb\xbf")):
        return "image/svg+xml"
    if _XML.match(head.removeprefix(b"\xef\xbb\xbf")) and b"<svg" in bytes(data[:4096]).lower():
        return "image/svg+xml"
    if expected and head[:2] == b"\xff\x0a":
        return "image/jxl"
    return None


def sniff_base64(text: str, *, expected: bool = False) -> str | None:
    """The media type if ``text`` begins like the base64 of an image file. Looks at its beginning only."""
    if len(text) < _SHORTEST or not (expected or _START.match(text)):
        return None
    head = _SPACE.sub("", text[:700])[:344]
    return sniff(_decoded(head), expected=expected) if _ALPHABET.fullmatch(head) else None


def sniff_blurred_base64(text: str) -> str | None:
    """``sniff_base64`` as lenient decoders read it, which pass over what is not base64.

    So an image may be spelled that no strict decoder takes for one.
    """
    if len(text) < _SHORTEST or not _BLURRED.match(text):
        return None
    return sniff(_decoded(_NOT_BASE64.sub("", text[:1024])[:64]))


def base64_head(text: str) -> bytes:
    """The first bytes that ``text`` holds if it is base64; empty if it is not."""
    if not _START.match(text):
        return b""
    head = _SPACE.sub("", text[:2000])[:1368]
    return _decoded(head) if _ALPHABET.fullmatch(head) else b""


def _decoded(head: str) -> bytes:
    head = head.rstrip("=")
    return base64.b64decode(head[: len(head) // 4 * 4].translate(_TO_STANDARD))


def looks_like_base64(text: str) -> bool:
    """Whether ``text`` is long and nothing but base64, whatever it may hold."""
    return len(text) >= HEAD and _ALPHABET.fullmatch(_SPACE.sub("", text[:4096])) is not None


def decode_base64(text: str) -> bytes | None:
    """The bytes that ``text`` holds, or None if it is not base64 all through.

    Takes the standard and the URL-safe alphabet, line breaks (also escaped ones) and missing padding.
    """
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        return None
    body = raw.rstrip(b"=")
    if len(raw) - len(body) <= 2 and len(body) % 4 != 1:
        try:  # the usual case, without a copy for each of the steps below
            return binascii.a2b_base64(
                raw if len(raw) % 4 == 0 else body + b"=" * (-len(body) % 4), strict_mode=True
            )
        except binascii.Error:
            pass
    body = (
        raw.replace(b"\\/", b"/")
        .replace(b"\\n", b"")
        .replace(b"\\r", b"")
        .translate(_URLSAFE, b"\t\n\x0b\x0c\r ")
    )
    body = body.rstrip(b"=")
    if len(body) % 4 == 1:
        return None
    try:
        return binascii.a2b_base64(body + b"=" * (-len(body) % 4), strict_mode=True)
    except binascii.Error:
        return None


_URLSAFE = bytes.maketrans(b"-_", b"+/")
