"""Files that a file of policy tests names: relative to it, and inside its policy root.

See ``policyguard.policy.inside`` for what is covered. Images are read through it too, when they are judged.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from policyguard.errors import PolicyError, Problem
from policyguard.policy.inside import OutsideError, find_root, include_parts, read_inside

__all__ = ["Folder", "PathRefused"]


class PathRefused(Exception):  # noqa: N818 (it never leaves this package; its text becomes a Problem)
    """What is wrong with a path, in one sentence."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder of a file, inside a root. ``steps`` lead from ``root`` to it."""

    root: str
    steps: tuple[str, ...]

    @classmethod
    def of(cls, file: Path, root: str | Path | None) -> Self:
        """The folder of ``file``. Raises PolicyError if it lies outside ``root``."""
        folder = os.path.realpath(file.parent)
        top = find_root(folder) if root is None else os.path.realpath(root)
        try:
            return cls(top, Path(folder).relative_to(top).parts)
        except ValueError:
            raise PolicyError([Problem(f"this file lies outside the root {top}", str(file))]) from None

    def find(self, name: str) -> Path:
        """The file that ``name`` means. Raises PathRefused if it is not a file inside the root."""
        _, found = self._read(name, 0)
        return Path(self.root, *found)

    def read(self, name: str, limit: int) -> bytes:
        """At most ``limit + 1`` of its bytes. Raises PathRefused."""
        return self._read(name, limit)[0]

    def _read(self, name: str, limit: int) -> tuple[bytes, tuple[str, ...]]:
        parts = include_parts(name)
        if isinstance(parts, str):
            raise PathRefused(parts)
        try:
            return read_inside(self.root, [*self.steps, *parts], limit=limit)
        except OutsideError as error:
            raise PathRefused(f"{error.strerror}: {self.root}") from None
        except FileNotFoundError:
            raise PathRefused("there is no such file") from None
        except IsADirectoryError:
            raise PathRefused("this is a folder") from None
        except (OSError, ValueError) as error:
            raise PathRefused(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from None
