"""Which file a name means: a path under the policy root, or a packaged or installed policy.

``safeedit/l3`` is ``policies/safeedit/l3.yaml`` of this package. Other packages install policies through the
entry point group ``policyguard.policies``: ``acme = "acme_policies"`` makes each ``x.yaml`` in that package's
folder known as ``acme/x``. The folder is looked up in the package's metadata: none of its code is imported.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NoReturn

from policyguard.errors import ConfigurationError, PolicyError, Problem
from policyguard.strict.explain import nearest_file
from policyguard.strict.inside import OutsideError, find_root, include_parts, read_inside
from policyguard.strict.text import quoted, visible

__all__ = [
    "GROUP",
    "SUFFIXES",
    "Location",
    "PolicyFile",
    "find",
    "find_library",
    "include",
    "installed_file",
    "is_path",
    "locate",
    "packaged_path",
    "packaged_policies",
]


GROUP = "policyguard.policies"


def installed_file(name: str) -> tuple[Path, Path] | None:
    """The folder and the file of an installed policy, or ``None``; a look-up, no path is put together."""
    prefix, _, rest = name.partition("/")
    points = [point for point in entry_points(group=GROUP) if point.name == prefix]
    folders = [folder for point in points if (folder := _folder(point)) is not None]
    if len({str(folder) for folder in folders}) != 1:  # two packages that claim one name: neither gets it
        return None
    folder = folders[0].resolve()
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return (folder, files[rest]) if rest in files else None


def _folder(point: EntryPoint) -> Path | None:
    steps = point.value.partition(":")[0].strip().split(".")
    if not all(step.isidentifier() for step in steps):
        return None
    if point.dist is not None:
        folder = Path(str(point.dist.locate_file("/".join(steps))))
        if folder.is_dir():
            return folder
    try:  # an editable install; finding a top-level package imports nothing
        spec = importlib.util.find_spec(steps[0])
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place, *steps[1:])
        if folder.is_dir():
            return folder
    return None


_PACKAGE = Path(__file__).resolve().parents[1]


def find_library(package: Path = _PACKAGE) -> Path:
    """The folder of the packaged policies.

    A wheel holds it inside the package; a checkout, and an editable install of one, at the repository's root.
    Raises ConfigurationError where neither is there.
    """
    inside, checkout = package / "policies", package.parent.parent / "policies"
    if inside.is_dir():
        return inside
    if package.parent.name == "src" and checkout.is_dir():
        return checkout
    raise ConfigurationError(f"no packaged policies in {package}", hint="reinstall policyguard")


def packaged_policies() -> tuple[str, ...]:
    """The names of the packaged policies, sorted."""
    return tuple(_files())


def packaged_path(name: str) -> Path:
    """The file of a packaged policy. Raises PolicyError for an unknown name, with the nearest ones."""
    files = _files()
    if name in files:  # a look-up, never a path put together: no name leads out of the library
        return files[name]
    raise PolicyError(
        [Problem(_unknown(name, list(files)), visible(name) or "''")], hint=_hint(name, list(files))
    )


def _files() -> dict[str, Path]:
    root = find_library()
    paths = (path for path in root.rglob("*.yaml") if path.is_file())
    return dict(sorted((path.relative_to(root).with_suffix("").as_posix(), path) for path in paths))


def _unknown(name: str, known: list[str]) -> str:
    if _is_folder(name):
        return "this is a folder, not a policy file"
    message = "there is no packaged policy of this name"
    family, separator, rest = name.replace(os.sep, "/").partition("/")
    if separator and not (
        rest and any(each.startswith(f"{family}/") for each in known)
    ):  # more likely a path
        message = "there is no such folder, and no packaged policy of this name"
    close = difflib.get_close_matches(name[:64].lower(), known, n=3, cutoff=0.5)
    return f"{message}: did you mean {' or '.join(close)}?" if close else message


def _hint(name: str, known: list[str]) -> str:
    if "\n" in name:
        return "for the text of a policy use parse_policy"
    if _is_folder(name):
        return _folder_hint(Path(name))
    packaged = "`policyguard policy list` shows the packaged ones"
    try:
        here = name and Path(name).exists()
    except (OSError, ValueError):
        here = False
    return f"for the path, write ./{name}; {packaged}" if here else f"a file's name ends in .yaml; {packaged}"


def _is_folder(name: str) -> bool:
    """Whether ``name`` is a folder with policies in it."""
    try:
        return bool(name) and bool(_files_in(Path(name)))
    except (OSError, ValueError):
        return False


SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Location:
    """A file that the caller names, and the root that bounds what it may extend (``None``: found out)."""

    path: Path
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class PolicyFile:
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
    def at_root(cls, root: str) -> PolicyFile:
        """Stands for plain values, which extend files as if they lay in ``root``."""
        return cls(os.path.realpath(root), ("<dict>",), "<dict>")


def is_path(source: str) -> bool:
    """Whether a name is a path rather than the name of a packaged policy."""
    return source.lower().endswith(SUFFIXES) or source.startswith((".", "/", "~"))


def locate(source: str | Path, *, root: str | Path | None = None) -> Location:
    """The file that a caller means; see ``load_policy``. A path need not exist."""
    if not isinstance(source, (str, Path)):
        message = "a policy is named by a str or a Path"
        refuse(f"<{type(source).__name__}>", message, "for plain values use parse_policy")
    bound = None if root is None else Path(root)
    if isinstance(source, Path):
        return Location(source, bound)
    if is_path(source):
        return Location(Path(os.path.expanduser(source)), bound)  # noqa: PTH111 (raises for an unknown user)
    path, folder = _known(source)
    return Location(path, folder)


def find(location: Location) -> PolicyFile:
    """Read the file first named. Raises PolicyError."""
    path = location.path
    try:
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder or ".")
        root = find_root(folder) if location.root is None else os.path.realpath(location.root)
        if name in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if location.root is not None and not Path(root).is_dir():
            refuse(location.root, "the policy root is not a folder", "give a folder that holds the policy")
        try:
            parts = (*Path(folder).relative_to(root).parts, name)
        except ValueError:
            raise OutsideError(errno.EACCES, "lies outside of the policy root") from None
        data, resolved = read_inside(root, parts)
    except OutsideError as error:
        hint = f"the root is {root}: name a file in it, or give another root"
        refuse(path, f"this file {error.strerror}", hint)
    except (OSError, ValueError) as error:
        message, hint = explain(error, path)
        refuse(path, message, hint)
    return PolicyFile(root, resolved, str(path), data)


_WIDER = "a policyguard.toml, which may be empty, in the folder above all of them makes that one the root"


def include(name: str, by: PolicyFile | None) -> PolicyFile:
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
            refuse(name, f"the path {steps}", f"files lie under the policy root, {by.root}; {_WIDER}")
        root, parts = by.root, [*by.parts[:-1], *steps]
        display = _display(by, steps)
    try:
        data, resolved = read_inside(root, parts)
    except OutsideError as error:
        refuse(name, f"the path {error.strerror}", f"the policy root is {root}; {_WIDER}")
    except (OSError, ValueError) as error:
        start = None if by is None else Path(root, *by.parts[:-1])
        message, hint = explain(error, Path(root, *parts), name, start)
        refuse(name, message, hint)
    return PolicyFile(root, resolved, display, data)


def _display(by: PolicyFile, steps: Iterable[str]) -> str:
    folder = os.path.dirname(by.display) if by.display != "<dict>" else by.root  # noqa: PTH120 (may be "")
    return os.path.normpath(os.path.join(folder, *steps))  # noqa: PTH118


def _known(name: str) -> tuple[Path, Path]:
    if name not in packaged_policies() and (installed := installed_file(name)) is not None:
        folder, path = installed
        return path, folder
    return packaged_path(name), find_library()


def refuse(path: Path | str, message: str, hint: str) -> NoReturn:
    """Raise PolicyError about one file."""
    raise PolicyError([Problem(message, visible(str(path)))], hint=hint) from None


def explain(
    error: OSError | ValueError, path: Path, name: str | None = None, start: Path | None = None
) -> tuple[str, str]:
    """Why a file cannot be read, and what to do. ``name``: how a policy in the folder ``start`` names it."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file", _missing_hint(path, name, start)
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


def _missing_hint(path: Path, name: str | None, start: Path | None) -> str:
    close = nearest_file(path.name, _files_in(path.parent))
    folder, slash, _ = (name or "").rpartition("/")
    if close:
        return f"did you mean {path.parent / close if name is None else f'{folder}{slash}{close}'}?"
    bare = (name or path.as_posix()).rpartition(".")[0].removeprefix("policies/")
    if bare in packaged_policies():
        return f"the packaged policy of that name is {bare!r}, without .yaml"
    if start is not None:
        there = os.path.isdir(path.parent)  # noqa: PTH112 (no name makes it raise)
        missing = "" if there else f", which holds no folder {quoted(folder.removeprefix('./'))}"
        return f"check the path: it starts at the folder of the file that names it, {start}{missing}"
    return "check the path" if path.is_absolute() else "check the path: it starts at the current folder"
