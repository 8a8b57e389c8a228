"""Policies that other packages install, through the entry point group ``policyguard.policies``.

``acme = "acme_policies"`` makes each ``x.yaml`` in that package's folder known as ``acme/x``. The folder is
looked up in the package's metadata: none of its code is imported.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

__all__ = ["GROUP", "installed_file"]

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
        found = Path(str(point.dist.locate_file("/".join(steps))))
        if found.is_dir():
            return found
    try:  # an editable install; finding a top-level package imports nothing
        spec = importlib.util.find_spec(steps[0])
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        found = Path(place, *steps[1:])
        if found.is_dir():
            return found
    return None
