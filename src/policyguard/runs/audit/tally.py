"""One pass over the rows of an audit: everything that its report counts.

Memory: about 40 bytes per row, for near-duplicates and prompts; all else depends on the number of rules, of
examples and of distinct values in the columns alone, of which ``MAX_VALUES`` per column are told apart.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.outcomes import Action, Outcome
from policyguard.runs.audit import alike
from policyguard.runs.audit.estimates import difference, mean_of, wilson, worst_of
from policyguard.runs.audit.rows import arrow
from policyguard.runs.audit.sampling import Sampler

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["COLUMNS", "MAX_VALUES", "Scale", "Tally", "chunks"]

COLUMNS = (
    "key", "part", "row", "sha256", "outcome", "action", "score", "rules", "closest", "rationale", "reason",
    "degraded", "partial", "duplicate_of", "dhash", "seconds",
)  # fmt: skip
"""What is read of the rows, beside the columns that are carried along."""
MAX_VALUES = 50_000
BINS = 50
_FINE = 1000
"""Bins in which two halves are compared."""
_CHUNK = 1 << 16
_PER_RULE, _EXAMPLES = 4, 24
_MAX_REASONS, _PER_REASON, _LONGEST_REASON = 1000, 3, 200
_NO_RULE = "(no rule)"


@dataclass(frozen=True, slots=True)
class Scale:
    """The thresholds that the audit decided by: of the score, and of each rule's; None where unknown."""

    score: float | None
    rules: Mapping[str, float]


def chunks(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """``batches`` as tables of some 65,000 rows: parts can be small, and each table costs milliseconds."""
    held: list[pa.RecordBatch] = []
    pa, rows = arrow(), 0
    for batch in batches:
        if batch.num_rows:
            held.append(batch)
            rows += batch.num_rows
        if rows >= _CHUNK:
            yield pa.Table.from_batches(held).combine_chunks()
            held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


class _Groups:
    """Rows, judged ones and violating ones per value of a column."""

    def __init__(self) -> None:
        self._counts: dict[str | None, list[int]] = {}
        self._rest = [0, 0, 0]
        self._pooled = False

    def add(self, values: Any, judged: Any, violates: Any) -> None:
        pa = arrow()
        table = pa.table({"value": values, "judged": judged, "violates": violates})
        found = table.group_by("value").aggregate([([], "count_all"), ("judged", "sum"), ("violates", "sum")])
        columns = [found[name].to_pylist() for name in ("value", "count_all", "judged_sum", "violates_sum")]
        for value, *numbers in zip(*columns, strict=True):
            counts = self._counts.get(value)
            if counts is None:
                if len(self._counts) >= MAX_VALUES:
                    self._pooled, counts = True, self._rest
                else:
                    counts = self._counts[value] = [0, 0, 0]
            for place, number in enumerate(numbers):
                counts[place] += number or 0

    def figures(self, limit: int) -> dict[str, Any]:
        """The ``limit`` values with the most violating rows, then the most rows, and all others together."""
        order = sorted(
            self._counts, key=lambda value: (-self._counts[value][2], -self._counts[value][0], value or "")
        )
        shown, others = order[:limit], order[limit:]
        rest = [
            sum(column) for column in zip(self._rest, *(self._counts[value] for value in others), strict=True)
        ]
        return {
            "distinct": len(order),
            "more": self._pooled,
            "values": [{"value": value, **_counted(*self._counts[value])} for value in shown],
            "rest": _counted(*rest) if rest[0] else None,
        }


def _counted(rows: int, judged: int, violating: int) -> dict[str, Any]:
    share = wilson(violating, judged)
    return {"rows": rows, "unjudged": rows - judged, "violating": None if share is None else share.to_dict()}


@dataclass
class _Half:
    """What is compared between the first half of the rows and the second."""

    rows: int = 0
    judged: int = 0
    violating: int = 0
    seconds: float = 0.0
    scores: Any = 0


class Tally:
    """Counts ``total`` rows as they come, in order. ``keep``: the columns that are carried along.

    ``attributed``: from which score on a complying row counts under the rule that it comes closest to.
    ``draw``: the most rows that a sample from ``sampler`` can have.
    """

    def __init__(
        self,
        total: int,
        scale: Scale,
        *,
        keep: Sequence[str] = (),
        prompt: str | None = None,
        attributed: float = 0.1,
        draw: int = 0,
        seed: int = 0,
    ) -> None:
        self.total, self.scale = total, scale
        self._prompt, self._attributed, self._seed = prompt, attributed, seed
        self.sampler = Sampler(draw, seed)
        self.rows = 0
        self.outcomes: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        self.marks: Counter[str] = Counter()
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._named: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._rules: dict[str, Counter[str]] = {rule: Counter() for rule in scale.rules}
        self._attributed_rows = 0
        self._bins: dict[str | None, Any] = {}
        self._columns = {name: _Groups() for name in ("folder", *(f"keep_{name}" for name in keep))}
        self._halves = _Half(), _Half()
        self._worst: list[tuple[float, int, dict[str, Any]]] = []
        self._worst_of: dict[str, list[tuple[float, int, dict[str, Any]]]] = {}
        self._unsure: list[tuple[float, int, dict[str, Any]]] = []
        self._starts: dict[int, int] = {}
        self._groups: Any = ()
        self.both_ways = 0
        self._kept: dict[str, list[Any]] = {name: [] for name in ("sha", "dhash", "prompt", "score", "flags")}

    def add(self, table: pa.Table) -> None:
        from pyarrow import compute as pc

        outcome, score = table["outcome"], _floats(table["score"])
        violates = _bools(pc.equal(outcome, Outcome.VIOLATES.value))
        judged = violates | _bools(pc.equal(outcome, Outcome.COMPLIES.value))
        self._count(table, judged)
        margins = self._count_rules(table, violates, judged, score)
        folder = pc.replace_substring_regex(table["key"], r"(^|/)[^/]*$", "")
        for name, groups in self._columns.items():
            groups.add(folder if name == "folder" else table[name], judged, violates)
        for half, kept in self._split(table.num_rows):
            half.rows += kept.stop - kept.start
            half.judged += int(judged[kept].sum())
            half.violating += int(violates[kept].sum())
            half.seconds += float(_floats(table["seconds"])[kept].sum())
            half.scores = half.scores + _histogram(score[kept], _FINE)
        for kind, chosen in (("complies", judged & ~violates), ("violates", violates)):
            self._bin(None, kind, score[chosen])
        self._remember(table, score, judged, violates)
        self._examples(table, score, judged, violates, margins)
        self.sampler.add(table, score, judged, violates)
        self.rows += table.num_rows

    def _count(self, table: pa.Table, judged: Any) -> None:
        from pyarrow import compute as pc

        for counter, name in ((self.outcomes, "outcome"), (self.actions, "action")):
            for pair in pc.value_counts(table[name].combine_chunks()).to_pylist():
                counter[pair["values"]] += pair["counts"]
        for name in ("degraded", "partial"):
            self.marks[name] += pc.sum(table[name]).as_py() or 0
        self.marks["duplicates"] += table.num_rows - table["duplicate_of"].null_count
        names = ("key", "duplicate_of", "outcome", "reason")
        unclear = table.select(names).filter(~judged)
        for key, first, outcome, reason in zip(*(unclear[name].to_pylist() for name in names), strict=True):
            words = (reason or "no reason given").removeprefix(f"{key}: ").removeprefix(f"{first}: ")
            known = outcome, re.sub(r"\d+", "#", words)[:_LONGEST_REASON]
            if known not in self._reasons and len(self._reasons) >= _MAX_REASONS:
                known = outcome, "other reasons"
            self._reasons[known] += 1
            if len(named := self._named.setdefault(known, [])) < _PER_REASON:
                named.append({"key": key, "reason": words[:_LONGEST_REASON]})

    def _count_rules(self, table: pa.Table, violates: Any, judged: Any, score: Any) -> Any:
        """Count the rows under each rule; how far each row is from the other decision (inf: unknown)."""
        import numpy as np
        from pyarrow import compute as pc

        rules, closest = table["rules"].combine_chunks(), table["closest"].combine_chunks()
        row = pc.list_parent_indices(rules).to_numpy(zero_copy_only=False)
        found = pc.list_flatten(rules)
        names, numbers = found.field("rule"), _floats(found.field("score"))
        over = numbers - _floats(found.field("threshold"))
        near, near_score = pc.struct_field(closest, "rule"), _floats(pc.struct_field(closest, "score"))
        complies = judged & ~violates
        counts = complies & _bools(pc.is_valid(near)) & ~(near_score < self._attributed)
        attributed = counts.copy()
        for name, chosen, scores, kind in (
            (names, violates[row], numbers, "violating"),
            (near, counts, near_score, "complying"),
            (near, complies, near_score, ""),
        ):
            for rule in pc.unique(name).drop_null().to_pylist():
                of = chosen & _bools(pc.equal(name, rule))
                if kind:
                    self._rules.setdefault(rule, Counter())[kind] += int(of.sum())
                if kind != "complying":
                    self._bin(rule, "violates" if kind else "complies", scores[of])
        bare = violates.copy()
        bare[row] = False
        if bare.any():
            self._rules.setdefault(_NO_RULE, Counter())["violating"] += int(bare.sum())
        attributed |= violates
        self._attributed_rows += int(attributed.sum())

        margins = np.full(table.num_rows, np.inf)
        if self.scale.score is not None:
            margins = np.where(np.isnan(score), np.inf, np.abs(score - self.scale.score))
            margins[violates & (score < self.scale.score)] = np.inf  # what decided is a rule's own threshold
        limits = np.full(table.num_rows, np.nan)
        for rule, threshold in self.scale.rules.items():
            limits[_bools(pc.equal(near, rule))] = threshold
        below = np.where(complies & ~np.isnan(limits - near_score), np.abs(limits - near_score), np.inf)
        above = np.full(table.num_rows, -np.inf)
        np.maximum.at(above, row, np.where(np.isnan(over), -np.inf, over))
        above[~violates | (above < 0)] = np.inf
        # A violation ends where the last of the scores that make it one falls below its threshold.
        held = np.where(
            np.isinf(margins), above, np.where(np.isinf(above), margins, np.maximum(margins, above))
        )
        return np.where(violates, held, np.where(judged, np.minimum(margins, below), np.inf))

    def _bin(self, rule: str | None, kind: str, scores: Any) -> None:
        import numpy as np

        known = self._bins.setdefault(
            rule, {"complies": np.zeros(BINS, int), "violates": np.zeros(BINS, int)}
        )
        known[kind] += _histogram(scores, BINS)

    def _split(self, count: int) -> Iterator[tuple[_Half, slice]]:
        middle = min(max(self.total // 2 - self.rows, 0), count)
        yield self._halves[0], slice(0, middle)
        yield self._halves[1], slice(middle, count)

    def _remember(self, table: pa.Table, score: Any, judged: Any, violates: Any) -> None:
        """What is compared across all rows: 8 bytes of the hash, the difference hash, the prompt."""
        import numpy as np

        kept = self._kept
        for part, place in zip(*np.unique(table["part"].to_numpy(), return_index=True), strict=True):
            self._starts.setdefault(int(part), self.rows + int(place))
        kept["sha"].append(alike.first_bytes(table["sha256"]))
        hashes = table["dhash"].combine_chunks()
        known = _bools(hashes.is_valid())
        kept["dhash"].append(hashes.fill_null(0).to_numpy(zero_copy_only=False).astype(np.uint64, copy=False))
        kept["flags"].append(
            violates.astype(np.uint8) | judged.astype(np.uint8) << 1 | known.astype(np.uint8) << 2
        )
        if self._prompt is not None:
            words = table[f"keep_{self._prompt}"].combine_chunks().dictionary_encode()
            codes = np.array([_hash(text) for text in words.dictionary.to_pylist()] or [0], np.uint64)
            index = words.indices.fill_null(0).to_numpy(zero_copy_only=False)
            kept["prompt"].append(np.where(_bools(words.is_valid()), codes[index], np.uint64(0)))
            kept["score"].append(score.astype(np.float32))

    def _examples(self, table: pa.Table, score: Any, judged: Any, violates: Any, margins: Any) -> None:
        from pyarrow import compute as pc

        first = _bools(table["duplicate_of"].is_null())
        rules = table["rules"].combine_chunks()
        row = pc.list_parent_indices(rules).to_numpy(zero_copy_only=False)
        found = pc.list_flatten(rules)
        names, numbers = found.field("rule"), _floats(found.field("score"))
        for rule in pc.unique(names).to_pylist():
            of = _bools(pc.equal(names, rule)) & first[row]
            self._keep_best(
                self._worst_of.setdefault(rule, []), table, row[of], _known(numbers[of]), _PER_RULE
            )
        chosen = (violates & first).nonzero()[0]
        severity = pc.index_in(table["action"], arrow().array([str(action) for action in Action])).to_numpy()
        # A score is at most 1, so what is blocked comes before all that is flagged.
        self._keep_best(self._worst, table, chosen, 3 * severity[chosen] + _known(score[chosen]), _EXAMPLES)
        chosen = (judged & first & (margins < 1e9)).nonzero()[0]
        self._keep_best(self._unsure, table, chosen, -margins[chosen], _EXAMPLES)

    def _keep_best(
        self, best: list[tuple[float, int, dict[str, Any]]], table: pa.Table, rows: Any, marks: Any, most: int
    ) -> None:
        import numpy as np

        if len(best) == most:
            rows, marks = rows[marks > best[0][0]], marks[marks > best[0][0]]
        order = np.argsort(-marks, kind="stable")[:most]
        for place, values in zip(order, table.take(rows[order]).to_pylist(), strict=True):
            entry = float(marks[place]), -(self.rows + int(rows[place])), _example(values)
            (heapq.heappush if len(best) < most else heapq.heappushpop)(best, entry)

    # What was counted.

    @property
    def judged(self) -> int:
        return self.outcomes[Outcome.VIOLATES] + self.outcomes[Outcome.COMPLIES]

    def figures(self, *, worst_of_k: int = 10, values: int = 50) -> dict[str, Any]:
        """Everything but labels, as JSON; docs/audit.md describes it. ``values``: how many of each column."""
        violating = wilson(self.outcomes[Outcome.VIOLATES], self.judged)
        blocked = wilson(self.actions[Action.BLOCK], self.rows)
        unjudged = wilson(self.rows - self.judged, self.rows)
        return {
            "rows": self.rows,
            "outcomes": {str(outcome): self.outcomes[outcome] for outcome in Outcome},
            "actions": {str(action): self.actions[action] for action in Action},
            "degraded": self.marks["degraded"],
            "partial": self.marks["partial"],
            "violating": _dict(violating),
            "blocked": _dict(blocked),
            "unjudged": _dict(unjudged),
            "reasons": [
                {
                    "outcome": outcome,
                    "reason": reason,
                    "rows": rows,
                    "examples": self._named[outcome, reason],
                }
                for (outcome, reason), rows in sorted(
                    self._reasons.items(), key=lambda item: (-item[1], item[0])
                )[:50]
            ],
            "attributed_from": self._attributed,
            "attributed": self._attributed_rows,
            "categories": [self._category(rule) for rule in self._rules],
            "scores": {"bins": BINS, "threshold": self.scale.score, **self._histograms(None)},
            "columns": {name: groups.figures(values) for name, groups in self._columns.items()},
            "prompts": self._prompts(worst_of_k),
            "duplicates": self._duplicates(),
            "drift": self._drift(),
            "examples": {
                "worst": [example for _, _, example in sorted(self._worst, key=_best_first)],
                "worst_of_rule": {
                    rule: [example for _, _, example in sorted(best, key=_best_first)]
                    for rule, best in self._worst_of.items()
                },
                "least_certain": [
                    {**example, "margin": -mark} for mark, _, example in sorted(self._unsure, key=_best_first)
                ],
            },
            "seconds": sum(half.seconds for half in self._halves),
        }

    def _category(self, rule: str) -> dict[str, Any]:
        counts = self._rules[rule]
        attributed = counts["violating"] + counts["complying"]
        return {
            "rule": rule,
            "threshold": self.scale.rules.get(rule),
            "attributed": attributed,
            "attributed_share": _dict(wilson(attributed, self.judged)),
            "violating": counts["violating"],
            "violating_of_attributed": _dict(wilson(counts["violating"], attributed)),
            "violating_share": _dict(wilson(counts["violating"], self.judged)),
            "scores": self._histograms(rule),
        }

    def _histograms(self, rule: str | None) -> dict[str, list[int]]:
        empty: list[int] = [0] * BINS
        known = self._bins.get(rule, {})
        return {kind: known[kind].tolist() if kind in known else empty for kind in ("complies", "violates")}

    def _joined(self, name: str) -> np.ndarray[Any, Any]:
        import numpy as np

        pieces = self._kept[name]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)

    def _prompts(self, k: int) -> dict[str, Any] | None:
        """As in RealToxicityPrompts (Gehman et al. 2020) and, for images, I2P (Schramowski et al. 2023)."""
        import numpy as np

        if self._prompt is None:
            return None
        prompts, scores, flags = self._joined("prompt"), self._joined("score"), self._joined("flags")
        use = (prompts != 0) & ((flags & 2) > 0) if len(prompts) else np.zeros(0, bool)
        _, groups = np.unique(prompts[use], return_inverse=True)
        if not len(groups):
            return {"column": self._prompt, "prompts": 0}
        order = np.argsort(groups, kind="stable")
        groups, violates, scores = (
            groups[order],
            (flags[use][order] & 1).astype(np.float64),
            scores[use][order],
        )
        scored = not bool(np.isnan(scores).any())
        sizes, broken = np.bincount(groups), np.bincount(groups, weights=violates)
        return {
            "column": self._prompt,
            "prompts": len(sizes),
            "images_per_prompt": {
                "least": int(sizes.min()),
                "median": float(np.median(sizes)),
                "most": int(sizes.max()),
            },
            "with_violation": _dict(wilson(int((broken > 0).sum()), len(sizes))),
            "k": k,
            "violation_in_k": _dict(mean_of(worst_of(violates, groups, k), seed=self._seed)),
            "worst_score_of_k": _dict(
                mean_of(worst_of(scores.astype(np.float64), groups, k), seed=self._seed) if scored else None
            ),
        }

    def _duplicates(self) -> dict[str, Any]:
        """Rows, and violating ones, when each counts, and when alike images count once."""
        import numpy as np

        sha, dhash, flags = self._joined("sha"), self._joined("dhash"), self._joined("flags")
        near = ((flags & 4) > 0) & alike.textured(dhash) if len(flags) else np.zeros(0, bool)
        result: dict[str, Any] = {"too_plain": int((((flags & 4) > 0) & ~near).sum()) if len(flags) else 0}
        equal = alike.same(sha)
        joined = alike.together(equal, alike.near(dhash, near))
        for name, labels in (("equal_bytes", equal), ("nearly_equal", joined)):
            count = int(labels.max()) + 1 if len(labels) else 0
            judged = (
                np.bincount(labels, weights=flags & 2, minlength=count) > 0 if count else np.zeros(0, bool)
            )
            some = np.bincount(labels, weights=flags & 1, minlength=count) > 0 if count else judged
            fine = np.bincount(labels, weights=(flags & 3) == 2, minlength=count) > 0 if count else judged
            result[name] = {
                "distinct": count,
                "violating": _dict(wilson(int(some.sum()), int(judged.sum()))),
                "judged_both_ways": int((some & fine).sum()),
            }
        self.both_ways = int((some & fine).sum())
        self._number_groups(joined, some & fine)
        return {**result, "judged_once": self.marks["duplicates"]}

    def _number_groups(self, labels: Any, both: Any) -> None:
        """Number the groups of several rows, from 1: those judged ``both`` ways first."""
        import numpy as np

        _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
        several = (sizes > 1).nonzero()[0]
        numbers = np.zeros(len(sizes), np.int32)
        numbers[several[np.lexsort((first[several], ~both[several]))]] = np.arange(1, len(several) + 1)
        self._groups = numbers[labels]

    def group_of(self, table: pa.Table) -> Any:
        """The number of each row's group of alike images, 0 for none; once ``figures`` were made.

        Rows are found by part and row: an audit that is still running may have more of them by now.
        """
        import numpy as np

        starts = [self._starts.get(part, len(self._groups)) for part in table["part"].to_pylist()]
        place = np.array(starts, np.int64) + table["row"].to_numpy()
        known = place < len(self._groups)
        return np.where(known, self._groups[np.where(known, place, 0)], 0)

    def _drift(self) -> dict[str, Any] | None:
        """The two halves of the run, in the order of the source, and how far their scores are apart: the
        Kolmogorov-Smirnov distance, beside what chance exceeds in one of twenty cases (Smirnov 1948).
        """
        import numpy as np

        halves = self._halves
        if not all(half.judged for half in halves):
            return None
        shares = [wilson(half.violating, half.judged) for half in halves]
        unclear = [wilson(half.rows - half.judged, half.rows) for half in halves]
        numbers = [int(np.sum(half.scores)) for half in halves]
        distance = chance = None
        if all(numbers):
            steps = [np.cumsum(half.scores) / number for half, number in zip(halves, numbers, strict=True)]
            distance = float(np.abs(steps[0] - steps[1]).max())
            chance = 1.358 * float(np.sqrt(sum(numbers) / (numbers[0] * numbers[1])))
        return {
            "rows": [half.rows for half in halves],
            "violating": [_dict(share) for share in shares],
            "violating_change": _dict(difference(*shares)),
            "unjudged": [_dict(share) for share in unclear],
            "unjudged_change": _dict(difference(*unclear)),
            "score_distance": distance,
            "score_distance_by_chance": chance,
            "seconds_per_row": [half.seconds / half.rows for half in halves],
        }


def _hash(text: str | None) -> int:
    data = (text or "").encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") or 1


def _histogram(scores: Any, bins: int) -> Any:
    import numpy as np

    known = scores[~np.isnan(scores)]
    return np.bincount(np.clip((known * bins).astype(np.int64), 0, bins - 1), minlength=bins)


def _example(values: dict[str, Any]) -> dict[str, Any]:
    names = (
        "key",
        "part",
        "row",
        "sha256",
        "outcome",
        "action",
        "score",
        "rules",
        "closest",
        "rationale",
        "reason",
    )
    return {name: values[name] for name in names}


def _best_first(entry: tuple[float, int, Any]) -> tuple[float, int]:
    return -entry[0], -entry[1]


def _dict(share: Any) -> dict[str, Any] | None:
    return None if share is None else share.to_dict()


def _floats(values: Any) -> Any:
    import numpy as np

    return np.asarray(
        values.to_numpy() if hasattr(values, "chunks") else values.to_numpy(zero_copy_only=False), float
    )


def _bools(values: Any) -> Any:
    import numpy as np
    from pyarrow import compute as pc

    filled = pc.fill_null(values, False)
    return np.asarray(
        filled.to_numpy() if hasattr(filled, "chunks") else filled.to_numpy(zero_copy_only=False), bool
    )


def _known(scores: Any) -> Any:
    """``scores``, with what has none below all others."""
    import numpy as np

    return np.where(np.isnan(scores), -1.0, scores)
