"""The policies of a service: loaded under names, reloaded whole or not at all, looked up by name; and
whether images can be judged under them now (``Readiness``).

All policies stand in one ``Snapshot``, which is replaced in one step: whoever took it before a reload goes on
with it, and no request sees half of a change. A policy that does not load any more stays as it was, with its
error beside it. A change is taken up when two looks at the files, one poll apart, see the same, so that a
file that is being written is not read half.

Not covered: a file that is written in several steps with pauses longer than a poll between them, and is a
valid, shorter policy in between: write files aside and move them into place, as editors and git do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from time import monotonic

from policyguard.backends.base import Backend
from policyguard.checking.shadow import Sink
from policyguard.errors import ConfigurationError, PolicyError, Problem, UsageError
from policyguard.guard import Guard
from policyguard.outcomes import Outcome
from policyguard.policy import ResolvedPolicy, packaged_policies
from policyguard.policy.files import SUFFIXES, is_path
from policyguard.policy.load import load_noting
from policyguard.strict.explain import nearest

__all__ = ["NO_POLICY", "LivePolicy", "Policies", "Readiness", "Snapshot", "sources"]

_log = logging.getLogger("policyguard.server")
_TRIES = 4
_RETRY_EVERY = 5
"""Polls between two tries of a policy that does not load: it may name a file that is not there yet."""

Stamp = tuple[int, int, int, int] | None
"""What tells one state of a file from the next: times, size, inode; ``None`` where there is none."""


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """One policy as it is in force. ``file`` is the file it was loaded from, ``files`` all that it is made
    of; a packaged policy has neither ``file`` nor anything to write to."""

    name: str
    policy: ResolvedPolicy
    file: Path | None
    files: frozenset[Path] = frozenset()

    def to_dict(self) -> dict[str, str]:
        policy = self.policy
        return {
            "name": self.name,
            "id": policy.id,
            "version": policy.version,
            "title": policy.title,
            "fingerprint": policy.fingerprint,
            "decision_fingerprint": policy.decision_fingerprint,
        }


@dataclass(frozen=True)
class Snapshot:
    """All policies at one moment, by name. ``errors``: why the present files of some do not load."""

    live: Mapping[str, LivePolicy] = field(default_factory=dict)
    errors: Mapping[str, UsageError] = field(default_factory=dict)

    @cached_property
    def _guards(self) -> dict[tuple[str, ...], Guard]:
        return {}

    def guard(
        self,
        names: Sequence[str],
        backend: Backend,
        *,
        explain: bool,
        timeout: float | None,
        shadow: Sequence[Sink] = (),
    ) -> Guard:
        """A guard that wants all of ``names`` to allow. Raises KeyError and UsageError."""
        key = tuple(names)
        guard = self._guards.get(key)
        if guard is None:
            policies = [self.live[name].policy for name in key]
            guard = Guard(policies, backend=backend, explain=explain, timeout=timeout, shadow=shadow)
            if len(self._guards) < 256:  # who names every combination shall not fill the memory
                self._guards[key] = guard
        return guard


def sources(given: Sequence[str]) -> Iterator[tuple[str, str | Path]]:
    """The name and the source of each policy that ``given`` means.

    A folder means the YAML files in it and below, called by their path without the ending; a file is called
    by its own name, a packaged policy by the name it has. Files of cases (``cases.yaml``,
    ``x.cases.yaml``), and what begins with a dot or an underscore, are no policies.
    """
    packaged = packaged_policies()
    for item in given:
        path = Path(item).expanduser()
        if item not in packaged and path.is_dir():
            found = sorted(_policy_files(path))
            yield from ((file.relative_to(path).with_suffix("").as_posix(), file) for file in found)
        elif is_path(item):
            yield path.stem, path
        else:
            yield item, item


def _policy_files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "_")) and name != "node_modules"]
        for name in names:
            file = Path(place, name)
            cases = file.stem == "cases" or file.stem.endswith(".cases")
            if file.suffix.lower() in SUFFIXES and not name.startswith((".", "_")) and not cases:
                yield file


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _stamps(files: frozenset[Path]) -> dict[Path, Stamp]:
    return {file: _stamp(file) for file in sorted(files)}


@dataclass(slots=True)
class _Watched:
    """The files of one policy, and how they were when it was last loaded, or tried."""

    source: str | Path
    files: frozenset[Path] = frozenset()
    stamps: dict[Path, Stamp] = field(default_factory=dict)
    seen: dict[Path, Stamp] = field(default_factory=dict)
    polls: int = 0


class Policies:
    """The policies of a service. ``current`` is what is in force; thread-safe.

    Args:
        given: folders, files, and names of packaged policies.
        backend: refuses policies that its model cannot be asked about.

    Raises PolicyError where a policy does not load; ConfigurationError where names clash or there is none.
    """

    def __init__(self, given: Sequence[str], backend: Backend) -> None:
        self.given = tuple(given)
        self.backend = backend
        self.current = Snapshot()
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._missing: set[str] = set()
        names = [name for name, _ in sources(self.given)]
        if not names:
            raise ConfigurationError(
                f"no policy in {', '.join(self.given) or 'the command'}",
                hint="name a folder of YAML files, a YAML file, or a packaged policy such as pictosafe/l3",
            )
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(
                f"two policies are called {double[0]!r}", hint="rename a file, or serve the folder above both"
            )
        self._find()
        self._load(list(self._watched))
        if self.current.errors:
            raise next(iter(self.current.errors.values()))

    def reload(self, name: str) -> LivePolicy:
        """Load ``name`` now. Raises KeyError for an unknown one; UsageError, and the old one is kept."""
        with self._lock:
            self._find()
            if name not in self._watched:
                raise KeyError(name)
            self._load([name])
            snapshot = self.current
        if name in snapshot.errors:
            raise snapshot.errors[name]
        return snapshot.live[name]

    def poll(self) -> list[str]:
        """Look at the files, and load what has changed and rests; the names of what was loaded or failed."""
        with self._lock:
            gone = self._find()
            due = []
            for name, watched in self._watched.items():
                now = _stamps(watched.files)
                watched.polls += 1
                again = name in self.current.errors and watched.polls >= _RETRY_EVERY
                if again or (now != watched.stamps and now == watched.seen):
                    due.append(name)
                watched.seen = now
            if due or gone:
                self._load(due, gone)
            return due + gone

    def nearest(self, name: str, among: Sequence[str]) -> str | None:
        """The one of ``among`` that ``name`` was most likely meant to be."""
        return nearest(name, among)

    def _find(self) -> list[str]:
        """Take note of policies that are new in a folder; the names of those that are gone for good."""
        found = dict(sources(self.given))
        for name, source in found.items():
            if name not in self._watched:
                self._watched[name] = _Watched(source, _own(source))
        absent = self._watched.keys() - found.keys()
        gone = sorted(absent & self._missing)
        self._missing = absent - set(gone)
        for name in gone:
            del self._watched[name]
        return gone

    def _load(self, names: Sequence[str], gone: Sequence[str] = ()) -> None:
        live, errors = dict(self.current.live), dict(self.current.errors)
        for name in gone:
            live.pop(name, None)
            errors.pop(name, None)
            _log.info("policy %s: its file is gone, and it is served no more", name)
        for name in names:
            watched = self._watched[name]
            watched.polls = 0
            before = errors.pop(name, None)
            try:
                loaded = self._loaded(name, watched)
            except UsageError as error:
                errors[name] = error
                if str(error) != str(before):
                    kept = "the old one is kept" if name in live else "there is no older one"
                    _log.error("policy %s does not load, %s: %s", name, kept, error)
                continue
            was = live.get(name)
            live[name] = loaded
            if before is not None or was is None or was.policy != loaded.policy:
                again = " loads again" if was is not None and before is not None else ""
                said = "policy %s%s: %s %s, fingerprint %s, decision fingerprint %s"
                _log.info(said, name, again, loaded.policy.id, *_version(loaded.policy))
        self.current = Snapshot(dict(sorted(live.items())), errors)

    def _loaded(self, name: str, watched: _Watched) -> LivePolicy:
        """The policy as its files have it, read while none of them changed."""
        for _ in range(_TRIES):
            watched.stamps = _stamps(watched.files)
            read: set[Path] = set()
            try:
                policy = load_noting(watched.source, read).resolve()
            finally:
                known = watched.files
                watched.files = frozenset(read) | _own(watched.source)
                now = _stamps(watched.files)
                steady = watched.files <= known and all(now[file] == watched.stamps[file] for file in now)
                watched.stamps = {file: watched.stamps.get(file, now[file]) for file in now}
                watched.seen = now
            if steady:
                self.backend.accept(policy)
                file = watched.source if isinstance(watched.source, Path) else None
                return LivePolicy(name, policy, file, watched.files)
        raise PolicyError([Problem("the file changes while it is read", str(watched.source))])


def _own(source: str | Path) -> frozenset[Path]:
    return frozenset((source,)) if isinstance(source, Path) else frozenset()


def _version(policy: ResolvedPolicy) -> tuple[str, str, str]:
    return policy.version, policy.fingerprint[:12], policy.decision_fingerprint[:12]


NO_POLICY = "no policy is served: the files of all of them are gone"


class Readiness:
    """Whether images can be judged, looked at no more than every few seconds and by one at a time.

    The backend must answer. A policy that needs scores is also asked about one grey picture, until that has
    got a verdict: only an answer shows whether a server gives scores. ``refused``: why policies got none.
    ``problem`` names the first of these reasons where no policy is left, and that no file is.
    """

    _FRESH = 5.0
    _AGAIN = 60.0  # a server behind a proxy may be another one by then

    def __init__(self, backend: Backend, policies: Policies, timeout: float) -> None:
        self._backend, self._policies, self._timeout = backend, policies, timeout
        self._lock = asyncio.Lock()
        self._until = self._quiet = 0.0
        # Why a policy got no verdict, and until when that holds.
        self._tried: dict[ResolvedPolicy, tuple[str | None, float]] = {}
        self._glance: asyncio.Task[str | None] | None = None
        self.problem: str | None = "the model is not loaded yet"
        self.refused: dict[str, str] = {}

    def expire(self) -> None:
        """Ask the backend at the next look."""
        self._until = 0.0

    def glance(self) -> None:
        """Start a look, and wait for none: ``problem`` is then of the glance before, at the latest."""
        if self._glance is None or self._glance.done():
            self._glance = asyncio.create_task(self.look())

    async def look(self) -> str | None:
        """What is wrong, or ``None``. A backend that did not answer is asked again at once."""
        async with self._lock:
            if monotonic() >= self._until or self.problem is not None:
                try:
                    await asyncio.to_thread(self._backend.warm)
                except Exception as error:
                    # Probes look every few seconds, and how often it was tried changes its words.
                    if str(error) != self.problem and monotonic() >= self._quiet:
                        _log.error("the backend does not answer: %s", error)
                        self._quiet = monotonic() + self._AGAIN
                    self.problem, self.refused = str(error), {}
                else:
                    if self.problem is not None and not self.refused:
                        _log.info("the backend answers")
                    self._quiet = 0.0
                    live = self._policies.current.live
                    self.refused = await self._refusals(live)
                    unusable = self.refused.keys() == live.keys()
                    self.problem = next(iter(self.refused.values()), NO_POLICY) if unusable else None
                self._until = monotonic() + self._FRESH
            return self.problem

    async def _refusals(self, live: Mapping[str, LivePolicy]) -> dict[str, str]:
        needy = {name: each.policy for name, each in live.items() if each.policy.needs_scores}
        before = {policy: self._tried.get(policy, (None, 0.0)) for policy in needy.values()}
        due = [policy for policy, (_, until) in before.items() if monotonic() >= until]
        found = await asyncio.gather(*map(self._try, due))
        self._tried = before | dict(zip(due, found, strict=True))
        refused = {}
        for name, policy in needy.items():
            why = self._tried[policy][0]
            if why is not None:
                refused[name] = why
                if why != before[policy][0]:
                    _log.error("policy %s judges no image: %s", name, why)
        return refused

    async def _try(self, policy: ResolvedPolicy) -> tuple[str | None, float]:
        from PIL import Image

        try:
            guard = Guard(policy, backend=self._backend, timeout=self._timeout)
            verdict = await guard.acheck(Image.new("RGB", (224, 224), "grey"), explain=False)
        except Exception as error:
            return str(error), monotonic() + self._AGAIN
        if verdict.outcome is Outcome.ERROR:
            return verdict.reason or "the model gave no answer", 0.0
        return None, inf
