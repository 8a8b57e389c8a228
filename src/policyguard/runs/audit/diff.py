"""Two audits of the same images compared: what the change of a policy or a model does to a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policyguard.runs.audit.rows import arrow

if TYPE_CHECKING:
    import pyarrow as pa

    from policyguard.runs.audit.rows import Audit

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """``changes`` has, for each pair of actions before and after, how many images went that way.

    ``listed``: the first images whose action changed, most severe change first. ``other_bytes``: images that
    have other bytes under the same key. ``only_before`` and ``only_after``: images that one audit lacks.
    """

    both: int
    only_before: int
    only_after: int
    other_bytes: int
    changes: dict[tuple[str, str], int]
    outcomes: dict[tuple[str, str], int]
    score: float | None
    listed: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "both": self.both,
            "only_before": self.only_before,
            "only_after": self.only_after,
            "other_bytes": self.other_bytes,
            "actions": [{"before": a, "after": b, "images": n} for (a, b), n in self.changes.items()],
            "outcomes": [{"before": a, "after": b, "images": n} for (a, b), n in self.outcomes.items()],
            "mean_score_change": self.score,
            "changed": self.listed,
        }

    def lines(self) -> Iterator[str]:
        only = f"{self.only_before:,} only before, {self.only_after:,} only after"
        yield f"{self.both:,} images in both, {only}"
        if self.other_bytes:
            yield f"{self.other_bytes:,} of them have other bytes now"
        for word, table in (("action", self.changes), ("outcome", self.outcomes)):
            for (before, after), number in table.items():
                if before != after:
                    yield f"{word} {before} -> {after}: {number:,}"
        same = sum(number for (before, after), number in self.changes.items() if before == after)
        yield f"the same action: {same:,}"
        if self.score is not None:
            yield f"mean change of the score: {self.score:+.4f}"
        for row in self.listed:
            scores = " -> ".join(
                "-" if one is None else f"{one:.2f}" for one in (row["score"], row["score_after"])
            )
            yield f"  {row['key']}: {row['action']} -> {row['action_after']} ({scores})"
        changed = sum(number for (before, after), number in self.changes.items() if before != after)
        if changed > len(self.listed):
            yield f"  and {changed - len(self.listed):,} more: --list {changed} shows all"


_COLUMNS = ["key", "sha256", "outcome", "action", "score"]


def compare(before: Audit, after: Audit, *, most: int = 20) -> Comparison:
    """``after`` against ``before``, by the keys of their images."""
    from pyarrow import compute

    pa = arrow()
    one, two = _table(before), _table(after)
    renamed = two.rename_columns([name if name == "key" else f"{name}_after" for name in _COLUMNS])
    both = one.join(renamed, "key", join_type="inner")
    changed = both.filter(compute.not_equal(both["action"], both["action_after"]))
    severity = pa.array(["allow", "flag", "block"])
    steps = [
        compute.index_in(changed[name].combine_chunks(), severity) for name in ("action", "action_after")
    ]
    order = compute.subtract(steps[1], steps[0])
    listed = changed.append_column("step", order).sort_by([("step", "descending"), ("key", "ascending")])
    mean = compute.mean(compute.subtract(both["score_after"], both["score"])).as_py()
    return Comparison(
        both=len(both),
        only_before=len(one) - len(both),
        only_after=len(two) - len(both),
        other_bytes=compute.sum(compute.not_equal(both["sha256"], both["sha256_after"])).as_py() or 0,
        changes=_pairs(both, "action"),
        outcomes=_pairs(both, "outcome"),
        score=mean,
        listed=listed.slice(0, most).drop_columns(["step", "sha256", "sha256_after"]).to_pylist(),
    )


def _table(audit: Audit) -> pa.Table:
    pa = arrow()
    from policyguard.runs.audit.rows import schema

    columns = pa.schema([schema().field(name) for name in _COLUMNS])
    return pa.Table.from_batches(audit.rows(_COLUMNS), columns)


def _pairs(table: pa.Table, name: str) -> dict[tuple[str, str], int]:
    groups = table.group_by([name, f"{name}_after"]).aggregate([([], "count_all")])
    return {
        (row[name], row[f"{name}_after"]): row["count_all"]
        for row in sorted(groups.to_pylist(), key=lambda row: (row[name], row[f"{name}_after"]))
    }
