"""Content-Encoding: undone in bounded pieces, so that a small message cannot become a large one at once.

Covered: gzip and deflate always; zstd and brotli where a decoder that can be bounded is installed; several
in a row. Not covered, and refused: every other coding, and data after the end of a compressed stream.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

__all__ = ["CodingError", "Decoder", "acceptable", "decode_all", "decoder", "undone"]

PIECE = 1 << 20
"""Bytes that one step gives at most, more or less."""

_MAX_CODINGS = 3


class CodingError(Exception):
    """The body cannot be decoded; the message continues the sentence "the body ..."."""


class Decoder:
    """Undoes the codings of one body, as its bytes come."""

    def __init__(self, steps: list[_Step]) -> None:
        self._steps = steps

    @property
    def identity(self) -> bool:
        return not self._steps

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded pieces of the next bytes. Raises CodingError."""
        pieces: Iterable[bytes] = (data,)
        for step in self._steps:
            pieces = _through(step, pieces)
        try:
            yield from pieces
        except CodingError:
            raise
        except Exception as error:
            raise CodingError("is damaged: its Content-Encoding cannot be undone") from error

    def finish(self) -> None:
        """Say that no more bytes come. Raises CodingError for a body that was cut short."""
        for step in self._steps:
            if not step.complete:
                raise CodingError("is cut short: its Content-Encoding does not end")


def decoder(header: str | None) -> Decoder:
    """The decoder for a Content-Encoding header. Raises CodingError for a coding that is not known here."""
    names = [name.strip().lower() for name in (header or "").split(",")]
    names = [name for name in names if name and name != "identity"]
    if len(names) > _MAX_CODINGS:
        raise CodingError(f"has {len(names)} content codings, one over the other")
    steps = []
    for name in reversed(names):
        if name not in _STEPS:
            raise CodingError(f"has the content coding {name[:40]!r}, which is not read")
        steps.append(_STEPS[name]())
    return Decoder(steps)


def acceptable(header: str) -> str:
    """An Accept-Encoding header without the codings that cannot be undone here."""
    offers = [offer.strip() for offer in header.split(",")]
    kept = [offer for offer in offers if undone(offer.partition(";")[0].strip().lower())]
    return header if kept == offers else ", ".join(kept) or "identity"


@cache
def undone(coding: str) -> bool:
    """Whether bodies with this coding can be read here."""
    if coding in ("", "identity", "*"):
        return coding != "*"
    try:
        decoder(coding)
    except CodingError:
        return False
    return True


def decode_all(header: str | None, data: bytes, *, limit: int) -> bytes:
    """``data`` decoded, at most ``limit`` bytes of it. Raises CodingError."""
    undo = decoder(header)
    if undo.identity:
        return data
    whole = bytearray()
    for piece in undo.feed(data):
        whole += piece
        if len(whole) > limit:
            raise CodingError(f"unpacks to more than {limit} bytes")
    undo.finish()
    return bytes(whole)


class _Step:
    """One coding. ``started`` and ``complete`` say where in the compressed stream it stands."""

    started = False
    complete = True

    def feed(self, data: bytes) -> Iterator[bytes]:
        raise NotImplementedError


def _through(step: _Step, pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if piece:
            yield from step.feed(piece)


class _Zlib(_Step):
    """gzip, of one or several members, and deflate with or without the zlib header."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._undo: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._undo is None:
                if self.started and not self._gzip:
                    raise CodingError("goes on after its compressed data ended")
                self._undo = zlib.decompressobj(self._window(data))
                self.started, self.complete = True, False
            out = self._undo.decompress(data, PIECE)
            while out:
                yield out
                out = self._undo.decompress(self._undo.unconsumed_tail, PIECE)
            data = self._undo.unused_data if self._undo.eof else b""
            if self._undo.eof:
                self._undo, self.complete = None, True

    def _window(self, data: bytes) -> int:
        if self._gzip:
            return 16 + zlib.MAX_WBITS
        # RFC 1950: the low half of the first byte is 8. Much software sends bare deflate data instead.
        return zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS


class _Zstd(_Step):
    def __init__(self) -> None:
        self._new = _zstd()
        self._undo: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._undo is None:
                self._undo = self._new()
                self.started, self.complete = True, False
            out = self._undo.decompress(data, PIECE)
            while out:
                yield out
                if self._undo.eof or self._undo.needs_input:
                    break
                out = self._undo.decompress(b"", PIECE)
            data = self._undo.unused_data if self._undo.eof else b""
            if self._undo.eof:
                self._undo, self.complete = None, True


class _Brotli(_Step):
    def __init__(self) -> None:
        self._undo = _brotli()
        self._process: Callable[..., bytes] = getattr(self._undo, "process", None) or self._undo.decompress

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._undo.is_finished():
            raise CodingError("goes on after its compressed data ended")
        self.started = True
        out = self._process(data, output_buffer_limit=PIECE)
        while out:
            yield out
            out = self._process(b"", output_buffer_limit=PIECE)
        self.complete = self._undo.is_finished()


def _zstd() -> Callable[[], Any]:
    try:
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdDecompressor
        else:
            from backports.zstd import ZstdDecompressor  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        pass
    else:
        return ZstdDecompressor  # type: ignore[no-any-return, unused-ignore]
    try:
        import zstandard
    except ImportError:
        raise CodingError("has the content coding 'zstd', and no decoder for it is installed") from None
    return lambda: _Zstandard(zstandard.ZstdDecompressor())


class _Zstandard:
    """zstandard's decoder with the standard library's manners. It has no bound, so it is fed in crumbs."""

    needs_input = False
    _CRUMB = 64  # bytes; each block of zstd takes at least 4 and gives at most 128 KiB

    def __init__(self, maker: Any) -> None:
        self._undo = maker.decompressobj()
        self._waiting = memoryview(b"")

    @property
    def eof(self) -> bool:
        return bool(self._undo.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._undo.unused_data) + bytes(self._waiting)

    def decompress(self, data: bytes, _limit: int) -> bytes:
        if data:
            self._waiting = memoryview(bytes(self._waiting) + data)
        out = bytearray()
        while self._waiting and not self.eof and len(out) < PIECE:
            crumb, self._waiting = self._waiting[: self._CRUMB], self._waiting[self._CRUMB :]
            out += self._undo.decompress(bytes(crumb))
        return bytes(out)


def _brotli() -> Any:
    try:
        import brotli  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        try:
            import brotlicffi as brotli  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise CodingError("has the content coding 'br', and no decoder for it is installed") from None
    undo = brotli.Decompressor()
    if not hasattr(undo, "can_accept_more_data"):  # before 1.2 its output cannot be bounded
        raise CodingError("has the content coding 'br', and the brotli that is installed is older than 1.2")
    return undo


_STEPS: dict[str, Callable[[], _Step]] = {
    "gzip": lambda: _Zlib(gzip=True),
    "x-gzip": lambda: _Zlib(gzip=True),
    "deflate": lambda: _Zlib(gzip=False),
    "zstd": _Zstd,
    "br": _Brotli,
}
