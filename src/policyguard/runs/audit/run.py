"""An audit from its start to its end, on one machine; and its plan before anything is paid.

An *engine* maps a function over parts, and nothing more: what is done, what is left, and what the end result
is are read from the audit's folder, so any engine goes on where any other one stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from policyguard._version import __version__
from policyguard.errors import PolicyError, UsageError
from policyguard.outcomes import Action, Outcome
from policyguard.runs.audit.parts import Done, Judge, Moved
from policyguard.runs.audit.rows import FORMAT, Audit, Part, Place, arrow, write_parts
from policyguard.runs.audit.sources import Spec, digest, plan
from policyguard.runs.job import build_guard

if TYPE_CHECKING:
    from policyguard.backends.base import Backend
    from policyguard.guard import Guard
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "Engine",
    "Estimate",
    "Set",
    "Work",
    "drop_errors",
    "estimate",
    "left",
    "local",
    "resume",
    "spec_of",
    "start",
    "totals",
]

_MOST_NAMED = 5
_SAMPLE = 64
_BUILT = ("base_url", "stages", "lists", "replicas")
"""Settings that are not kept as they are: what the project file says of them is read again, and on how many
processes the model runs is a matter of the machine."""


@dataclass(frozen=True)
class Set:
    """What an audit is made of: policies, their files, and how the model is asked. Can be sent elsewhere.

    ``settings`` are those of ``build_guard``, whose stages and lists are those of the file ``project``;
    ``backend`` makes what takes their place, for tests.
    """

    policies: tuple[ResolvedPolicy, ...]
    names: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    project: str | None = None
    backend: Callable[[], Backend] | None = None

    @contextmanager
    def guard(self, **changes: Any) -> Iterator[Guard]:
        """The guard, closed afterwards. Raises UsageError."""
        own = None if self.backend is None else self.backend()
        try:
            with build_guard(self.policies, backend=own, **self.settings | changes) as guard:
                yield guard
        finally:
            if own is not None:
                own.close()


@dataclass(frozen=True)
class Work:
    """What a process needs in order to judge parts of an audit. Can be sent to another machine."""

    folder: str
    set: Set
    workers: int | None = None
    accept_changed: bool = False

    @contextmanager
    def judge(self) -> Iterator[tuple[Audit, Judge]]:
        """The audit, and what judges its parts, with a guard of its own."""
        audit = Audit.open(self.folder)
        with self.set.guard() as guard:
            guard.warm()
            yield (
                audit,
                Judge(
                    guard,
                    audit.place,
                    spec_of(audit),
                    mark=audit.about["mark"],
                    workers=self.workers,
                    accept_changed=self.accept_changed,
                ),
            )


class Engine(Protocol):
    """Judges the parts ``numbers`` of an audit, in whatever order, wherever."""

    def __call__(self, work: Work, numbers: Sequence[int], moved: Moved) -> Iterator[Done]: ...


def local(work: Work, numbers: Sequence[int], moved: Moved) -> Iterator[Done]:
    """The engine of one process: images are read and decoded ahead, and judged in batches."""
    wanted = set(numbers)
    with work.judge() as (audit, judge):
        yield from judge.judge((part for part in audit.parts() if part.number in wanted), moved)


def spec_of(audit: Audit) -> Spec:
    """How the source of ``audit`` is read."""
    return Spec.from_dict({**audit.about["source"], **audit.about["options"]})


def start(folder: str | Path, spec: Spec, made_of: Set, *, accept_changed: bool = False) -> Audit:
    """The audit in ``folder``: a new one, or, if the same was begun there, that one.

    Raises UsageError if another audit or other files are there, or if there is nothing to judge.
    """
    place = Place(folder)
    for source in spec.sources:
        inside = "://" not in source and place.local is not None and Path(spec.absolute(source)).is_dir()
        if inside and Path(place.url).resolve().is_relative_to(Path(spec.absolute(source)).resolve()):
            raise UsageError(
                f"{place.url} lies in the source '{source}', which would change as it is written",
                hint="name another folder with --out",
            )
    try:
        audit = Audit.open(folder)
    except UsageError:
        if place.names(""):
            held = "an audit.json that cannot be read" if "audit.json" in place.names("") else "other files"
            raise UsageError(f"{place.url} holds {held}", hint="name a new folder with --out") from None
    else:
        _require_same(audit, spec, made_of)
        return resume(audit, made_of, accept_changed=accept_changed)
    notes: list[str] = []
    marks = hashlib.sha256()

    def marked() -> Iterator[Part]:
        for part in plan(spec, notes):
            marks.update(part.fingerprint.encode())
            yield part

    with made_of.guard() as guard:
        model = guard.backend.model.to_dict()
    listed = marked()
    first = next(listed, None)  # before a folder is made
    if first is None:
        raise UsageError(f"no image in {', '.join(spec.sources)}")
    parts, rows = write_parts(place, chain((first,), listed))
    about = _about(spec, made_of, model) | {"counts": {"parts": parts, "rows": rows}, "notes": notes}
    about["mark"] = digest([marks.hexdigest(), json.dumps(_identity(about), sort_keys=True)])
    place.write("audit.json", json.dumps(about, indent=2).encode())
    return Audit.open(folder)


def _about(spec: Spec, made_of: Set, model: dict[str, Any]) -> dict[str, Any]:
    options = spec.to_dict()
    source = {name: options.pop(name) for name in ("sources", "root")}
    settings = {k: value for k, value in made_of.settings.items() if k not in _BUILT}
    # An audit is passed around, so a password in a server's address is left out.
    urls = [re.sub(r"://[^/@\s]*@", "://***@", url) for url in made_of.settings.get("base_url", ())]
    names = made_of.names or tuple(policy.id for policy in made_of.policies)
    return {
        "format": FORMAT,
        "version": __version__,
        "source": source,
        "options": options,
        "policies": [_policy(policy, name) for policy, name in zip(made_of.policies, names, strict=True)],
        "model": model,
        "dialect": model["dialect"],
        "settings": settings | {"base_url": urls},
        "lists": {known.name: known.digest for known in made_of.settings.get("lists", ())},
        "project": made_of.project,
    }


def _policy(policy: ResolvedPolicy, name: str) -> dict[str, Any]:
    rules = [
        {
            "id": rule.id,
            "title": rule.title,
            "status": str(rule.status),
            "threshold": policy.threshold if rule.threshold is None else rule.threshold,
            "action": str(rule.action or policy.action),
        }
        for rule in policy.rules
    ]
    return {
        "id": policy.id,
        "name": name,
        "version": policy.version,
        "title": policy.title,
        "fingerprint": policy.fingerprint,
        "decision_fingerprint": policy.decision_fingerprint,
        "threshold": policy.threshold,
        "rules": rules,
    }


def _identity(about: dict[str, Any]) -> dict[str, Any]:
    """What the verdicts of an audit depend on, besides its source, under the names that a user knows."""
    model = {name: value for name, value in about["model"].items() if name != "backend_version"}
    marks = ("id", "fingerprint", "decision_fingerprint")
    return {
        "the policies": [[policy[name] for name in marks] for policy in about["policies"]],
        "the model": model,
        "the options": about["options"],
        "the lists of known images": about.get("lists", {}),
        "--explain": about["settings"].get("explain", False),
        "--subset": about["settings"].get("subset", False),
    }


def _require_same(audit: Audit, spec: Spec, made_of: Set) -> None:
    if spec.sources != spec_of(audit).sources or spec.root != spec_of(audit).root:
        raise UsageError(
            f"{audit.place.url} is an audit of {', '.join(spec_of(audit).sources)}",
            hint="name another folder with --out",
        )
    if spec.per_part is None:  # not said, so as the audit was begun
        spec = replace(spec, per_part=spec_of(audit).per_part)
    if spec.to_dict() != spec_of(audit).to_dict():
        raise UsageError(
            f"{audit.place.url} was begun with other options ({json.dumps(audit.about['options'])})",
            hint="give the same ones, go on with `policyguard audit resume`, or name another folder",
        )
    _require_same_verdicts(audit, made_of)


def _require_same_verdicts(audit: Audit, made_of: Set) -> None:
    with made_of.guard() as guard:
        now = _about(spec_of(audit), made_of, guard.backend.model.to_dict())
    before, after = _identity(audit.about), _identity(now)
    for name, value in before.items():
        if after[name] != value:
            raise UsageError(
                f"{name} changed since the audit in {audit.place.url} began",
                hint="one audit is one set of policies and one model: begin another, and compare them with "
                "`policyguard audit diff`",
            )


def resume(audit: Audit, made_of: Set, *, accept_changed: bool = False) -> Audit:
    """``audit``, to be gone on with.

    Raises UsageError if its policies, its model or (unless ``accept_changed``) its source changed.
    """
    _require_same_verdicts(audit, made_of)
    drop_damaged(audit)
    if not accept_changed and (changes := changed(audit)):
        more = f", and {len(changes) - _MOST_NAMED:,} more parts" if len(changes) > _MOST_NAMED else ""
        raise UsageError(
            f"the source changed since the manifest was made: {'; '.join(changes[:_MOST_NAMED])}{more}",
            hint="begin another audit, or pass --accept-changed to judge what the manifest lists as it is",
        )
    return audit


def changed(audit: Audit) -> list[str]:
    """What is different in the source now, a line for each part."""
    changes = []
    spec = spec_of(audit)
    try:
        for before, now in zip_longest(audit.parts(), plan(spec, [], count=False)):
            if before is None:
                changes.append(f"'{now.location}' has more than it had")
            elif now is None:
                changes.append(f"part {before.number} ('{before.location}') is gone")
            elif before.fingerprint != now.fingerprint:
                changes.append(f"part {before.number} ({_difference(before, now)})")
    except UsageError as error:
        changes.append(error.message)
    return changes


def _difference(before: Part, now: Part) -> str:
    was, there = set(before.items), set(now.items)
    paths = {item.path for item in was}, {item.path for item in there}
    for names, what in (
        (paths[0] - paths[1], "is gone"),
        (paths[1] - paths[0], "is new"),
        ({item.path for item in was ^ there}, "changed"),
    ):
        if names:
            return f"'{min(names)}' {what}"
    return f"'{before.location}' changed"


def totals(audit: Audit) -> Counter[str]:
    """The counts of ``Done`` over all rows that are there, however many runs they took."""
    counts: Counter[str] = Counter()
    for batch in audit.rows(["outcome", "action", "duplicate_of"]):
        counts["rows"] += len(batch)
        counts["duplicates"] += len(batch) - batch["duplicate_of"].null_count
        groups = arrow().table(batch).group_by(["outcome", "action"]).aggregate([([], "count_all")])
        for row in groups.to_pylist():
            counts[f"outcome {row['outcome']}"] += row["count_all"]
            counts[f"action {row['action']}"] += row["count_all"]
            counts[f"{row['action']} {row['outcome']}"] += row["count_all"]
    return counts


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an audit would take. ``rows`` is None where shards must be read to count them.

    ``rate`` is images per second, measured with one worker over the ``judged`` images of the ``sample``; None
    where there are none. ``blocked`` and ``flagged`` are of these. ``unjudged`` has key and reason of each of
    the others. ``bytes_per_row`` is what a row takes on the disk; ``prompt_tokens`` those of the text put to
    the model per image, None where that is not known; ``gpus`` how many the model took here, None where
    that is not known, as on a server.
    """

    parts: int
    rows: int | None
    sample: int
    judged: int
    blocked: int
    flagged: int
    unjudged: list[tuple[str, str]]
    rate: float | None
    bytes_per_row: float
    prompt_tokens: int | None
    gpus: int | None


def estimate(spec: Spec, made_of: Set, *, workers: int | None = None, sample: int = _SAMPLE) -> Estimate:
    """Count the images that ``spec`` names and judge up to ``sample`` of them, without the cache."""
    notes: list[str] = []
    marks: list[Part] = []
    number, rows, known, step = 0, 0, True, 1
    for number, part in enumerate(plan(spec, notes), 1):
        rows, known = rows + (part.rows or 0), known and part.rows is not None
        if (number - 1) % step == 0:
            marks.append(part)
            if len(marks) == 2 * _MOST_SAMPLED:  # half of them, spread as evenly
                marks, step = marks[::2], 2 * step
    if not number:
        raise UsageError(f"no image in {', '.join(spec.sources)}")
    most = _shared_out(sample, marks)
    spread = "device_map" in made_of.settings.get("local", {})  # over GPUs that nobody counts
    chosen = [
        replace(part, items=part.items[:: max(1, len(part.items) // most[part.number])][: most[part.number]])
        if part.kind == "files"
        else part
        for part in marks
    ]
    with tempfile.TemporaryDirectory(prefix="policyguard-") as folder, made_of.guard(cache=None) as guard:
        guard.warm()
        judge = Judge(guard, Place(folder), spec, workers=workers, accept_changed=True, most=most)
        began = perf_counter()
        for _ in judge.judge(chosen):
            pass
        taken = perf_counter() - began
        files = list(Path(folder).rglob("*.parquet"))
        size = sum(file.stat().st_size for file in files)
        found = [row for file in files for row in _read(file)]
        tokens, gpus = _prompt_tokens(guard), _gpus("" if spread else guard.stats().device)
    judged = [row for row in found if Outcome(row["outcome"]).judged]
    actions = Counter(row["action"] for row in judged)
    # What could not be judged may take no time at all, or that of a server which does not answer.
    alone = [row["seconds"] for row in judged if row["duplicate_of"] is None]
    share = sum(alone) / (sum(row["seconds"] for row in found) or 1.0)
    return Estimate(
        parts=number,
        rows=rows if known else None,
        sample=len(found),
        judged=len(judged),
        blocked=actions[Action.BLOCK],
        flagged=actions[Action.FLAG],
        unjudged=[
            (row["key"], (row["reason"] or row["outcome"]).removeprefix(f"{row['key']}: "))
            for row in found
            if not Outcome(row["outcome"]).judged
        ],
        rate=len(alone) / (taken * share) if share else None,
        bytes_per_row=size / max(1, len(found)),
        prompt_tokens=tokens,
        gpus=gpus,
    )


def _shared_out(sample: int, parts: Sequence[Part]) -> dict[int, int]:
    """How many images to take of each part: alike many, and where one has fewer, more of the others."""
    most, left = {}, sample
    for place, part in enumerate(
        sorted(parts, key=lambda part: sys.maxsize if part.rows is None else part.rows)
    ):
        share = max(1, left // (len(parts) - place))
        most[part.number] = share if part.rows is None else min(part.rows, share)
        left -= most[part.number]
    return most


def _read(file: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    columns = ["key", "outcome", "action", "reason", "duplicate_of", "seconds"]
    rows: list[dict[str, Any]] = parquet.read_table(file, columns=columns).to_pylist()
    return rows


_MOST_SAMPLED = 8
"""Parts that a sample is drawn from, at most twice as many."""


def _gpus(device: str) -> int | None:
    """How many GPUs ``GuardStats.device`` names. A server, and a sensor, say nothing."""
    names = {name.strip() for name in device.split(",")} - {""}
    return sum(name != "cpu" for name in names) if names else None


def _prompt_tokens(guard: Guard) -> int | None:
    """Tokens of text per image, over all policies and rules that are asked about one by one."""
    from policyguard.authoring.linter.budget import TokenCounter
    from policyguard.dialects import get_dialect

    model = guard.backend.model
    try:
        dialect = get_dialect(model.dialect)
    except UsageError:  # a sensor reads no policy
        return None
    counter = TokenCounter()
    try:
        return sum(counter.count(prompt) for policy in guard.policies for prompt in dialect.render(policy))
    except PolicyError:
        return None


def left(audit: Audit) -> list[int]:
    """The numbers of the parts that are to be done, in order."""
    done = audit.done()
    return [number for number in range(audit.about["counts"]["parts"]) if number not in done]


def drop_damaged(audit: Audit) -> None:
    """Remove files of verdicts that will be made again. Raises UsageError for files of no part of it."""
    own = {Part(number, "", "").file for number in range(audit.about["counts"]["parts"])}
    done = {Part(number, "", "").file for number in audit.done()}
    for name in audit.place.names("verdicts"):
        if (file := f"verdicts/{name}") in own - done:
            audit.place.filesystem.delete_file(audit.place.path(file))
    audit.require_own()


def drop_errors(audit: Audit) -> int:
    """Forget the parts that have a row of outcome ``error``; how many these were."""
    numbers: set[int] = set()
    for batch in audit.rows(["part", "outcome"]):
        pairs = zip(batch["part"].to_pylist(), batch["outcome"].to_pylist(), strict=True)
        numbers.update(part for part, outcome in pairs if outcome == Outcome.ERROR)
    for number in numbers:
        audit.place.filesystem.delete_file(audit.place.path(Part(number, "", "").file))
    return len(numbers)
