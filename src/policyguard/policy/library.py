"""The policies that come with the package, by name: ``safeedit/l3`` is ``policies/safeedit/l3.yaml``."""

from __future__ import annotations

import difflib
from pathlib import Path

from policyguard.errors import ConfigurationError, PolicyError, Problem

__all__ = ["find_library", "packaged_path", "packaged_policies"]

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
    shown = name if name.isprintable() else ascii(name)
    raise PolicyError([Problem(_unknown(name, list(files)), shown or "''")], hint=_hint(name, list(files)))


def _files() -> dict[str, Path]:
    root = find_library()
    found = (path for path in root.rglob("*.yaml") if path.is_file())
    return dict(sorted((path.relative_to(root).with_suffix("").as_posix(), path) for path in found))


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name[:64].lower(), known, n=3, cutoff=0.5)
    said = "there is no packaged policy of this name"
    return f"{said}: did you mean {' or '.join(close)}?" if close else said


def _hint(name: str, known: list[str]) -> str:
    packaged = f"packaged are {', '.join(known)}"
    try:
        here = name and Path(name).exists()
    except (OSError, ValueError):
        here = False
    return f"for the path, write ./{name}; {packaged}" if here else f"a file's name ends in .yaml; {packaged}"
