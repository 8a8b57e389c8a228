"""What reviewers decide, as a CSV that round-trips: one line per pair, two cells per policy."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from policyguard.errors import ConfigurationError, Problem
from policyguard.train.data import Label
from policyguard.train.pairs.candidate import Candidate, Labels

__all__ = ["REVIEW", "Choice", "Decision", "columns", "open_decisions", "read_review", "review_csv"]

REVIEW = "review.csv"
Choice = Literal["", "accept", "reject"]
_CHOICES: dict[str, Choice] = {"": "", "accept": "accept", "reject": "reject"}
_FORMULA = re.compile(r"^(?='*[=+\-@\t\r])")
"""A cell that starts like this is a formula to a spreadsheet, unless an apostrophe stands before it."""
_GUARDED = re.compile(r"^'(?='*[=+\-@\t\r])")
_LABELS: dict[str, Label | None] = {"": None, "safe": "safe", "unsafe": "unsafe"}


@dataclass(frozen=True, slots=True)
class Decision:
    """``choice``: empty while nobody has decided. ``labels``: as the reviewer leaves them, by policy."""

    id: str
    choice: Choice
    labels: Mapping[str, Labels]
    note: str = field(default="")


def columns(candidates: Sequence[Candidate]) -> list[str]:
    """The head: pair, decision, then before and after for each policy, then a note."""
    policies = dict.fromkeys(policy for candidate in candidates for policy in candidate.labels)
    return [
        "pair",
        "decision",
        *(f"{side}: {policy}" for policy in policies for side in ("before", "after")),
        "note",
    ]


def open_decisions(candidates: Sequence[Candidate]) -> list[Decision]:
    """The guard's labels, and nothing decided."""
    return [Decision(candidate.id, "", candidate.labels) for candidate in candidates]


def review_csv(candidates: Sequence[Candidate], decisions: Sequence[Decision]) -> str:
    """``decisions`` as CSV, in the order of ``candidates``."""
    head = columns(candidates)
    by_id = {decision.id: decision for decision in decisions}
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\r\n", restval="")
    writer.writeheader()
    for candidate in candidates:
        decision = by_id.get(candidate.id, Decision(candidate.id, "", candidate.labels))
        row = {"pair": decision.id, "decision": decision.choice, "note": _FORMULA.sub("'", decision.note)}
        for policy, labels in decision.labels.items():
            row |= {f"before: {policy}": labels.before or "", f"after: {policy}": labels.after or ""}
        writer.writerow(row)
    return text.getvalue()


def read_review(path: Path, candidates: Sequence[Candidate]) -> tuple[list[Decision], list[Problem]]:
    """The decisions in a CSV, and lines that are wrong, which decide nothing.

    Raises ConfigurationError if it is not a review of these candidates at all.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="more", restval=None)
            head = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", hint="save it as CSV in UTF-8") from error
    expected = columns(candidates)
    if missing := [name for name in expected if name not in head]:
        commas = len(head) == 1 and head[0].startswith(("pair;", "pair\t"))
        raise ConfigurationError(
            f"{path} lacks the columns {', '.join(missing)}",
            hint="save it with commas between the cells" if commas else "review the sheet of this folder",
        )
    if twice := next((name for name in head if head.count(name) > 1), None):
        raise ConfigurationError(f"{path}:1: the column {twice!r} appears twice", hint="remove one of them")
    known = {candidate.id: candidate for candidate in candidates}
    decisions: dict[str, Decision] = {}
    problems: list[Problem] = []
    times = Counter(row["pair"] for _, row in rows)
    for line, row in rows:
        problem = _line_problem(row, known, times)
        if problem is not None:
            problems.append(Problem(problem[1], str(path), line, field=problem[0]))
            continue
        labels = {
            policy: Labels(
                before=_label(row[f"before: {policy}"]),
                after=_label(row[f"after: {policy}"]),
            )
            for policy in known[row["pair"]].labels
        }
        choice = _CHOICES[row["decision"].strip().lower()]
        decisions[row["pair"]] = Decision(row["pair"], choice, labels, _GUARDED.sub("", row["note"]))
    return list(decisions.values()), problems


def _line_problem(
    row: Mapping[str, str | None], known: Mapping[str, Candidate], times: Mapping[str | None, int]
) -> tuple[str, str] | None:
    """Field and message of what is wrong with a line."""
    if "more" in row or None in row.values():
        return "pair", "the line has another number of cells than the head"
    pair = str(row["pair"])
    if pair not in known:
        return "pair", f"there is no pair {pair[:40]!r}"
    choice = str(row["decision"]).strip().lower()
    if choice not in _CHOICES:
        return "decision", f"{choice[:40]!r} is not one of: accept, reject, or empty"
    for policy in known[pair].labels:
        for side in ("before", "after"):
            value = str(row[f"{side}: {policy}"]).strip().lower()
            if value not in _LABELS:
                return f"{side}: {policy}", f"{value[:40]!r} is not one of: safe, unsafe, or empty"
    if times[pair] > 1:
        return "pair", f"{pair} is there {times[pair]} times: keep the line that is right"
    return None


def _label(cell: str | None) -> Label | None:
    return _LABELS[str(cell).strip().lower()]
