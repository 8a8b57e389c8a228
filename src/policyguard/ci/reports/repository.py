"""Where images lie for a host that knows the repository and not the project's folder in it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Repository"]


class Repository:
    """The git work tree around a project's root; the root itself, where there is none."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        tops = [folder for folder in (root, *root.parents) if os.path.lexists(folder / ".git")]
        self._top = os.path.join(tops[0] if tops else root, "")  # noqa: PTH118 (with a slash at its end)

    def path(self, path: str) -> str:
        """A path of the run from the top of the repository; whole, if it lies outside of it."""
        if path.startswith("<"):
            return path  # standard input
        whole = path if path.startswith("/") else os.path.join(self._root, path)  # noqa: PTH118
        return whole.removeprefix(self._top)
