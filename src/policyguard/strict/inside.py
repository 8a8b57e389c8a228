"""Opens files inside one folder, the policy root, and nowhere else.

Covered: ``..`` that climbs out, absolute paths, drive letters, network paths and URLs, symbolic links that
lead out (relative ones that stay inside are followed), links that are swapped while the path is walked (each
step is opened relative to the folder before it, without following links), pipes and devices. Where the system
cannot open relative to a folder (Windows), the resolved path is compared before and after opening instead.
Not covered: hard links and mounts, which only somebody with rights on this machine can make.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from policyguard.strict.documents import MAX_BYTES

__all__ = ["MARKERS", "OutsideError", "find_root", "include_parts", "read_inside"]

MARKERS = ("policyguard.toml", ".git")
"""A folder that holds one of these is a policy root."""

_MAX_LINKS = 16
_FILE = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NOCTTY", 0)
)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_RELATIVE = os.open in os.supports_dir_fd and os.readlink in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


class OutsideError(OSError):
    """The path leads out of the root."""


def find_root(folder: str) -> str:
    """The nearest parent of ``folder``, itself included, that holds a marker; else ``folder``."""
    for parent in (Path(folder), *Path(folder).parents):
        if any(os.path.lexists(parent / marker) for marker in MARKERS):
            return str(parent)
    return folder


def include_parts(text: str) -> list[str] | str:
    """The steps of a path written in a policy, or what is wrong with it in one sentence."""
    if not text.isprintable():
        return "holds a character that no path needs"
    if "\\" in text:
        return "holds a backslash: write paths with `/`"
    if text.startswith("/"):
        return "is an absolute path: write it relative to this file"
    if text.startswith("~"):
        return "starts at a home folder: write it relative to this file"
    if ":" in text:
        return "holds a `:`: drives, streams and URLs are refused, write a path relative to this file"
    return [part for part in text.split("/") if part not in ("", ".")]


def read_inside(root: str, parts: Sequence[str], *, limit: int = MAX_BYTES) -> tuple[bytes, tuple[str, ...]]:
    """At most ``limit + 1`` bytes of a regular file, and the steps from ``root`` to where it lies.

    Raises OutsideError, or another OSError; never waits on a pipe and never reads a device.
    """
    handle, steps = _open(root, parts) if _RELATIVE else _open_compared(root, parts)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.ENODEV, "it is a device or a pipe")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limit + 1), steps
    finally:
        os.close(handle)


def _open(root: str, parts: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    """Walk from ``root`` step by step, holding every folder on the way, so that nothing can be swapped."""
    todo = deque(parts)
    held = [os.open(root, _FOLDER)]
    names: list[str] = []
    links = 0
    try:
        while todo:
            name = todo.popleft()
            if name == "..":
                if not names:
                    raise OutsideError(errno.EACCES, "leads out of the policy root")
                os.close(held.pop())
                names.pop()
            elif (target := _link(name, held[-1])) is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith("/"):
                    raise OutsideError(errno.EACCES, "is a link to an absolute path")
                todo.extendleft(part for part in reversed(target.split("/")) if part not in ("", "."))
            elif todo:
                held.append(os.open(name, _FOLDER, dir_fd=held[-1]))
                names.append(name)
            else:
                return os.open(name, _FILE, dir_fd=held[-1]), (*names, name)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    finally:
        for handle in held:
            os.close(handle)


def _link(name: str, folder: int) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:  # no link; whatever else is wrong, opening it will say
        return None


def _open_compared(root: str, parts: Iterable[str]) -> tuple[int, tuple[str, ...]]:
    top = os.path.realpath(root)
    real = os.path.realpath(os.path.join(top, *parts))  # noqa: PTH118 (PurePath drops nothing here either)
    steps = _below(top, real)
    handle = os.open(real, _FILE)
    try:
        again = os.path.realpath(real)
        if again != real or not os.path.samestat(os.fstat(handle), os.stat(again)):  # noqa: PTH116
            raise OutsideError(errno.EACCES, "was swapped while it was opened")
    except BaseException:
        os.close(handle)
        raise
    return handle, steps


def _below(top: str, real: str) -> tuple[str, ...]:
    try:
        steps = Path(real).relative_to(top).parts
    except ValueError:
        raise OutsideError(errno.EACCES, "leads out of the policy root") from None
    return steps
