"""Gets the bytes, or the pixels, of whatever the caller passed.

Covered: only regular files are opened (a FIFO or a device would hang or worse), never more than the limit is
read, remote addresses are refused and nothing is fetched, data URIs are decoded strictly.
Not covered: where a path leads; whoever takes paths from strangers must confine them first.
"""

from __future__ import annotations

import base64
import inspect
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image as pil  # noqa: N813 (the module; Image is taken)
from PIL.Image import Image as PILImage

from policyguard.images.container import Limits, check_size
from policyguard.images.refusal import Refusal
from policyguard.strict.text import shortened, visible

__all__ = ["Snapshot", "describe", "is_settled", "load", "snapshot"]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_LONGEST_NAME = 200
_ARRAY_MODES = {(): "L", (3,): "RGB", (4,): "RGBA"}
_MEDIA_TYPE_MAX = 1024
_BASE64_MARK = re.compile(r"[^#]*; *base64", re.IGNORECASE | re.ASCII)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")  # padding may be absent, but not half there
_WHITESPACE = str.maketrans("", "", "\t\n\f\r ")  # what browsers skip within base64
_PATHS = (str, type(Path()))
_EMPTY = "is empty (0 bytes)"
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The file ``path`` as it was when it was read: its bytes, or the error that ``load`` raises."""

    path: str
    data: bytes = field(default=b"", repr=False)
    error: Exception | None = None


def describe(source: object) -> str:
    """How errors and verdicts call an image: its path, or what it came as. Opens nothing.

    One line of printable characters that every terminal and log can encode in UTF-8. Never raises.
    """
    try:
        return _describe(source)
    except Exception:  # an object may raise anything when it is looked at
        return "<object>"


def is_settled(source: object) -> bool:
    """Whether ``source`` cannot change before it is read: ``bytes``, a data URI, ``Snapshot``; no subclass.

    Never raises: it asks an object of another type for nothing.
    """
    if type(source) is str:
        return _is_data_uri(source)
    return type(source) is bytes or type(source) is Snapshot


def snapshot(source: object) -> object:
    """``source``, or, for a ``str`` or ``Path`` that names a file, what is in that file now. Never raises.

    Whoever passed the path may write another image to it as soon as the next one is requested.
    """
    if is_settled(source) or not any(type(source) is kind for kind in _PATHS):
        return source
    path = str(source)
    try:
        return Snapshot(path, _file(path, Limits(), address=isinstance(source, str)))
    except Exception as error:  # raised when it is opened
        return Snapshot(path, error=error)


def _describe(source: object) -> str:
    if isinstance(source, PILImage):
        return "<PIL image>"
    if isinstance(source, Snapshot):
        return _printable(source.path)
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>"
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        return "<data URI>" if isinstance(source, str) and _is_data_uri(path) else _printable(path)
    if _is_array(source):
        return "<array>"
    return "<file>" if hasattr(source, "read") else f"<{_printable(type(source).__name__)}>"


def _printable(path: str) -> str:
    return visible(shortened(path, _LONGEST_NAME))


def _is_data_uri(text: str) -> bool:
    return text[:5].lower() == "data:"


def load(source: object, limits: Limits) -> bytes | PILImage:
    """The encoded bytes of an image, or, where the caller holds pixels, an image."""
    if isinstance(source, PILImage):
        return source
    if isinstance(source, bytes | bytearray | memoryview):
        _check_bytes(memoryview(source).nbytes, limits)
        data = bytes(source)
    elif isinstance(source, Snapshot):
        if source.error is not None:
            raise source.error
        data = source.data
    elif isinstance(source, str | os.PathLike):
        text = os.fsdecode(source)
        if isinstance(source, str) and _is_data_uri(text):
            data = _data_uri(text, limits)
        else:
            data = _file(text, limits, address=isinstance(source, str))
    elif _is_array(source):
        return _array(source, limits)
    elif hasattr(source, "read"):
        data = _stream(source, limits)
    else:
        raise Refusal(
            "is not something an image can be read from",
            hint="pass a path, bytes, a PIL image, a data URI, a binary file object, or an array of uint8 "
            "with shape (height, width, 3); for a torch tensor, `tensor.cpu().numpy()`",
        )
    if not data:
        raise Refusal(_EMPTY, hint="the file was not written or not downloaded completely; get it again")
    _check_bytes(len(data), limits)
    return data


def _check_bytes(count: int, limits: Limits) -> None:
    if count > limits.max_bytes:
        raise Refusal(
            f"has {count / 2**20:.1f} MiB; the limit is {limits.max_bytes / 2**20:g} MiB",
            hint="make the image smaller, or save it with stronger compression",
        )


def _file(path: str, limits: Limits, *, address: bool) -> bytes:
    if address and (scheme := _SCHEME.match(path)):
        if scheme[1].lower() == "file":
            raise Refusal("is a file address", hint="pass the path itself")
        raise Refusal(
            "is a remote address, and nothing is fetched from the network",
            hint="download the image yourself and pass its bytes",
        )
    try:
        _check_regular(os.stat(path).st_mode)  # noqa: PTH116 (Path("") would be the current folder)
        with os.fdopen(os.open(path, _READ), "rb") as file:  # non-blocking, should a FIFO take its place now
            status = os.fstat(file.fileno())
            _check_regular(status.st_mode)
            _check_bytes(status.st_size, limits)
            return file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise Refusal("there is no such file", hint=_path_hint(path)) from error
    except PermissionError as error:
        raise Refusal("may not be read: permission denied", hint="check the file's permissions") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise Refusal(f"cannot be read: {reason}", hint=_path_hint(path)) from error


def _path_hint(path: str) -> str:
    if len(path) > _LONGEST_NAME:
        return "if this is base64 text, decode it and pass the bytes, or make it a data URI"
    return "check the path"


def _check_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Refusal(
            "is a folder", hint="pass the images in it one by one, or the folder to `policyguard check`"
        )
    if not stat.S_ISREG(mode):
        raise Refusal("is not a regular file", hint="read it yourself and pass the bytes")


def _stream(file: Any, limits: Limits) -> bytes:
    parts: list[bytes] = []
    missing = limits.max_bytes + 1
    while missing > 0:
        try:
            part = file.read(missing)
        except Exception as error:
            raise Refusal(
                f"cannot be read: its read() raises {_printable(type(error).__name__)}",
                hint="read it yourself and pass the bytes",
            ) from error
        if inspect.iscoroutine(part):
            part.close()
            raise Refusal("is an asynchronous file object", hint="await its read() and pass the bytes")
        if not isinstance(part, bytes | bytearray | memoryview):
            raise Refusal("does not give bytes when read", hint="open the file in binary mode ('rb')")
        if not part:
            break
        parts.append(bytes(part))
        missing -= len(parts[-1])
    if not parts:
        raise Refusal(_EMPTY, hint="if the file object was read before, seek(0) first")
    return b"".join(parts)


def _data_uri(uri: str, limits: Limits) -> bytes:
    head, comma, body = uri[5:].partition(",")
    if not comma or len(head) > _MEDIA_TYPE_MAX:
        raise Refusal("has no comma after its media type", hint="the form is data:image/png;base64,DATA")
    if not _BASE64_MARK.fullmatch(head):
        raise Refusal("is not marked as base64", hint="the form is data:image/png;base64,DATA")
    text = body.translate(_WHITESPACE)
    _check_bytes(len(text) // 4 * 3 - 2, limits)  # without what may be padding
    if "%" in text:
        raise Refusal("is percent-encoded", hint="write its base64 as it is: +, / and = need no escape here")
    missing = -len(text) % 4
    if not _BASE64.fullmatch(text) or missing == 3 or (missing and text.endswith("=")):
        raise Refusal("is not valid base64", hint="use standard base64, not the URL-safe alphabet")
    return base64.b64decode(text + "=" * missing)


def _is_array(source: object) -> bool:
    return hasattr(source, "__array_interface__")


def _array(source: Any, limits: Limits) -> PILImage:
    shape = tuple(source.__array_interface__["shape"])
    dtype = str(source.__array_interface__["typestr"])
    if dtype != "|u1":
        raise Refusal(
            f"holds {getattr(source, 'dtype', dtype)}; arrays must be uint8",
            hint="scale it to 0..255 yourself and pass `array.astype(numpy.uint8)`",
        )
    mode = _ARRAY_MODES.get(shape[2:]) if len(shape) in (2, 3) else None
    if mode is None:
        raise Refusal(
            f"has shape {shape}; it must be (height, width), (height, width, 3) or (height, width, 4)",
            hint="channels come last, in the order red, green, blue; pass a batch one by one",
        )
    size = (shape[1], shape[0])
    check_size(size, 1, limits)
    return pil.frombytes(mode, size, memoryview(source).tobytes())
