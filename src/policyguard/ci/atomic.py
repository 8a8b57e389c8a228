"""Writes a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["write_atomically"]

_CHUNK = 64 * 1024


def write_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Put ``text``, whole or in pieces, in place of ``path``, whose permissions stay.

    Half a surrogate pair is written as its escape. Raises OSError, and leaves the file as it was.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    handle, name = tempfile.mkstemp(prefix=".policyguard-", dir=target.parent)
    try:
        with open(  # noqa: PTH123 (a descriptor)
            handle, "w", buffering=_CHUNK, encoding="utf-8", errors="backslashreplace", newline="\n"
        ) as file:
            file.writelines([text] if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        Path(name).chmod(mode)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
