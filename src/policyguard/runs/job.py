"""From settings and paths to a run that can start: images found, sorted by policy, guards built."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from policyguard._version import __version__
from policyguard.runs.baseline import Baseline, read_baseline
from policyguard.runs.engine import Group
from policyguard.runs.git import changed_since as changed_files
from policyguard.runs.git import is_tracked
from policyguard.runs.patterns import IGNORE_FILE, Patterns, read_ignore_file
from policyguard.runs.run import PolicyInfo, RunInfo, Unchecked
from policyguard.runs.settings import Effective
from policyguard.runs.sources import Skipped, Source, search
from policyguard.runs.sources import Sources
from policyguard.errors import PolicyError, UsageError
from policyguard.guard import Guard
from policyguard.policy.files import is_path

if TYPE_CHECKING:
    from policyguard.backends.base import Backend

__all__ = ["Job", "Selected", "build_job", "policy_problems", "select_images"]

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Selected:
    """Images to check, and how many were left out: ``ignored`` by a pattern, ``unchanged`` since a ref.

    ``may_be_empty``: nothing to check is no mistake.
    """

    sources: Sources
    notes: tuple[str, ...] = ()
    ignored: int = 0
    unchanged: int = 0
    may_be_empty: bool = False


@dataclass(slots=True)
class Job:
    """Everything that a run needs. ``problems`` are lines about the set-up that end in exit code 2; ``notes``
    are worth knowing and stop nothing.

    ``whole``: the run looks at all images of the project, so that what it does not meet is not there.
    """

    guard: Guard
    groups: Sequence[Group]
    info: RunInfo
    shown: Callable[[str], str] = str
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


def select_images(
    paths: Sequence[str],
    settings: Effective,
    *,
    changed_since: str | None = None,
    allow_empty: bool = False,
    stdin: BinaryIO | None = None,
) -> Selected:
    """The images to check. Raises UsageError if there are none, unless that is allowed or none changed."""
    project = settings.project
    if not paths and project.file is None and changed_since is None:
        raise UsageError(
            "no PATH says what to check, and there is no project file", hint="policyguard check FOLDER"
        )
    changed = None if changed_since is None else changed_files(changed_since, project.root)
    where = project.file.name if project.file else "policyguard.toml"
    patterns = [read_ignore_file(project.root), Patterns(project.settings.exclude, where=f"{where}: exclude")]
    patterns = [spec for spec in patterns if spec]
    skipped, kept, unchanged = Skipped(), Sources(), 0
    ignored, first_ignored = 0, list[str]()
    for source in search(paths or [_from_here(project.root)], skipped, stdin, allow_empty=allow_empty):
        if _ignored(source, patterns, settings):
            ignored += 1
            if ignored <= _NAMED:
                first_ignored.append(source.name)
        elif changed is not None and source.data is None and not _is_among(changed, source.name):
            unchanged += 1
        else:
            kept.append(source)
    notes = [f"passed over {skipped}"] if str(skipped) else []
    if ignored:
        notes.append(f"{_images(first_ignored, ignored)} ignored by .policyguardignore or `exclude`")
    if changed is not None:
        notes.append(f"{len(kept):,} of {len(kept) + unchanged:,} images changed since {changed_since}")
        notes += _deciding(changed, settings)
        if not changed:
            notes.append(
                f"nothing differs from {changed_since}: after a push to a branch, name the commit before it"
            )
    if ignored and not kept and not unchanged and not allow_empty:
        raise UsageError(
            "every image is ignored by .policyguardignore or `exclude`", hint="or pass --allow-empty"
        )
    return Selected(kept, tuple(notes), ignored, unchanged, allow_empty or changed is not None)


def _is_among(changed: Container[str], name: str) -> bool:
    """Whether a file, or a folder that it lies in, such as a submodule, has changed."""
    path = os.path.realpath(name)
    return path in changed or any(str(folder) in changed for folder in Path(path).parents)


def _deciding(changed: Container[str], settings: Effective) -> list[str]:
    """A note on changed files that say what passes: the images that did not change are not judged anew."""
    project = settings.project
    named = {
        name: project.resolve(name) if _from_file(settings) else name for name in _all_policies(settings)
    }
    files = [project.file, project.root / IGNORE_FILE, settings.baseline_path]
    files += [Path(path) for name, path in named.items() if is_path(name)]
    found = dict.fromkeys(project.shown(path) for path in files if path and _is_among(changed, str(path)))
    return [f"what decides which images pass changed too: {', '.join(found)}"] if found else []


def _from_here(root: Path) -> str:
    return os.path.relpath(root)


def _ignored(source: Source, patterns: Sequence[Any], settings: Effective) -> bool:
    if source.data is not None or not patterns:
        return False
    path = settings.project.shown(source.name)
    return not path.startswith("/") and any(spec.match(path) for spec in patterns)


def build_job(
    settings: Effective, selected: Selected, *, whole: bool = False, backend: Backend | None = None
) -> Job:
    """The run over ``selected``. A policy that cannot be used leaves its images unchecked and is a problem.

    ``backend`` takes the place of the one that the settings name.

    Raises UsageError if nothing can be checked: no policy at all, or a set-up that cannot work.
    """
    from policyguard.runs.assign import Assignment, load_policies

    project = settings.project
    started = monotonic()
    shown: Callable[[str], str] = lambda name: name if name == "<stdin>" else project.shown(name)  # noqa: E731
    from_file = _from_file(settings)
    if not _all_policies(settings):
        raise UsageError(
            "no policy says what to check for",
            hint="give --policy, or write `policy` or [[policies]] into policyguard.toml",
        )
    assignment = Assignment(project, None if from_file else settings.policy)
    sorted_by: dict[tuple[str, ...], Sources] = {}
    for source in selected.sources:
        sorted_by.setdefault(assignment.names(shown(source.name)), Sources()).append(source)
    unmatched = sorted_by.pop((), Sources())
    # Nothing to check is no reason not to look at the policies.
    names = [name for group in sorted_by for name in group] or _all_policies(settings)
    policies, broken = load_policies(names, project, from_file=from_file)
    if not policies:
        raise next(iter(broken.values()))
    problems, notes = [*_unusable(broken), *_alike(policies.values())], []
    unchecked: list[Unchecked] = []
    for group, sources in sorted_by.items():
        if bad := [name for name in group if name in broken]:
            why = f"policy {bad[0]!r} cannot be used"
            unchecked += [Unchecked(shown(source.name), why) for source in sources]
    if len(unmatched) and project.settings.unmatched == "error":
        missed = [shown(source.name) for source in unmatched]
        unchecked += [Unchecked(path, "no policy is for this path") for path in missed]
        problems.append(
            f"no policy is for {_images(missed)}: add [[policies]] for them, exclude them, "
            'or set unmatched = "ignore"'
        )
    elif len(unmatched):
        notes.append(f"no policy is for {_images([shown(source.name) for source in unmatched])}")
        if not sorted_by and not selected.may_be_empty:
            problems.append("nothing is left to check")
    if whole and not selected.may_be_empty:
        problems += [
            f"no image matches {name}: mend or drop the entry, or pass --allow-empty"
            for name in assignment.idle()
        ]
    guard = _guard(settings, [info.policy for info in policies.values()], backend)
    groups = [
        Group(guard.with_policy([policies[name].policy for name in group]), sources)
        for group, sources in sorted_by.items()
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
        shown=shown,
        baseline=baseline,
        workers=settings.workers,
        deadline=None if settings.timeout is None else started + settings.timeout,
        max_failures=settings.max_failures,
        unchecked=unchecked,
        problems=[*problems, *map(str, baseline.problems)],
        notes=notes,
        ignored=selected.ignored,
        whole=whole,
    )


def policy_problems(settings: Effective) -> list[str]:
    """A line for every policy that cannot be used, whether or not there is an image for it."""
    from policyguard.runs.assign import load_policies

    _, broken = load_policies(_all_policies(settings), settings.project, from_file=_from_file(settings))
    return _unusable(broken)


def _from_file(settings: Effective) -> bool:
    return not settings.origins["policy"].startswith("--")


def _all_policies(settings: Effective) -> list[str]:
    entries = settings.project.settings.policies if _from_file(settings) else []
    return [*settings.policy, *(name for entry in entries for name in entry.policy)]


def _unusable(broken: Mapping[str, PolicyError]) -> list[str]:
    return [f"policy {name!r} cannot be used: {error.message}" for name, error in broken.items()]


def _alike(policies: Iterable[PolicyInfo]) -> list[str]:
    """A line for policies that the baseline and the reports could not tell apart."""
    known: dict[str, PolicyInfo] = {}
    problems = []
    for info in policies:
        other = known.setdefault(info.policy.id, info)
        if other.policy != info.policy:
            problems.append(
                f"{other.name!r} and {info.name!r} are two policies with one id: {info.policy.id}"
            )
    return problems


def _guard(settings: Effective, policies: Sequence[Any], backend: Backend | None) -> Guard:
    urls = settings.base_url
    cache = settings.cache
    if cache is not None and cache != "memory":
        if is_tracked(Path(cache)):
            raise UsageError(
                f"the cache {cache} is in git, so that whoever commits to it decides what passes",
                hint=f"git rm --cached {cache}, and list it in .gitignore",
            )
        Path(cache).parent.mkdir(parents=True, exist_ok=True)
    if backend is not None:
        return Guard(policies, backend=backend, explain=settings.explain, cache=cache)
    return Guard(
        policies,
        model=settings.model,
        base_url=(urls[0] if len(urls) == 1 else urls) or None,
        dialect=settings.dialect,
        explain=settings.explain,
        cache=cache,
    )


def _images(paths: Sequence[str], number: int | None = None) -> str:
    """``number`` images, of which ``paths`` are the first; default: all of them."""
    number = len(paths) if number is None else number
    some = ", ".join(paths[:_NAMED]) + (", ..." if number > _NAMED else "")
    return f"{number:,} image{'' if number == 1 else 's'} ({some})"


def _info(root: Path, policies: tuple[PolicyInfo, ...], guard: Guard, images: int) -> RunInfo:
    # Reports are passed around: a server's password in its address is not.
    command = ("policyguard", *(re.sub(r"://[^/@\s]*@", "://***@", word) for word in sys.argv[1:]))
    return RunInfo(root, policies, guard.backend.model, command, __version__, datetime.now(UTC), images)
