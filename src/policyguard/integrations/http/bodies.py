"""Bodies opened: which images one holds, and the same body with others in their place.

Covered: JSON, JSON lines, forms, multipart with parts of any of these kinds, raw files, text. The first bytes
decide and not the declared type alone. What is neither text nor sound is taken for an image; the guard then
says what it is, and why it cannot be judged. A document is told by its first bytes, its type or its file's
name, and by each of them alone, for it may be written in letters only. Not covered: images inside sound
files, and images drawn with characters.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode

from policyguard.errors import ImageError
from policyguard.integrations.extract import ImageSite, Replacement, SiteKind, find_images, replace_images
from policyguard.integrations.extract.magic import (
    is_document_name,
    is_document_type,
    is_words_name,
    sniff,
    sniff_document,
    sniff_document_text,
)
from policyguard.integrations.extract.strings import as_document
from policyguard.integrations.http import multipart
from policyguard.integrations.http.message import RequestHead, media_type, parameter
from policyguard.integrations.http.watch import Watch
from policyguard.strict.jsontext import DuplicateKeyError, JsonError, TooDeepError, parse_json, read_json

__all__ = [
    "Body",
    "Reading",
    "announced",
    "is_sound",
    "open_body",
    "open_head",
    "open_json",
    "unreadable",
    "watched_over",
]

P = TypeVar("P")
Rebuild: TypeAlias = Callable[[Mapping[str, Replacement]], bytes]

_MAX_DEPTH = 3
_IMAGE_NAMES = re.compile(
    r"\.(png|apng|jpe?g|jfif|gif|webp|svgz?|avif|hei[cf]s?|bmp|dib|tiff?|ico|jxl|jp2|psd)$", re.IGNORECASE
)
_SOUND_TYPES = (b"M4A", b"M4B", b"isom", b"iso", b"mp4", b"mp42", b"dash", b"3gp")


@dataclass(frozen=True, slots=True)
class Body:
    """The images of one body. ``payloads`` holds what was parsed; ``rebuild`` raises ImageError."""

    sites: tuple[ImageSite, ...] = ()
    payloads: tuple[Any, ...] = ()
    rebuild: Rebuild = field(default=lambda _new: _cannot(), repr=False)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a body is read.

    ``strict``: what is declared as JSON and is not is unreadable; otherwise it is read as text. ``answer``:
    it comes from a provider (see ``find_images``). ``links``: images that words link to are looked for.
    """

    strict: bool = False
    answer: bool = False
    links: bool = False


def _cannot() -> bytes:
    raise ImageError("no other image can stand in this body's place")


def unreadable(problem: str, where: str = "body") -> Body:
    """A body that may hold images and cannot be read; ``problem`` continues "the body ..."."""
    return Body((ImageSite(where, SiteKind.UNREADABLE, problem=f"the body {problem}"),))


def open_body(
    data: bytes,
    content_type: str,
    reading: Reading,
    *,
    name: str = "",
    files: Sequence[str] = (),
    depth: int = 0,
) -> Body:
    """The images of a body with its Content-Encoding undone.

    ``name`` is the field that the body is the value of, in a form; ``files`` what it is called as a file.
    """
    kind = media_type(content_type)
    if not data:
        return Body()
    if kind.startswith("multipart/"):
        return _multipart(data, content_type, reading, depth=depth)
    if kind.startswith("image/") or sniff(data):
        return _file(data, kind)
    if kind == "application/x-www-form-urlencoded":
        return _form(data, reading)
    declared_json = kind == "application/json" or kind.endswith("+json")
    document = _document(kind, files)
    if declared_json or _JSON.match(data):
        try:
            body = open_json(data, reading, name=name)
            return _with_document(body, document if files or isinstance(body.payloads[0], str) else None)
        except TooDeepError:
            return unreadable("is JSON nested too deeply")
        except DuplicateKeyError as error:
            return unreadable(f"is JSON with the key {error.key[:60]!r} twice in one object")
        except JsonError:
            pass
    sound = kind != "application/pdf" and not any(map(is_document_name, files)) and is_sound(data, kind)
    if sound and _text(data, content_type) is None:
        return Body()
    if document is None and name == "":
        words = kind.startswith("text/") or any(map(is_words_name, files))
        document = sniff_document_text(data, words=words)
    return _with_document(_words(data, content_type, reading, name=name), document)


def _document(kind: str, files: Sequence[str]) -> str | None:
    """The type of the document that something is by its declared type or by its names."""
    if any(map(is_document_name, files)):
        return kind or "by its name"
    misnamed = kind == "application/vnd.ms-excel" or kind.startswith("video/")  # said of a.csv, of a.ts
    if misnamed and any(map(is_words_name, files)):
        return None
    return kind if is_document_type(kind) else None


def _with_document(body: Body, document: str | None) -> Body:
    """``body`` with one site more for the document that it is itself."""
    if document is None or any(site.where == "body" for site in body.sites):
        return body
    return replace(body, sites=(_as_document(document), *body.sites))


def _as_document(document: str) -> ImageSite:
    return replace(as_document(None, document).site(), where="body")


def announced(body: Body) -> Body:
    """``body``, with one site more if it says that a document is going to be uploaded in pieces.

    The pieces do not tell: each may be letters only.
    """
    for payload in body.payloads:
        for file in (payload, payload.get("file")) if isinstance(payload, dict) else ():
            if not isinstance(file, dict):
                continue
            kind, *names = (str(file.get(key) or "") for key in ("mime_type", "filename", "displayName"))
            kind = kind or str(file.get("mimeType") or "")
            if (document := _document(media_type(kind), names)) is not None:
                return _with_document(body, document)
    return body


def _words(data: bytes, content_type: str, reading: Reading, *, name: str) -> Body:
    """The images of what is no JSON as a whole."""
    kind = media_type(content_type)
    declared_json = kind == "application/json" or kind.endswith("+json")
    if (text := _text(data, content_type)) is not None:
        if name == "" and (lines := _lines(text, reading)) is not None:
            return lines
        if declared_json and reading.strict:
            return unreadable("is declared as JSON and is not, or is cut short")
        return _plain(text, name, reading, parameter(content_type, "charset") or "utf-8")
    texts = _other_texts(data, content_type)
    if not texts or (declared_json and reading.strict):
        return _file(data, kind)
    bodies = [_plain(text, name, reading) for text in texts]
    return Body(tuple(site for body in bodies for site in body.sites))


_JSON = re.compile(codecs.BOM_UTF8 + rb'?[ \t\r\n]*+[{\["]')


def is_sound(data: bytes, kind: str) -> bool:
    """Whether these are sound: by their first bytes, or declared so and nothing that is known as an image."""
    if sniff(data) or b"%PDF-" in data[:1024]:
        return False
    if data[:3] == b"ID3" or data[:4] == b"fLaC" or (data[:1] == b"\xff" and data[1:2] in _MPEG_AUDIO):
        return True
    if data.startswith(_WEBM):
        return _SOUND_TRACK.search(data, 0, 2**16) is not None and not (
            _TRACK.search(data, 0, 2**16) or _FILM_TRACK.search(data)
        )
    if (data[:4], data[8:12]) in ((b"RIFF", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC")):
        return True
    if not kind.startswith("audio/"):
        return False
    return data[4:8] != b"ftyp" or data[8:12].startswith(_SOUND_TYPES)


_WEBM = b"\x1aE\xdf\xa3"
_SOUND_TRACK = re.compile(rb"\x86[\x80-\xff]A_[A-Z]")  # the codec of a track, in WebM and Matroska
_TRACK = re.compile(rb"\x86[\x80-\xff][B-Z]_[A-Z]")
_FILM_TRACK = re.compile(
    rb"\x86[\x80-\xff](?:V_(?:VP[89]|AV1|MPEG|MS/|THEORA|UNCOMP|PRORES|MJPEG|FFV1|REAL|QUICK)|S_)"
)
_MPEG_AUDIO = (b"\xfb", b"\xfa", b"\xf3", b"\xf2", b"\xf1", b"\xf9")


def open_json(data: bytes | str, reading: Reading, *, name: str = "") -> Body:
    """The images of a JSON text, in any of its encodings. Raises JsonError.

    An answer may have a key twice if no image stands in any of the values.
    """
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
    except UnicodeDecodeError:
        raise JsonError("is not Unicode") from None
    try:
        payload = parse_json(text, constants=True)
    except DuplicateKeyError:
        if not reading.answer or find_images(values := read_json(text), answer=True):
            raise
        return Body((), (values,))
    return _payload(payload, name, reading)


def _payload(payload: Any, name: str, reading: Reading) -> Body:
    """A parsed value; where it is the value of a field, the field's name is part of the shape."""
    named = {name: payload} if name else payload

    def rebuild(new: Mapping[str, Replacement]) -> bytes:
        changed: Any = replace_images(named, new)
        return dump(changed[name] if name else changed)

    return Body(tuple(find_images(named, answer=reading.answer)), (payload,), rebuild)


def dump(payload: object) -> bytes:
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _file(data: bytes, kind: str) -> Body:
    if not sniff(data) and not kind.startswith("image/"):
        document = sniff_document(data) or (kind if is_document_type(kind) else None)
        if document is not None:
            return Body((_as_document(document),))
    site = ImageSite("body", SiteKind.INLINE, data=data, media_type=kind or None)
    return Body((site,), rebuild=lambda new: new["body"].data)


def _text(data: bytes, content_type: str) -> str | None:
    """The text that ``data`` is; None if it is not text."""
    charset = parameter(content_type, "charset") or "utf-8"
    try:
        if _ASCII.decode(charset) != _ASCII.decode("ascii"):
            return None  # one reader would see other letters in it than the next
        text = data.decode("utf-8-sig" if charset.lower() in ("utf-8", "utf8") else charset)
    except (LookupError, ValueError):
        return None
    return None if "\0" in text else text


def _other_texts(data: bytes, content_type: str) -> list[str]:
    """What ``data`` is in other encodings, one string for each that it may be; none if it is no text.

    In all of those that do not need two bytes for a letter, data URIs and base64 are the same ASCII.
    """
    if sniff(data, expected=True) or sniff_document(data):
        return []
    charset = (parameter(content_type, "charset") or "").lower().replace("_", "-")
    wide = [name for name in ("utf-16", "utf-32") if charset.startswith(name)]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        wide.append("utf-16")
    texts = []
    for name in wide:
        with contextlib.suppress(ValueError):
            texts.append(data.decode(charset if charset.startswith(name) else name))
    if not texts and not wide and not _CONTROLS.search(data):
        texts.append(data.decode("latin-1"))
    return [text for text in texts if "\0" not in text]


_CONTROLS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
"""Bytes of no text in an encoding of letters, and of all files that hold images."""


def open_head(head: RequestHead) -> Body:
    """Images written out in an address or in a header, and the document whose upload a header announces.

    Images given by URL stay: no API takes one there.
    """
    path = unquote(head.path)
    values = [*head.headers.values(), path, *path.split("/"), unquote(head.query)]
    values += [value for _, value in parse_qsl(head.query)]
    sites = find_images([value for value in values if len(value) >= _SHORT])
    sites = [replace(site, where="head") for site in sites if site.kind is SiteKind.INLINE]
    if document := _document(media_type(head.headers.get("x-goog-upload-header-content-type")), ()):
        sites.append(replace(_as_document(document), where="head"))
    return Body(tuple(sites))


_SHORT = 64
"""Characters: no image is written out in less."""
_ASCII = bytes(range(32, 127))


def _plain(text: str, name: str, reading: Reading, charset: str = "utf-8") -> Body:
    named: Any = {name: text} if name else text

    def rebuild(new: Mapping[str, Replacement]) -> bytes:
        changed: Any = replace_images(named, new)
        return str(changed[name] if name else changed).encode(charset)

    return Body(tuple(find_images(named, answer=reading.answer)), (), rebuild)


def watched_over(watch: Watch, body: Body) -> Body:
    """``body``, with one unreadable site more if it completes the beginning of an image."""
    site = watch.over(body.payloads, judged=bool(body.sites))
    return body if site is None else replace(body, sites=(*body.sites, site))


def _lines(text: str, reading: Reading) -> Body | None:
    """JSON lines, and events that were not declared as such. None if no line is JSON."""
    lines, watch = text.split("\n"), Watch(links=reading.links)
    bodies: list[Body] = []
    parsed = 0
    for line in lines:
        content = line.removeprefix("data:").strip()
        if content.startswith(("{", "[")):
            try:
                body = open_json(content, reading)
                bodies.append(watched_over(watch, body) if line.startswith("data:") else body)
                parsed += 1
                continue
            except DuplicateKeyError:
                return unreadable("is JSON with a key twice in one object")
            except JsonError:
                if parsed:
                    return unreadable("has a line that begins as JSON and is not")
        bodies.append(_plain(line, "", reading))
    if not parsed:
        return None

    def rebuild(number: int, new: Mapping[str, Replacement]) -> bytes:
        prefix = b"data: " if lines[number].startswith("data:") else b""
        return prefix + bodies[number].rebuild(new)

    return _joined(
        [(f"line {number + 1}", body) for number, body in enumerate(bodies)],
        [line.encode() for line in lines],
        rebuild,
        b"\n".join,
    )


def _form(data: bytes, reading: Reading) -> Body:
    try:
        pairs = parse_qsl(
            data.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=10_000, errors="strict"
        )
    except ValueError:
        return unreadable("is declared as a form and is not")

    def rebuild(number: int, new: Mapping[str, Replacement]) -> bytes:
        return bodies[number].rebuild(new)

    bodies = [_plain(value, name or "value", reading) for name, value in pairs]
    return _joined(
        [(f"field {number + 1} {name!r}", bodies[number]) for number, (name, _) in enumerate(pairs)],
        [value.encode() for _, value in pairs],
        rebuild,
        lambda values: urlencode(
            [(name, value) for (name, _), value in zip(pairs, values, strict=True)]
        ).encode(),
    )


def _multipart(data: bytes, content_type: str, reading: Reading, *, depth: int) -> Body:
    if depth >= _MAX_DEPTH:
        return unreadable("is multipart within multipart, too deep")
    try:
        parts = multipart.split(content_type, data)
        bodies = [_part(part, reading, depth=depth) for part in parts]
    except multipart.MultipartError as error:
        return unreadable(str(error))

    def rebuild(number: int, new: Mapping[str, Replacement]) -> tuple[bytes, memoryview]:
        part = parts[number]
        if part.header("content-transfer-encoding").lower() not in ("", "7bit", "8bit", "binary"):
            _cannot()
        head = multipart.declaring(part.head, new["body"].media_type) if "body" in new else part.head
        return head, memoryview(bodies[number].rebuild(new))

    return _joined(
        [(f"part {number + 1} {part.name!r}", bodies[number]) for number, part in enumerate(parts)],
        [(part.head, part.content) for part in parts],
        rebuild,
        partial(multipart.join, content_type),
    )


def _part(part: multipart.Part, reading: Reading, *, depth: int) -> Body:
    data = part.decoded()
    kind = part.header("content-type")
    is_file = "filename" in part.header("content-disposition").lower()
    name = "" if is_file else part.name
    body = open_body(data, kind, reading, name=name, files=part.filenames, depth=depth + 1)
    if is_file and data and not body.sites and any(map(_IMAGE_NAMES.search, part.filenames)):
        return _file(
            data, part.media_type
        )  # its name says that it is an image; the guard says that it is not
    return body


def _joined(
    pieces_by_name: Sequence[tuple[str, Body]],
    pieces: Sequence[P],
    rebuild_piece: Callable[[int, Mapping[str, Replacement]], P],
    join: Callable[[Sequence[P]], bytes],
) -> Body:
    """One body made of several; ``where`` gets the name of the piece in front."""

    def whole(new: Mapping[str, Replacement]) -> bytes:
        changed: list[P] = []
        for number, (name, body) in enumerate(pieces_by_name):
            own = {site.where: new[_at(name, site)] for site in body.sites if _at(name, site) in new}
            changed.append(rebuild_piece(number, own) if own else pieces[number])
        return join(changed)

    sites = (replace(site, where=_at(name, site)) for name, body in pieces_by_name for site in body.sites)
    return Body(tuple(sites), tuple(_flat(body.payloads for _, body in pieces_by_name)), whole)


def _at(name: str, site: ImageSite) -> str:
    return name if site.where == "body" else f"{name} {site.where}"


def _flat(groups: Iterable[tuple[Any, ...]]) -> Iterable[Any]:
    for group in groups:
        yield from group
