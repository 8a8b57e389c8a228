"""How good a guard is on one's own label rows: behind ``policyguard train evaluate``, and during training.

Every row is judged by the guard itself, under its own policy, and held against its label. What has no answer
(undecided, unreadable, refused, unscannable) is wrong, whatever the label; nothing of it counts as safe. Rows
whose file is missing or is another one, and rows about which a server could not be asked, are in no figure:
they are named, and the evaluation is not complete.

Two figures ask for more than one right answer. An *edit pair* is right if both of its images are, under one
policy. A *policy pair* is one image with two labels under two policies, and is right if both are: a guard
that does not read its policy gets none of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from policyguard.backends.base import Backend
from policyguard.errors import ConfigurationError, Problem
from policyguard.guard import Guard
from policyguard.metrics import Answer, Figure, Figures, Judgement, measure, proportion, proportion_of_units
from policyguard.outcomes import Outcome
from policyguard.policy import ResolvedPolicy
from policyguard.strict.files import sha256_of
from policyguard.strict.jsontext import parse_json
from policyguard.train.data import LabelRow, read_rows
from policyguard.train.models import WORK
from policyguard.train.policies import PolicyShelf
from policyguard.train.rows import Located, assign_splits, contradictions, listing, locate, ties
from policyguard.verdict import Verdict, violated

__all__ = ["SPLITS", "Chosen", "Evaluation", "Judged", "choose", "few", "judge"]

Side = Literal["held-out", "train", "validation", "test", "all"]
SPLITS: tuple[Side, ...] = ("held-out", "train", "validation", "test", "all")
SMALLEST = 10
"""Rows under one policy, or of one source, that get figures of their own; smaller groups share theirs."""
OTHERS = "others"
_UNREAD = "the explanation could not be read"


@dataclass(slots=True)
class Chosen:
    """The rows to judge. ``problems``: bad lines, and rows whose image is not there or is another one.
    ``left_out``: how many rows are on another side. ``notes``: what to know before reading the figures.
    """

    path: Path
    sha256: str
    split: Side
    items: list[Located[LabelRow]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Judged:
    """One row and what the guard made of it. ``rules``: those it says are broken. ``unread``: the rating
    stands, and its explanation could not be read.
    """

    row: LabelRow
    policy: ResolvedPolicy
    answer: Answer
    outcome: str
    score: float | None
    rules: tuple[str, ...] = ()
    reason: str | None = None
    unread: bool = False

    @property
    def judgement(self) -> Judgement:
        return Judgement(self.row.label == "unsafe", self.answer)

    @property
    def right(self) -> bool:
        return self.judgement.right

    def to_dict(self) -> dict[str, Any]:
        names = ("image", "policy", "label")
        return {name: getattr(self.row, name) for name in names} | {
            "right": self.right,
            "outcome": self.outcome,
            "score": self.score,
            "rules": list(self.rules),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a guard's answers to some rows amount to. ``unasked``: rows about which a server gave no answer.
    ``stopped``: whether it was interrupted before all rows were judged.
    """

    judged: tuple[Judged, ...]
    unasked: tuple[Problem, ...] = ()
    explained: bool = False
    stopped: bool = False

    @property
    def figures(self) -> Figures:
        return _measure(self.judged)

    @property
    def silent(self) -> Counter[str]:
        """Rows without an answer, by outcome: the model could not decide, or nobody could read it."""
        return Counter(
            item.outcome for item in self.judged if item.answer not in (Answer.SAFE, Answer.UNSAFE)
        )

    @property
    def unread(self) -> Figure:
        """The parse-failure rate of explained answers: errors, and ratings whose words could not be read."""
        if not self.explained:
            return proportion(0, 0)
        failed = sum(item.unread or item.outcome == Outcome.ERROR for item in self.judged)
        return proportion(failed, len(self.judged))

    @property
    def named(self) -> Figure:
        """Of unsafe images that were found: for how many a broken rule is the one named first."""
        found = [item for item in self.judged if item.row.violated and item.answer is Answer.UNSAFE]
        known = [item for item in found if item.rules]
        return proportion(sum(item.rules[0] in (item.row.violated or ()) for item in known), len(known))

    @property
    def edit_pairs(self) -> tuple[int, Figure]:
        """How many edit pairs there are, and the share in which both images are judged rightly."""
        return _pairs(
            (item.row.pair_id, item.policy.fingerprint, item) for item in self.judged if item.row.pair_id
        )

    @property
    def policy_pairs(self) -> tuple[int, Figure]:
        """How many policy pairs there are, and the share in which both labels are found."""
        return _pairs((item.row.sha256, "", item) for item in self.judged)

    def by(self, name: Callable[[Judged], str]) -> dict[str, Figures]:
        """Figures of groups, the largest first; what is too small for figures of its own is together."""
        groups: dict[str, list[Judged]] = {}
        for item in self.judged:
            groups.setdefault(name(item), []).append(item)
        large = {key: items for key, items in groups.items() if len(items) >= SMALLEST}
        rest = [item for key, items in groups.items() if key not in large for item in items]
        ordered = sorted(large.items(), key=lambda pair: (-len(pair[1]), pair[0]))
        return {key: _measure(items) for key, items in [*ordered, *([(OTHERS, rest)] if rest else [])]}

    @property
    def by_policy(self) -> dict[str, Figures]:
        return self.by(lambda item: item.row.policy)

    @property
    def by_source(self) -> dict[str, Figures]:
        return self.by(lambda item: item.row.source)

    def values(self) -> dict[str, float]:
        """The figures by name, without intervals and without those that have nothing to measure."""
        figures = self.figures
        found = {name: getattr(figures, name).value for name in MEASURED}
        found |= {"edit_pairs": self.edit_pairs[1].value, "policy_pairs": self.policy_pairs[1].value}
        values = {name: value for name, value in found.items() if value is not None}
        return values | {"rows": len(self.judged), "silent": self.silent.total()}

    def to_dict(self) -> dict[str, Any]:
        silent = self.silent
        return {
            "stopped": self.stopped,
            "figures": self.figures.to_dict(),
            "silent": dict(silent),
            "silence": proportion(silent.total(), len(self.judged))._asdict(),
            "unread_explanations": self.unread._asdict(),
            "rule_named": self.named._asdict(),
            **{
                name: {"pairs": count, "both_right": figure._asdict()}
                for name, (count, figure) in (
                    ("edit_pairs", self.edit_pairs),
                    ("policy_pairs", self.policy_pairs),
                )
            },
            "by_policy": {name: found.to_dict() for name, found in self.by_policy.items()},
            "by_source": {name: found.to_dict() for name, found in self.by_source.items()},
            "unasked": [str(problem) for problem in self.unasked],
            "rows": [item.to_dict() for item in self.judged],
        }


MEASURED = ("accuracy", "balanced_accuracy", "f1", "recall", "specificity", "auc")
"""The figures of ``Figures`` that a run watches."""


def choose(
    path: Path, *, split: Side = "held-out", limit: int | None = None, model: Path | None = None
) -> Chosen:
    """The rows of one side of a file, or ``limit`` of them.

    ``held-out``: all but the training side. Rows that name no split were drawn when the model was trained,
    if ``model`` is a folder that was trained on this very file; else they count as held out. ``limit``: see
    ``few``. Raises ConfigurationError if the file cannot be read, contradicts itself, or has nothing on this
    side.
    """
    read = read_rows(path, LabelRow)
    chosen = Chosen(path, sha256_of(path), split, problems=list(read.problems))
    shelf, hashes = PolicyShelf(read.folder), dict[Path, str | None]()
    items: list[Located[LabelRow]] = []
    for row in _with_splits(list(read.rows), chosen, model):
        side = row.split or "held-out"
        if split != "all" and not (side == split or (split == "held-out" and side != "train")):
            chosen.left_out[side] += 1
            continue
        problem, item = locate(row, read.folder, shelf)
        problem = problem or _file_problem(item, hashes)
        if problem is None:
            items.append(item)
        else:
            chosen.problems.append(Problem(problem, str(path), field=f"{row.image} under {row.policy}"))
    if wrong := contradictions(items):
        raise ConfigurationError(
            listing(wrong), hint="keep the one that is right, or give them other policies"
        )
    if not items:
        sides = ", ".join(f"{number} of {side}" for side, number in sorted(chosen.left_out.items()))
        raise ConfigurationError(
            f"{path} has no good rows on the side '{split}'"
            + (f": it has {sides}" if sides else "")
            + (f"\n{listing(chosen.problems)}" if chosen.problems else ""),
            hint="choose another side with --split, or fix the rows",
        )
    chosen.items = items if limit is None else few(items, limit)
    if left := len(items) - len(chosen.items):
        chosen.left_out["over the limit"] = left
    return chosen


def few(items: Sequence[Located[LabelRow]], limit: int) -> list[Located[LabelRow]]:
    """At most ``limit`` of ``items``, in order, drawn by image hash: the same ones each time. All rows of an
    image, and of an edit pair, are taken or left together, unless there would be none.
    """
    roots = ties([item.row for item in items])
    sizes = Counter(roots[item.row.sha256] for item in items)
    kept: set[str] = set()
    room = limit
    for root in sorted(sizes, key=lambda root: hashlib.sha256(f"few/{root}".encode()).digest()):
        if sizes[root] <= room:
            kept.add(root)
            room -= sizes[root]
    return [item for item in items if roots[item.row.sha256] in kept] or list(items[:limit])


def judge(
    items: Sequence[Located[LabelRow]],
    backend: Backend,
    *,
    explain: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Judge all rows, those of one policy together. What was judged before a Ctrl-C is in the result.

    Raises UsageError when the set-up is wrong.
    """
    groups: dict[ResolvedPolicy, list[int]] = {}
    for index, item in enumerate(items):
        assert item.policy is not None
        groups.setdefault(item.policy, []).append(index)
    guards = {policy: Guard(policy, backend=backend, explain=explain) for policy in groups}
    verdicts: dict[int, Verdict] = {}
    stopped = False
    try:
        for index, verdict in _verdicts(items, groups, guards, at_once=backend.preferred_workers):
            verdicts[index] = verdict
            progress(len(verdicts), len(items))
    except KeyboardInterrupt:
        stopped = True
    judged, unasked = [], []
    for index, verdict in sorted(verdicts.items()):
        item, reason = items[index], (verdict.reason or "").removeprefix(f"{verdict.source}: ")
        assert item.policy is not None
        if verdict.outcome is Outcome.ERROR and verdict.retryable:
            unasked.append(Problem(f"the model could not be asked: {reason}", str(item.path)))
            continue
        judged.append(
            Judged(
                item.row,
                item.policy,
                Answer.of(verdict.outcome),
                str(verdict.outcome),
                verdict.score,
                tuple(violated(verdict)),
                reason or None,
                any(_UNREAD in note for note in verdict.evidence.notes),
            )
        )
    return Evaluation(tuple(judged), tuple(unasked), explained=explain, stopped=stopped)


def _verdicts(
    items: Sequence[Located[LabelRow]],
    groups: Mapping[ResolvedPolicy, Sequence[int]],
    guards: Mapping[ResolvedPolicy, Guard],
    *,
    at_once: int,
) -> Iterator[tuple[int, Verdict]]:
    """Verdicts as they come. Where policies have few rows each, several are judged at the same time: a server
    is kept busy.
    """

    def check(policy: ResolvedPolicy) -> Iterable[tuple[int, Verdict]]:
        indices = groups[policy]
        return zip(indices, guards[policy].check_many(items[index].path for index in indices), strict=True)

    small = [policy for policy, indices in groups.items() if len(indices) < at_once]
    for policy in groups:
        if policy not in small:
            yield from check(policy)
    pool = ThreadPoolExecutor(max(1, at_once))
    try:
        for done in as_completed([pool.submit(lambda one: list(check(one)), policy) for policy in small]):
            yield from done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _measure(items: Sequence[Judged]) -> Figures:
    scores = [item.score for item in items]
    known = scores if any(score is not None for score in scores) else None
    return measure([item.judgement for item in items], known)


def _pairs(items: Iterable[tuple[str | None, str, Judged]]) -> tuple[int, Figure]:
    """All twos of a safe and an unsafe row within a group: (what it is of, what else it must share, row)."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for unit, shared, item in items:
        groups.setdefault((unit or "", shared), []).append(item)
    found = [
        (unit, one.right and other.right)
        for (unit, _), members in groups.items()
        for one, other in combinations(members, 2)
        if one.row.label != other.row.label
    ]
    return len(found), proportion_of_units(found)


def _with_splits(rows: list[LabelRow], chosen: Chosen, model: Path | None) -> list[LabelRow]:
    """``rows`` with the sides that a training run drew, where ``model`` was trained on this file."""
    try:
        record = parse_json((model / WORK / "record.json").read_bytes()) if model is not None else {}
        data, recipe = record["data"], record["recipe"]
        if chosen.sha256 not in data.values():
            return rows
        held_out, seed = float(recipe["data"]["held_out"]), int(recipe["seed"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return rows
    chosen.notes.append(f"{model} was trained on this file, on its rows of the side train")
    if any(row.split is None for row in rows):
        rows = assign_splits(rows, shares={"train": 1.0 - held_out, "validation": held_out}, seed=seed)
    return rows


def _file_problem(item: Located[LabelRow], hashes: dict[Path, str | None]) -> str | None:
    if item.path not in hashes:
        try:
            hashes[item.path] = sha256_of(item.path)
        except OSError:
            hashes[item.path] = None
    found = hashes[item.path]
    if found is None:
        return "there is no such image, or it cannot be read"
    return None if found == item.row.sha256 else "the file is not the one that `sha256` names"
