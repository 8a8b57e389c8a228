"""Files that are whole or absent: what is written here survives a kill at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from policyguard.errors import ConfigurationError

__all__ = ["check_place", "fresh_folder", "sha256_of", "write_json", "write_lines", "write_text"]


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


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write ``lines``, each ended with a newline, and give their number. Until the end the old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    partial, count = Path(name), 0
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    return count


def write_text(path: Path, text: str) -> None:
    """Replace the file at ``path`` by ``text`` in one step."""
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
