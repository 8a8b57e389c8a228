"""Finds and reads policy files. Later work composes several documents between reading and validation."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path
from typing import NoReturn

from policyguard.errors import PolicyError, Problem
from policyguard.policy.document import Document, parse
from policyguard.policy.encoding import MAX_BYTES
from policyguard.policy.library import packaged_path, packaged_policies
from policyguard.policy.schema import Policy
from policyguard.policy.validate import validate_document

__all__ = ["load_policy", "locate", "read_document"]

_SUFFIXES = (".yaml", ".yml")


def load_policy(source: str | Path) -> Policy:
    """Load one policy from YAML.

    ``source`` is a path if it is a ``Path``, ends in .yaml or .yml, or starts with ``.``, ``/`` or ``~``;
    otherwise it is the name of a packaged policy, such as ``"safeedit/l3"``. Raises PolicyError, which holds
    every problem found, each with file, line and column.
    """
    return validate_document(read_document(locate(source)))


def locate(source: str | Path) -> Path:
    """The file that ``source`` names; see ``load_policy``. A path need not exist."""
    if not isinstance(source, (str, Path)):
        said = "a policy is named by a str or a Path"
        _refuse(f"<{type(source).__name__}>", said, "for plain values use Policy.from_dict")
    if isinstance(source, Path):
        return source
    if source.lower().endswith(_SUFFIXES) or source.startswith((".", "/", "~")):
        return Path(os.path.expanduser(source))  # noqa: PTH111 (Path.expanduser raises for an unknown user)
    return packaged_path(source)


def read_document(path: Path) -> Document:
    """The YAML tree of one file, with positions. Raises PolicyError."""
    return parse(_read(path), str(path))


def _read(path: Path) -> bytes:
    """At most ``MAX_BYTES + 1`` bytes of a regular file; never waits on a pipe or reads a device."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except FileNotFoundError:
        _refuse(path, "there is no such file", _missing_hint(path))
    except IsADirectoryError:
        _refuse(path, "this is a folder, not a policy file", _folder_hint(path))
    except PermissionError:
        if path.is_dir():
            _refuse(path, "this is a folder, not a policy file", _folder_hint(path))
        _refuse(path, "this file may not be read", "check its permissions")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or error
        _refuse(path, f"this file cannot be opened ({why})", "check the path")
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            _refuse(path, "this is a folder, not a policy file", _folder_hint(path))
        if not stat.S_ISREG(mode):
            _refuse(path, "this is a device or a pipe, not a policy file", "save the policy as a file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        _refuse(path, f"this file cannot be read ({error.strerror or error})", "check the disk it is on")
    finally:
        os.close(handle)


def _refuse(path: Path | str, message: str, hint: str) -> NoReturn:
    name = str(path)
    raise PolicyError([Problem(message, name if name.isprintable() else ascii(name))], hint=hint) from None


def _files_in(folder: Path) -> list[str]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(_SUFFIXES))
    except (OSError, ValueError):
        return []
    return names


def _folder_hint(path: Path) -> str:
    files = _files_in(path)
    if not files:
        return "name a .yaml file"
    return f"name one of the files in it: {', '.join(files[:8])}{' ...' if len(files) > 8 else ''}"


def _missing_hint(path: Path) -> str:
    close = difflib.get_close_matches(path.name, _files_in(path.parent), n=1, cutoff=0.6)
    if close:
        return f"did you mean {path.parent / close[0]}?"
    bare = path.with_suffix("").as_posix().removeprefix("policies/") if path.suffix else ""
    if bare in packaged_policies():
        return f"the packaged policy of that name is {bare!r}, without .yaml"
    return "check the path" if path.is_absolute() else "check the path: it starts at the current folder"
