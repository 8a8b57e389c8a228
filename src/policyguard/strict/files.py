"""Writes a file, or a folder, whole or not at all.

Covered: what stood at a path before stays until the new content is complete on the disk, whenever the process
is killed; a full disk or a folder that may not be written is an OSError; a report for a device
(``/dev/stdout``) or a pipe is written straight to it. Not covered: a process that is killed while it writes
can leave a hidden temporary file behind.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EISDIR, ENOTDIR
from pathlib import Path
from threading import Lock
from typing import IO, Any

from policyguard.errors import ConfigurationError

__all__ = [
    "Spool",
    "check_place",
    "fresh_folder",
    "prepare",
    "replacing",
    "sha256_of",
    "write_atomically",
    "write_bytes",
    "write_json",
    "write_lines",
    "write_report",
    "write_text",
]


_CHUNK = 64 * 1024
_IN_MEMORY = 256 * 1024
_ACCESS_LIST = "system.posix_acl_access"


def check_place(path: Path, *, name: str, folder: bool) -> None:
    """Raise ConfigurationError if ``path``, called ``name`` by the user, cannot be written as a file, or as a
    folder. Looks only, so a long job can ask before it starts.
    """
    kind, other = ("folder", "file") if folder else ("file", "folder")
    hint = f"name a {kind}, which may not exist yet"
    try:
        if path.exists() and path.is_dir() != folder:
            raise ConfigurationError(f"{name}: {path} is a {other}", hint=hint)
        above = next(place for place in path.absolute().parents if place.exists())
        held = path if folder and path.exists() else above
        if not above.is_dir():
            raise ConfigurationError(f"{name}: {path} cannot be made, because {above} is a file", hint=hint)
        if not os.access(held, os.W_OK | os.X_OK):
            raise ConfigurationError(f"{name}: nothing can be written into {held}", hint=hint)
    except OSError as error:
        raise ConfigurationError(f"{name}: {str(path)[:200]}: {error.strerror or error}", hint=hint) from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write into; it takes the place of ``path`` if the block ends well.

    The permissions and access list of ``path`` stay, its owner and group where that is allowed, and a link
    stays a link. Raises OSError, and leaves ``path`` as it was.
    """
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=".policyguard-", dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb", buffering=_CHUNK) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            former = target.stat()
            _give(partial, former.st_uid, former.st_gid)
            _share(partial, target)
            partial.chmod(former.st_mode & 0o777)  # last: until then it is its writer's alone
        else:
            partial.chmod(0o666 & ~_umask())
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def _give(path: Path, user: int, group: int) -> None:
    """Root may give a file to anybody, others to groups that they are in; what is not allowed is left."""
    if not hasattr(os, "chown"):
        return
    with suppress(OSError):
        os.chown(path, -1, group)
    if path.stat().st_uid != user:
        with suppress(OSError):
            os.chown(path, user, -1)


def _share(path: Path, former: Path) -> None:
    """Give ``path`` the access list (``setfacl``) of ``former``, or none, where the system has such lists."""
    if hasattr(os, "getxattr"):
        with suppress(OSError):  # the folder may have given it a list of its own
            os.removexattr(path, _ACCESS_LIST)
        with suppress(OSError):
            os.setxattr(path, _ACCESS_LIST, os.getxattr(former, _ACCESS_LIST))


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Put ``content``, whole or in pieces, in place of ``path``; see ``replacing``.

    Half a surrogate pair is written as its escape.
    """
    pieces = [content] if isinstance(content, str | bytes) else content
    with replacing(path) as file:
        for piece in pieces:
            file.write(piece if isinstance(piece, bytes) else piece.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """As ``write_atomically``, in a folder that is made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write ``lines``, each ended with a newline, and give their number. Until the end the old file stays."""
    count = 0

    def ended() -> Iterator[str]:
        nonlocal count
        for line in lines:
            yield f"{line}\n"
            count += 1

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, ended())
    return count


def write_text(path: Path, text: str) -> None:
    """Replace the file at ``path`` by ``text``, ended with a newline, in one step."""
    write_lines(path, [text.removesuffix("\n")])


def write_json(path: Path, value: Any) -> None:
    """Replace the file at ``path`` by ``value`` as indented JSON, in one step. NaN raises ValueError."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` to write into; it takes the place of ``path`` if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial"))
    partial.chmod(0o755)
    try:
        yield partial
        if path.exists():
            old = partial.with_suffix(".old")
            path.rename(old)
            partial.rename(path)
            shutil.rmtree(old)
        else:
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Spool:
    """Texts that are appended first and read then, as often and by as many at once as needed.

    Beyond 256 KiB they are in a temporary file, which goes away with this object. ``end`` ends each of them.
    """

    def __init__(self, *, end: bytes = b"\n") -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="policyguard-")  # noqa: SIM115
        self._end, self._lock = end, Lock()
        self.count = 0

    def append(self, text: str | bytes) -> None:
        """Add ``text``, which holds no ``end``, or stands for several texts."""
        data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
        with self._lock:
            self._file.seek(0, os.SEEK_END)
            self._file.write(data + self._end)
            self.count += 1

    def encoded(self) -> Iterator[bytes]:
        """The texts as bytes, without their ends."""
        position, rest = 0, b""
        while True:
            with self._lock:
                self._file.seek(position)
                chunk = self._file.read(_CHUNK)
            if not chunk:
                return
            position += len(chunk)
            *texts, rest = (rest + chunk).split(self._end)
            yield from texts

    def __iter__(self) -> Iterator[str]:
        """The texts, each with a line end."""
        return (f"{text.decode('utf-8')}\n" for text in self.encoded())

    def joined(self, separator: str) -> Iterator[str]:
        """The lines with ``separator`` between them, as JSON lists want it."""
        lead = ""
        for text in self.encoded():
            yield f"{lead}{text.decode('utf-8')}"
            lead = separator
        if lead:
            yield "\n"

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        with suppress(AttributeError):
            self._file.close()


def prepare(path: Path) -> None:
    """Make the folder of ``path``. Raises OSError if a report could not be written there."""
    if (descriptor := _descriptor(path)) is not None:
        os.fstat(descriptor)
        return
    if _is_device(path):
        with path.open("ab"):
            return
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR), str(path)) from None
    if target.is_dir():
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), str(path))
    with tempfile.TemporaryFile(dir=target.parent):
        pass


def write_report(path: Path, chunks: Iterable[str]) -> None:
    """Put ``chunks`` in place of the file at ``path``; see ``replacing``. Raises OSError."""
    descriptor = _descriptor(path)
    if descriptor is None and not _is_device(path):
        write_atomically(path, chunks)
        return
    opened = path if descriptor is None else os.dup(descriptor)  # what is printed stays before it
    with open(opened, "a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:  # noqa: PTH123
        file.writelines(chunks)


def _is_device(path: Path) -> bool:
    """Something that is there and can be neither replaced nor a folder: a device, a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _descriptor(path: Path) -> int | None:
    """The open file that ``/dev/stdout`` and the like stand for."""
    known = {"/dev/stdout": 1, "/dev/stderr": 2}
    number = re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,6})", str(path))
    return known.get(str(path)) if number is None else int(number[1])
