"""Which policies each image is judged under.

Every entry of the project file that matches an image's path applies, and all of its policies must allow: an
entry more makes a check stricter, never laxer. An image that nothing matches is not checked, and is named.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from policyguard.runs.patterns import Patterns
from policyguard.runs.project import Project
from policyguard.runs.run import PolicyInfo
from policyguard.errors import PolicyError
from policyguard.policy import load_policy
from policyguard.policy.files import is_path

__all__ = ["Assignment", "load_policies"]


class Assignment:
    """Says what an image is judged under.

    ``policies``: those of the command line, which replace those of the project file. Raises UsageError for
    patterns that cannot be read.
    """

    def __init__(self, project: Project, policies: Sequence[str] | None) -> None:
        settings = project.settings
        where = project.file.name if project.file else "policyguard.toml"
        self._always = tuple(policies or settings.policy or ())
        self._entries = [
            (Patterns(entry.paths, where=f"{where}: policies[{index}].paths"), tuple(entry.policy))
            for index, entry in enumerate([] if policies else settings.policies)
        ]
        self._where = where
        self._known: dict[tuple[int, ...], tuple[str, ...]] = {}

    def names(self, path: str) -> tuple[str, ...]:
        """The policies for the image at ``path``, from the project's root; empty if there is none for it."""
        matching = tuple(n for n, (patterns, _) in enumerate(self._entries) if patterns.match(path))
        if matching not in self._known:
            applying = (self._always, *(self._entries[n][1] for n in matching))
            self._known[matching] = tuple(dict.fromkeys(chain.from_iterable(applying)))
        return self._known[matching]

    def idle(self) -> list[str]:
        """The entries that have matched no path, as a mistake in a pattern makes them do."""
        met = set(chain.from_iterable(self._known))
        return [
            f"{self._where}: policies[{n}].paths ({', '.join(patterns.lines)})"
            for n, (patterns, _) in enumerate(self._entries)
            if n not in met
        ]


def load_policies(
    names: Iterable[str], project: Project, *, from_file: bool
) -> tuple[dict[str, PolicyInfo], dict[str, PolicyError]]:
    """The policies that can be used, by name, and what is wrong with the others.

    ``from_file``: paths start at the project's root, and not at the current folder.
    """
    loaded: dict[str, PolicyInfo] = {}
    broken: dict[str, PolicyError] = {}
    for name in dict.fromkeys(names):
        path = project.resolve(name) if from_file and is_path(name) else None
        try:
            source = name if path is None else Path(os.path.relpath(path))
            policy = load_policy(source).resolve()
        except PolicyError as error:
            broken[name] = error
            continue
        file = project.shown(path or Path(name).expanduser()) if is_path(name) else None
        loaded[name] = PolicyInfo(policy, name, file)
    return loaded, broken
