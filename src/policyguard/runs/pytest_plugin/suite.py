"""What a test suite judges images with: one backend for the session, guards on it, the accepted violations.

Settings come from pytest (options, then ini), then the project file, then the environment. Nothing is read or
loaded until a test needs it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policyguard.errors import ConfigurationError
from policyguard.guard import Guard

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.cache.recording import RecordingBackend
    from policyguard.policy import ResolvedPolicy
    from policyguard.runs.baseline import Baseline
    from policyguard.runs.policies import Assignment
    from policyguard.runs.project import Project

__all__ = ["Suite", "SuiteOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteOptions:
    """Pytest's settings. ``root`` is its rootdir, where paths of policies start; files are absolute."""

    root: Path
    policy: tuple[str, ...] = ()
    model: str | None = None
    base_url: str | None = None
    dialect: str | None = None
    record: Path | None = None
    replay: Path | None = None


class Suite:
    """The guards of one test session. Raises UsageError, at first use, for a set-up that cannot work."""

    def __init__(self, options: SuiteOptions) -> None:
        self.options = options
        self.recorder: RecordingBackend | None = None
        self._loaded: dict[str, ResolvedPolicy] = {}
        self._owner: Guard | None = None
        self._first: Guard | None = None
        self._cached: Backend | None = None

    @cached_property
    def project(self) -> Project:
        from policyguard.runs.project import find_project

        return find_project(folder=self.options.root)

    @cached_property
    def baseline(self) -> Baseline:
        from policyguard.runs.baseline import BASELINE_FILE, read_baseline

        setting = self.project.settings.baseline
        path = self.project.resolve(setting or BASELINE_FILE)
        return read_baseline(path, today=datetime.now(UTC).date(), missing_ok=setting is None)

    def guard(self, policies: Sequence[Any] | None = None, *, explain: bool | None = None) -> Guard:
        """A guard on the session's backend. ``policies``: default: those set for every image."""
        guard = self._guard(self.policies(policies))
        if explain is not None:
            guard.explain = explain
        return guard

    def guard_for(self, image: object) -> Guard:
        """A guard with the policies that the project has for ``image``, by its path where it has one."""
        if self.options.policy or not isinstance(image, str | os.PathLike) or _is_data(image):
            return self.guard()
        names = self._assignment.names(self.project.relative(os.fsdecode(image)))
        if not names:
            return self.guard()
        return self._guard(tuple(self._load(name, self.project.root) for name in names))

    def policies(self, policies: Sequence[Any] | None) -> tuple[ResolvedPolicy, ...]:
        """Policies by name, or as objects; default: those set for every image."""
        if policies:
            return tuple(self._load(item, self.options.root) for item in policies)
        if self.options.policy:
            return tuple(self._load(name, self.options.root) for name in self.options.policy)
        if self.project.settings.policy:
            return tuple(self._load(name, self.project.root) for name in self.project.settings.policy)
        raise ConfigurationError(
            "no policy to check images under",
            hint="set policyguard_policy in pytest's ini file, or `policy` in policyguard.toml, or policy=",
        )

    def backend(self, policies: Sequence[ResolvedPolicy]) -> Backend:
        """The session's backend, which asks about no image twice; it judges ``policies``."""
        from policyguard.cache.backend import remembering

        backend = self._guard(policies).backend
        if self._cached is None:
            self._cached = remembering(backend)
        return self._cached

    def close(self) -> None:
        """Free the model."""
        if self._owner is not None:
            self._owner.close()

    @cached_property
    def _assignment(self) -> Assignment:
        from policyguard.runs.policies import Assignment

        return Assignment(self.project, None)

    def _load(self, policy: Any, root: Path) -> ResolvedPolicy:
        from policyguard.policy import Policy, ResolvedPolicy, load_policy
        from policyguard.policy.files import is_path

        if isinstance(policy, ResolvedPolicy):
            return policy
        if isinstance(policy, Policy):
            return policy.resolve()
        if not isinstance(policy, str | Path):
            raise ConfigurationError(f"a policy is named by a str or a Path, not a {type(policy).__name__}")
        path = None
        if isinstance(policy, Path) or is_path(policy):
            path = root / os.path.expanduser(policy)  # noqa: PTH111 (raises for an unknown user)
        key = str(path or policy)
        if key not in self._loaded:
            self._loaded[key] = load_policy(path or policy).resolve()
        return self._loaded[key]

    def _guard(self, policies: Sequence[ResolvedPolicy]) -> Guard:
        if self._first is None:
            self._first = self._build(policies)
        return self._first.with_policy(list(policies))

    def _build(self, policies: Sequence[ResolvedPolicy]) -> Guard:
        options, settings = self.options, self.project.settings
        if options.replay is not None:
            return Guard(list(policies), backend=self._replay(options.replay), explain=settings.explain)
        stages = None if options.model or options.base_url else self.project.stages()
        if options.record and any(stage.rules for stage in stages or ()):
            raise ConfigurationError(
                "answers of stages for some rules only cannot be replayed", hint="record one model"
            )
        owner = Guard(
            list(policies),
            stages=stages,
            model=options.model or settings.model,
            base_url=self._base_url(),
            dialect=options.dialect or settings.dialect,
            subset=settings.subset,
            local=settings.local,
            replicas=settings.replicas or 1,
            explain=settings.explain,
            cache=None if options.record else self._cache(),
        )
        self._owner = owner
        if options.record is None:
            return owner
        from policyguard.cache.recording import RecordingBackend

        self.recorder = RecordingBackend(owner.backend)
        return Guard(list(policies), backend=self.recorder, explain=settings.explain)

    def _replay(self, file: Path) -> Backend:
        from policyguard.cache.recording import ReplayBackend, read_recording

        recording = read_recording(file)
        model = self.options.model or self.project.settings.model
        if model is not None and model != recording.model.id:
            raise ConfigurationError(
                f"{file} was recorded with model '{recording.model.id}', and the suite names '{model}'",
                hint=f"record it with that model: pytest --policyguard-record {file}",
            )
        return ReplayBackend(recording, file)

    def _base_url(self) -> str | Sequence[str] | None:
        from policyguard.backends import runs_here

        if runs_here(self.options.model):
            return None
        return self.options.base_url or self.project.settings.base_url or None

    def _cache(self) -> str | None:
        cache = self.project.settings.cache
        if cache is None or cache == "memory":
            return cache
        path = self.project.resolve(cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)


def _is_data(image: object) -> bool:
    return isinstance(image, str) and image.lower().startswith(("data:", "http:", "https:"))
