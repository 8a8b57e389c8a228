"""A run that can start: images sorted by policy, a guard for each group, the baseline."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from policyguard._version import __version__
from policyguard.errors import UsageError
from policyguard.guard import Guard
from policyguard.runs.baseline import Baseline, read_baseline
from policyguard.runs.engine import Group
from policyguard.runs.git import is_tracked
from policyguard.runs.policies import (
    Assignment,
    conflicting_ids,
    load_policies,
    policy_names,
    refusal,
    unusable,
)
from policyguard.runs.run import PolicyInfo, RunInfo, Unchecked
from policyguard.runs.selection import Selection, count_images
from policyguard.runs.settings import RunSettings
from policyguard.runs.sources import STDIN, Source, Sources

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.cache import VerdictCache
    from policyguard.guard import PolicyLike
    from policyguard.lists import HashList

__all__ = ["Job", "build_guard", "build_job", "model_settings"]

_PATIENCE = 60.0
"""Seconds for which a run waits for a server that went away in its middle."""


@dataclass(slots=True)
class Job:
    """Everything that a run needs. ``problems`` are lines about the set-up that end in exit code 2; ``notes``
    are worth knowing and stop nothing.

    ``whole``: the run covers all images of the project, so an entry without an image is stale.
    """

    guard: Guard
    groups: Sequence[Group]
    info: RunInfo
    report_path: Callable[[str], str] = str
    baseline: Baseline = field(default_factory=Baseline)
    workers: int | None = None
    deadline: float | None = None
    max_failures: int | None = None
    unchecked: list[Unchecked] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ignored: int = 0
    whole: bool = False

    @classmethod
    def of(cls, guard: Guard, sources: Sequence[Source], **options: Any) -> Self:
        """A run of one guard over ``sources``, without a project around it."""
        policies = tuple(PolicyInfo(policy, policy.id) for policy in guard.policies)
        info = _info(Path.cwd(), policies, guard, len(sources))
        return cls(guard=guard, groups=[Group(guard, sources)], info=info, **options)

    @property
    def images(self) -> int:
        return sum(len(group.items) for group in self.groups)


def build_job(settings: RunSettings, selection: Selection, *, backend: Backend | None = None) -> Job:
    """The run over ``selection``. A policy that cannot be used leaves its images unchecked and is a problem.

    ``backend`` takes the place of the one that the settings name.

    Raises UsageError if nothing can be checked: no policy at all, or a set-up that cannot work.
    """
    project = settings.project
    started = monotonic()

    def report_path(name: str) -> str:
        return name if name == STDIN else project.relative(name)

    if not policy_names(settings):
        raise UsageError(
            "no policy to check images under",
            hint="give --policy, or write `policy` or [[policies]] into policyguard.toml",
        )
    assignment = Assignment(project, None if settings.policies_from_file else settings.policy)
    by_policies: dict[tuple[str, ...], Sources] = {}
    for source in selection.sources:
        by_policies.setdefault(assignment.names(report_path(source.name)), Sources()).append(source)
    unmatched = by_policies.pop((), Sources())
    # Those of the project are looked at even if none of their images is to be checked, or has changed.
    used = [name for group in by_policies for name in group]
    others = policy_names(settings) if selection.whole or not used else []
    loaded, broken = load_policies([*used, *others], project, from_file=settings.policies_from_file)
    policies = {name: info for name, info in loaded.items() if name in used or not used}
    if not policies:
        raise refusal({name: broken[name] for name in used} or broken, settings)
    problems, notes = [*unusable(broken, settings), *conflicting_ids(loaded.values())], []
    unchecked: list[Unchecked] = []
    for group, sources in by_policies.items():
        if unloaded := [name for name in group if name in broken]:
            reason = f"policy {unloaded[0]!r} cannot be used"
            unchecked += [Unchecked(report_path(source.name), reason) for source in sources]
    if len(unmatched):
        paths = [report_path(source.name) for source in unmatched]
        message = f"no policy applies to {count_images(paths)}"
        if project.settings.unmatched == "error":
            unchecked += [Unchecked(path, "no policy applies to this path") for path in paths]
            problems.append(
                f'{message}: add [[policies]] for them, exclude them, or set unmatched = "ignore"'
            )
        else:
            notes.append(message)
            if not by_policies and not selection.may_be_empty:
                problems.append("nothing is left to check")
    if selection.whole and (selection.sources or selection.unchanged or selection.ignored):
        for source in selection.unchanged:
            assignment.names(report_path(source.name))
        problems += [
            f"no image matches {paths}: correct that; for images that are still to come, leave it out and "
            "add it with the first image"
            for paths in assignment.unmatched()
        ]
    guard = build_guard(
        [info.policy for info in loaded.values()],
        **model_settings(settings),
        explain=settings.explain,
        cache=settings.cache,
        backend=backend,
        lists=project.lists(),
    )
    notes += [
        f"list '{known.name}': {what} are not looked up" for known in guard.lists for what in known.skipped
    ]
    groups = [
        Group(guard.with_policy([policies[name].policy for name in group]), sources)
        for group, sources in by_policies.items()
        if not any(name in broken for name in group)
    ]
    baseline = read_baseline(
        settings.baseline_path,
        today=datetime.now(UTC).date(),
        missing_ok=settings.origins["baseline"] == "default",
    )
    images = sum(len(group.items) for group in groups)
    return Job(
        guard=guard,
        groups=groups,
        info=_info(project.root, tuple(policies.values()), guard, images),
        report_path=report_path,
        baseline=baseline,
        workers=settings.workers,
        deadline=None if settings.timeout is None else started + settings.timeout,
        max_failures=settings.max_failures,
        unchecked=unchecked,
        problems=[*problems, *map(str, baseline.problems)],
        notes=notes,
        ignored=selection.ignored,
        whole=selection.whole and not selection.unchanged,
    )


def model_settings(settings: RunSettings) -> dict[str, Any]:
    """What of ``settings`` says which model judges and how it runs, for ``build_guard``."""
    return {
        "model": settings.model,
        "base_url": settings.base_url,
        "dialect": settings.dialect,
        "subset": settings.subset,
        "local": {} if settings.staged else settings.project.settings.local,
        "replicas": settings.replicas or 1,
        "stages": settings.project.stages() if settings.staged else None,
    }


def build_guard(
    policies: Sequence[PolicyLike],
    *,
    base_url: Sequence[str] = (),
    cache: str | VerdictCache | None = None,
    explain: bool = False,
    backend: Backend | None = None,
    lists: Sequence[HashList] = (),
    **settings: Any,
) -> Guard:
    """A guard for a run: it waits a while for a server, and its cache is nobody else's to write.

    ``backend`` takes the place of what ``base_url`` and ``settings`` (model, dialect, subset,
    stages) name.
    """
    if isinstance(cache, str) and cache != "memory":
        if is_tracked(Path(cache)):
            raise UsageError(
                f"the cache {cache} is in git, so anyone who can commit to it decides what passes",
                hint=f"git rm --cached {cache}, and list it in .gitignore",
            )
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
    if backend is not None:
        return Guard(policies, backend=backend, explain=explain, cache=cache, lists=lists)
    urls = list(base_url)
    return Guard(
        policies,
        base_url=(urls[0] if len(urls) == 1 else urls) or None,
        explain=explain,
        cache=cache,
        patience=_PATIENCE,
        lists=lists,
        **settings,
    )


def _info(root: Path, policies: tuple[PolicyInfo, ...], guard: Guard, images: int) -> RunInfo:
    # Reports are passed around, so a password in a server's address is left out.
    command = ("policyguard", *(re.sub(r"://[^/@\s]*@", "://***@", word) for word in sys.argv[1:]))
    return RunInfo(root, policies, guard.backend.model, command, __version__, datetime.now(UTC), images)
