"""Multipart bodies cut into parts, strictly, and put together again.

Two readers of one multipart body must not see two different sets of parts, so all that the strict grammar
of RFC 2046 leaves open is refused: text before or after the parts, delimiters that only a lenient reader
would take, a body without an end.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from policyguard.integrations.http.message import joined, media_type, parameter

__all__ = ["MultipartError", "Part", "join", "split"]

MAX_PARTS = 1000
_LOOSE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")


class MultipartError(Exception):
    """The body is not multipart as it says; the message continues the sentence "the body ..."."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its header block as it came, without the blank line, and its content, a view."""

    head: bytes
    content: memoryview

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    @property
    def headers(self) -> dict[str, str]:
        lines = re.sub(rb"\r\n[ \t]+", b" ", self.head).split(b"\r\n")
        pairs = (line.decode("utf-8", "replace").partition(":") for line in lines if line)
        return joined((name.strip(), value.strip()) for name, _, value in pairs)

    @property
    def media_type(self) -> str:
        return media_type(self.header("content-type"))

    @property
    def name(self) -> str:
        return parameter(self.header("content-disposition"), "name") or ""

    @property
    def filenames(self) -> list[str]:
        """What the part is called as a file; a reader may take either."""
        disposition = self.header("content-disposition")
        names = (parameter(disposition, name) for name in ("filename", "filename*"))
        return [name for name in names if name]

    def decoded(self) -> bytes:
        """The content with its Content-Transfer-Encoding undone. Raises MultipartError."""
        coding = self.header("content-transfer-encoding").lower()
        if coding in ("", "7bit", "8bit", "binary"):
            return bytes(self.content)
        try:
            if coding == "base64":
                return base64.b64decode(re.sub(rb"\s+", b"", self.content), validate=True)
            if coding == "quoted-printable":
                return quopri.decodestring(bytes(self.content))
        except (binascii.Error, ValueError):
            raise MultipartError(f"has a part {self.name!r} with damaged base64") from None
        raise MultipartError(f"has a part {self.name!r} in the transfer encoding {coding[:40]!r}")


def boundary_of(content_type: str) -> bytes:
    boundary = parameter(content_type, "boundary")
    if len(re.findall(r"boundary[*\d]*\s*=", content_type, re.IGNORECASE)) > 1:
        raise MultipartError("is multipart and names more than one boundary")
    if not boundary or len(boundary) > 200:
        raise MultipartError("is multipart and names no boundary")
    try:
        return boundary.encode("ascii")
    except UnicodeEncodeError:
        raise MultipartError("is multipart with a boundary that is not ASCII") from None


def split(content_type: str, body: bytes) -> list[Part]:
    """The parts of ``body``. Raises MultipartError."""
    line = b"--" + boundary_of(content_type)
    view = memoryview(body)
    places = [match.start() for match in re.finditer(re.escape(line), body)]
    if not places or places[0] != 0:
        raise MultipartError("is multipart and does not begin with its boundary")
    if len(places) > MAX_PARTS + 1:
        raise MultipartError(f"has more than {MAX_PARTS} parts")
    parts = []
    for place, following in pairwise(places):
        start = place + len(line)
        if body[start : start + 2] != b"\r\n" or body[following - 2 : following] != b"\r\n":
            raise MultipartError("has its boundary in the middle of a line")
        if body[start + 2 : start + 4] == b"\r\n":  # no headers at all
            head_end, content = start + 2, start + 4
        else:
            head_end = body.find(b"\r\n\r\n", start, following)
            if head_end < 0:
                raise MultipartError("has a part whose headers do not end")
            content = head_end + 4
        if _LOOSE_END.search(body, start + 2, head_end):
            raise MultipartError("has a part with a header that two readers could end in two places")
        parts.append(Part(body[start + 2 : head_end], view[content : max(content, following - 2)]))
    end = body[places[-1] + len(line) :]
    if not end.startswith(b"--") or end[2:].strip():
        raise MultipartError("is cut short: its last part does not end")
    return parts


_IMAGE_TYPE = re.compile(rb"(?im)^(content-type:[ \t]*)image/[^;\r\n]*")
_IMAGE_NAME = re.compile(
    rb"(?im)(\bfilename\*?=(?:\"[^\"\r\n]*|[^\";\r\n]*)\.)(png|apng|jpe?g|jfif|gif|webp)"
    rb"(?=\"?[ \t]*(?:;|\r|$))"
)


def declaring(head: bytes, media_type: str) -> bytes:
    """A header block whose image type, and the ending of whose file name, are those of ``media_type``."""
    kind = media_type.removeprefix("image/").encode()
    same = {b"jpeg": (b"jpeg", b"jpg", b"jfif")}.get(kind, (kind,))
    head = _IMAGE_TYPE.sub(lambda found: found[1] + media_type.encode(), head)
    return _IMAGE_NAME.sub(lambda found: found[0] if found[2].lower() in same else found[1] + kind, head)


def join(content_type: str, parts: Sequence[tuple[bytes, memoryview]]) -> bytes:
    """A body of (header block, content) with the boundary of ``content_type``."""
    line = b"--" + boundary_of(content_type)
    pieces: list[bytes | memoryview] = []
    for head, content in parts:
        pieces += [line, b"\r\n", head, b"\r\n\r\n" if head else b"\r\n", content, b"\r\n"]
    return b"".join([*pieces, line, b"--\r\n"])
