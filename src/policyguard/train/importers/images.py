"""Where imported images are kept: one file per image, under the SHA-256 of its bytes.

Covered: an image is opened by the guard's own decoder before it is kept, a path out of a table cannot
leave the folder of images, and a file in the store is whole or absent. Not covered: what an image shows.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from policyguard.errors import ImageError, Problem
from policyguard.images import Limits, decode
from policyguard.strict.files import sha256_of, write_bytes
from policyguard.strict.tables import BadRowError, image_of

__all__ = ["ENDINGS", "ImageStore", "find_images"]

ENDINGS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif"}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_UNREAD = (".avif", ".bmp", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".tif", ".tiff")


def find_images(folder: Path) -> tuple[list[Path], list[Problem]]:
    """The images below ``folder``, sorted, and image files of other kinds, which are left out."""
    images, left_out = [], []
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if path.is_symlink() and path.is_dir():
            left_out.append(Problem("a link to a folder is not followed: name that folder itself", str(path)))
        elif suffix in _SUFFIXES:
            images.append(path)
        elif suffix in _UNREAD:
            left_out.append(Problem(f"a {suffix} file is not opened: save it as PNG or JPEG", str(path)))
    return images, left_out


class ImageStore:
    """Keeps images below ``out/images``, or with ``copy=False`` names files where they lie.

    ``folder``: what paths are relative to, and must lie in. An image that is in the store already is not
    decoded again, so an import that was stopped goes on quickly.
    """

    def __init__(self, out: Path, folder: Path, *, copy: bool) -> None:
        self._out = out
        self.folder = folder
        self._copy = copy
        self.added = 0

    def add(self, value: Any, *, field: str) -> tuple[str, str]:
        """Path (relative to ``out``) and SHA-256 of an image. Raises BadRowError."""
        path, data = self._read(value, field)
        sha256 = hashlib.sha256(data).hexdigest()
        kept = next((self._out / "images" / sha256[:2]).glob(f"{sha256}.*"), None)
        if kept is not None and sha256_of(kept) == sha256:
            return kept.relative_to(self._out).as_posix(), sha256
        try:
            image = decode(data, frames="sample")
        except ImageError as error:
            raise BadRowError(field, str(error).splitlines()[0]) from None
        if path is not None and not self._copy:
            return Path(os.path.relpath(path, self._out.resolve())).as_posix(), sha256
        target = self._out / "images" / sha256[:2] / f"{sha256}.{ENDINGS[image.format or 'PNG']}"
        write_bytes(target, data)
        self.added += 1
        return target.relative_to(self._out).as_posix(), sha256

    def _read(self, value: Any, field: str) -> tuple[Path | None, bytes]:
        found = image_of(value, self.folder, field=field)
        if isinstance(found, bytes):
            return None, found
        try:
            with found.open("rb") as file:
                return found, file.read(Limits().max_bytes + 1)
        except OSError as error:
            raise BadRowError(field, f"{value!r} cannot be read: {error.strerror or error}") from None
