"""Which images a run checks: those named, less the ignored and, if asked for, the unchanged ones."""

from __future__ import annotations

import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from policyguard.errors import UsageError
from policyguard.policy.files import is_path
from policyguard.runs.git import changed_since as changed_files
from policyguard.runs.patterns import IGNORE_FILE, Patterns, read_ignore_file
from policyguard.runs.policies import policy_names
from policyguard.runs.search import Skipped, search
from policyguard.runs.settings import RunSettings
from policyguard.runs.sources import Source, Sources

__all__ = ["MAX_NAMES", "Selection", "count_images", "select_images"]

MAX_NAMES = 5
"""How many images a note names."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Images to check, and what was left out: ``ignored`` (a count) by a pattern, ``unchanged`` since a ref.

    ``may_be_empty``: a run without an image is a success. ``whole``: all images of the project were looked
    at, so an entry of the project file that matches none of them is a mistake.
    """

    sources: Sources
    notes: tuple[str, ...] = ()
    ignored: int = 0
    unchanged: Sources = field(default_factory=Sources)
    may_be_empty: bool = False
    whole: bool = False


def select_images(
    paths: Sequence[str],
    settings: RunSettings,
    *,
    changed_since: str | None = None,
    allow_empty: bool = False,
    stdin: BinaryIO | None = None,
) -> Selection:
    """The images to check. Raises UsageError if there are none, unless that is allowed or none changed."""
    project = settings.project
    if not paths and project.file is None and changed_since is None:
        raise UsageError("give a PATH to check: there is no project file", hint="policyguard check FOLDER")
    changed = None if changed_since is None else changed_files(changed_since, project.root)
    exclude = Patterns(project.settings.exclude, where=f"{project.file_name}: exclude")
    patterns = [spec for spec in (read_ignore_file(project.root), exclude) if spec]
    skipped, kept, unchanged = Skipped(), Sources(), Sources()
    ignored, ignored_names = 0, list[str]()
    for source in search(paths or [os.path.relpath(project.root)], skipped, stdin, allow_empty=allow_empty):
        if _is_ignored(source, patterns, settings):
            ignored += 1
            if ignored <= MAX_NAMES:
                ignored_names.append(source.name)
        elif changed is not None and source.data is None and not _has_changed(source.name, changed):
            unchanged.append(source)
        else:
            kept.append(source)
    notes = [f"skipped {skipped}"] if str(skipped) else []
    if skipped.absent:
        notes.append(f"not there: {count_images(skipped.absent)}{skipped.meant}")
    if ignored:
        notes.append(f"{count_images(ignored_names, ignored)} ignored by {IGNORE_FILE} or `exclude`")
    if changed is not None:
        notes.append(f"{len(kept):,} of {len(kept) + len(unchanged):,} images changed since {changed_since}")
        notes += _changed_configuration(changed, settings)
        if not changed:
            notes.append(
                f"nothing differs from {changed_since}: after a push to a branch, name the commit before it"
            )
    if ignored and not kept and not unchanged and not allow_empty:
        raise UsageError(
            f"every image is ignored by {IGNORE_FILE} or `exclude`",
            hint="add images that are not, or pass --allow-empty",
        )
    return Selection(
        kept,
        tuple(notes),
        ignored,
        unchanged,
        may_be_empty=allow_empty or changed is not None,
        whole=not paths or any(os.path.abspath(path) == str(project.root) for path in paths),  # noqa: PTH100
    )


def count_images(names: Sequence[str], number: int | None = None) -> str:
    """``number`` images, of which ``names`` are the first; default: all of them."""
    number = len(names) if number is None else number
    some = ", ".join(names[:MAX_NAMES]) + (", ..." if number > MAX_NAMES else "")
    return f"{number:,} image{'' if number == 1 else 's'} ({some})"


def _has_changed(name: str, changed: Container[str]) -> bool:
    """Whether a file, or a folder that it lies in, such as a submodule, has changed."""
    path = os.path.realpath(name)
    return path in changed or any(str(folder) in changed for folder in Path(path).parents)


def _changed_configuration(changed: Container[str], settings: RunSettings) -> list[str]:
    """A note on changed policies and settings: the images that did not change are not judged again."""
    project = settings.project
    policies = [name for name in policy_names(settings) if is_path(name)]
    files = [project.file, project.root / IGNORE_FILE, settings.baseline_path]
    files += [project.resolve(name) if settings.policies_from_file else Path(name) for name in policies]
    matches = dict.fromkeys(
        project.relative(path) for path in files if path and _has_changed(str(path), changed)
    )
    said = f"what decides which images pass changed too: {', '.join(matches)}"
    return [f"{said}; without --changed-since the other images are judged by it too"] if matches else []


def _is_ignored(source: Source, patterns: Sequence[Patterns], settings: RunSettings) -> bool:
    if source.data is not None or not patterns:
        return False
    path = settings.project.relative(source.name)
    return not path.startswith("/") and any(spec.match(path) for spec in patterns)
