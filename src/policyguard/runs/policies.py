"""Which policies each image is judged under, and which of them can be used.

Every entry of the project file that matches an image's path applies, and all of its policies must allow: one
more entry makes a check stricter, never laxer. An image that no entry matches is reported as not checked.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from policyguard.errors import PolicyError, UsageError
from policyguard.policy import load_policy
from policyguard.policy.files import is_path
from policyguard.runs.patterns import Patterns
from policyguard.runs.project import Project
from policyguard.runs.run import PolicyInfo
from policyguard.runs.settings import RunSettings

__all__ = [
    "Assignment",
    "conflicting_ids",
    "load_policies",
    "policy_names",
    "policy_problems",
    "refusal",
    "unusable",
]


class Assignment:
    """Maps the path of an image to the names of its policies.

    ``policies``: those of the command line, which replace those of the project file. Raises UsageError for
    invalid patterns.
    """

    def __init__(self, project: Project, policies: Sequence[str] | None) -> None:
        settings = project.settings
        self._file = project.file_name
        self._always = tuple(policies or settings.policy or ())
        self._entries = [
            (Patterns(entry.paths, where=f"{self._file}: policies[{index}].paths"), tuple(entry.policy))
            for index, entry in enumerate([] if policies else settings.policies)
        ]
        self._known: dict[tuple[int, ...], tuple[str, ...]] = {}
        self._idle = [
            (n, line, Patterns([line], where=self._file))
            for n, (patterns, _) in enumerate(self._entries)
            for line in patterns.positive
        ]

    def names(self, path: str) -> tuple[str, ...]:
        """The policies for the image at ``path``, from the project's root; empty if there is none for it."""
        self._idle = [idle for idle in self._idle if not idle[2].match(path)]
        matching = tuple(n for n, (patterns, _) in enumerate(self._entries) if patterns.match(path))
        if matching not in self._known:
            applying = (self._always, *(self._entries[n][1] for n in matching))
            self._known[matching] = tuple(dict.fromkeys(chain.from_iterable(applying)))
        return self._known[matching]

    def unmatched(self) -> list[str]:
        """The entries that have matched no path so far, and of others the patterns that have not: most likely
        mistakes. A pattern that has only matched what ``!`` took out again is none.
        """
        matched = set(chain.from_iterable(self._known))
        return [
            f"{self._file}: policies[{n}].paths ({line})"
            for n, (patterns, _) in enumerate(self._entries)
            for line in (
                [idle for of, idle, _ in self._idle if of == n]
                if n in matched
                else [", ".join(patterns.lines)]
            )
        ]


def load_policies(
    names: Iterable[str], project: Project, *, from_file: bool
) -> tuple[dict[str, PolicyInfo], dict[str, PolicyError]]:
    """The policies that can be used, by name, and the errors of the others.

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
        file = project.relative(path or Path(name).expanduser()) if is_path(name) else None
        loaded[name] = PolicyInfo(policy, name, file)
    return loaded, broken


def policy_names(settings: RunSettings) -> list[str]:
    """All policies that the settings name, for every image and for some."""
    entries = settings.project.settings.policies if settings.policies_from_file else []
    return [*settings.policy, *(name for entry in entries for name in entry.policy)]


def policy_problems(settings: RunSettings) -> list[str]:
    """A line for every policy that cannot be used, whether or not there is an image for it."""
    _, broken = load_policies(policy_names(settings), settings.project, from_file=settings.policies_from_file)
    return unusable(broken, settings)


def unusable(broken: Mapping[str, PolicyError], settings: RunSettings) -> list[str]:
    """A line for every policy in ``broken``."""
    of = f" of {settings.project.file_name}" if settings.policies_from_file else ""
    return [f"policy {name!r}{of} cannot be used: {error.message}" for name, error in broken.items()]


def refusal(broken: Mapping[str, PolicyError], settings: RunSettings) -> UsageError:
    """What to raise where nothing can be judged without the policies in ``broken``."""
    first = next(iter(broken.values()))
    if not settings.policies_from_file:
        return first
    return UsageError("\n".join(unusable(broken, settings)), hint=first.hint)


def conflicting_ids(policies: Iterable[PolicyInfo]) -> list[str]:
    """A line for policies that the baseline and the reports could not tell apart."""
    known: dict[str, PolicyInfo] = {}
    problems = []
    for info in policies:
        other = known.setdefault(info.policy.id, info)
        if other.policy != info.policy:
            problems.append(
                f"{other.name!r} and {info.name!r} are two policies with the same id: {info.policy.id}"
            )
    return problems
