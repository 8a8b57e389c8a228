"""Which file a name means: a path under the policy root, or a packaged or installed policy."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from policyguard.errors import PolicyError, Problem
from policyguard.policy.inside import OutsideError, find_root, include_parts, read_inside
from policyguard.policy.installed import installed_file
from policyguard.policy.library import find_library, packaged_path, packaged_policies

__all__ = ["SUFFIXES", "Found", "Named", "find", "include", "is_path", "locate"]

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Named:
    """A file that the caller names, and the root that bounds what it may extend (``None``: found out)."""

    path: Path
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """One file that was read: ``parts`` lead from ``root`` to it."""

    root: str
    parts: tuple[str, ...]
    display: str
    data: bytes = b""

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """The same for the same file, whatever names it."""
        return self.root, self.parts

    @classmethod
    def at_root(cls, root: str) -> Found:
        """Stands for plain values, which extend files as if they lay in ``root``."""
        return cls(os.path.realpath(root), ("<dict>",), "<dict>")


def is_path(source: str) -> bool:
    """Whether a name is a path rather than the name of a packaged policy."""
    return source.lower().endswith(SUFFIXES) or source.startswith((".", "/", "~"))


def locate(source: str | Path, *, root: str | Path | None = None) -> Named:
    """The file that a caller means; see ``load_policy``. A path need not exist."""
    if not isinstance(source, (str, Path)):
        said = "a policy is named by a str or a Path"
        refuse(f"<{type(source).__name__}>", said, "for plain values use parse_policy")
    bound = None if root is None else Path(root)
    if isinstance(source, Path):
        return Named(source, bound)
    if is_path(source):
        return Named(Path(os.path.expanduser(source)), bound)  # noqa: PTH111 (raises for an unknown user)
    path, folder = _known(source)
    return Named(path, folder)


def find(named: Named) -> Found:
    """Read the file first named. Raises PolicyError."""
    path = named.path
    try:
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder or ".")
        root = find_root(folder) if named.root is None else os.path.realpath(named.root)
        if name in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if named.root is not None and not Path(root).is_dir():
            refuse(named.root, "the policy root is not a folder", "give a folder that holds the policy")
        try:
            parts = (*Path(folder).relative_to(root).parts, name)
        except ValueError:
            raise OutsideError(errno.EACCES, "lies outside of the policy root") from None
        data, found = read_inside(root, parts)
    except OutsideError as error:
        hint = f"the root is {root}: name a file in it, or give another root"
        refuse(path, f"this file {error.strerror}", hint)
    except (OSError, ValueError) as error:
        message, hint = explain(error, path)
        refuse(path, message, hint)
    return Found(root, found, str(path), data)


def include(name: str, by: Found | None) -> Found:
    """Read what the file ``by`` extends. Raises PolicyError."""
    if not is_path(name):
        path, folder = _known(name)
        root = os.path.realpath(folder)
        parts: list[str] = list(path.relative_to(folder).parts)
        display = str(path)
    elif by is None:
        refuse(name, "plain values can extend packaged policies only", "give root= to name files under it")
    else:
        steps = include_parts(name)
        if isinstance(steps, str):
            refuse(name, f"the path {steps}", f"files lie under the policy root, {by.root}")
        root, parts = by.root, [*by.parts[:-1], *steps]
        display = _display(by, steps)
    try:
        data, found = read_inside(root, parts)
    except OutsideError as error:
        refuse(name, f"the path {error.strerror}", f"the policy root is {root}")
    except (OSError, ValueError) as error:
        message, hint = explain(error, Path(root, *parts), name)
        refuse(name, message, hint)
    return Found(root, found, display, data)


def _display(by: Found, steps: Iterable[str]) -> str:
    folder = os.path.dirname(by.display) if by.display != "<dict>" else by.root  # noqa: PTH120 (may be "")
    return os.path.normpath(os.path.join(folder, *steps))  # noqa: PTH118


def _known(name: str) -> tuple[Path, Path]:
    if name not in packaged_policies() and (installed := installed_file(name)) is not None:
        folder, path = installed
        return path, folder
    return packaged_path(name), find_library()


def refuse(path: Path | str, message: str, hint: str) -> NoReturn:
    """Raise PolicyError about one file."""
    name = str(path)
    raise PolicyError([Problem(message, name if name.isprintable() else ascii(name))], hint=hint) from None


def explain(error: OSError | ValueError, path: Path, name: str | None = None) -> tuple[str, str]:
    """Why a file cannot be read, and what to do about it. ``name``: how a policy names it."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file", _missing_hint(path, name)
    if isinstance(error, IsADirectoryError):
        return "this is a folder, not a policy file", _folder_hint(path)
    if isinstance(error, PermissionError):
        return "this file may not be read", "check its permissions"
    code = getattr(error, "errno", None)
    if code in (errno.ENODEV, errno.ENXIO):  # ENXIO: a socket
        return "this is a device or a pipe, not a policy file", "save the policy as a file"
    if code == errno.ELOOP:
        return "this file cannot be opened (too many links, or one that changes)", "name the file itself"
    why = getattr(error, "strerror", None) or error  # ValueError: a NUL in the name
    return f"this file cannot be opened ({why})", "check the path"


def _files_in(folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES))
    except (OSError, ValueError):
        return []
    return names


def _folder_hint(path: Path) -> str:
    files = _files_in(path)
    if not files:
        return "name a .yaml file"
    return f"name one of the files in it: {', '.join(files[:8])}{' ...' if len(files) > 8 else ''}"


def _missing_hint(path: Path, name: str | None) -> str:
    close = difflib.get_close_matches(path.name, _files_in(path.parent), n=1, cutoff=0.6)
    if close:
        return f"did you mean {path.parent / close[0] if name is None else close[0]}?"
    bare = (name or path.as_posix()).rpartition(".")[0].removeprefix("policies/")
    if bare in packaged_policies():
        return f"the packaged policy of that name is {bare!r}, without .yaml"
    if name is not None:
        return f"check the path: it starts at the folder of the file that names it, {path.parent}"
    return "check the path" if path.is_absolute() else "check the path: it starts at the current folder"
