"""From reviewed pairs to rows: label rows for training, and rows of SafeEditBench's shape."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policyguard.errors import ConfigurationError
from policyguard.policy import Policy, ResolvedPolicy, load_policy
from policyguard.policy.files import is_path
from policyguard.strict.files import write_lines
from policyguard.train.data import LabelRow, write_rows
from policyguard.train.pairs.candidate import Candidate, Labels, read_candidates
from policyguard.train.pairs.review import Decision
from policyguard.train.policies import document_of, write_policies

__all__ = ["BENCH_ROWS", "ROWS", "Exported", "export_pairs"]

ROWS = "rows.jsonl"
BENCH_ROWS = "safeedit.jsonl"
_LEVEL = re.compile(r"^(?:safeedit|pictosafe)/(l[1-5])$")


@dataclass(slots=True)
class Exported:
    """``undecided``: pairs that nobody has accepted or rejected. ``unlabelled``: images without a label."""

    pairs: int = 0
    rows: int = 0
    rejected: int = 0
    undecided: int = 0
    unlabelled: int = 0
    unturned: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """The summary for people."""
        lines = [f"{self.rows:,} rows of {self.pairs:,} accepted pairs; {self.rejected:,} were rejected"]
        if self.undecided:
            lines.append(f"{self.undecided:,} pairs are undecided, and left out")
        if self.unlabelled:
            lines.append(f"{self.unlabelled:,} labels are empty, and left out")
        if self.unturned:
            named = ", ".join(self.unturned[:5])
            lines.append(f"{len(self.unturned):,} accepted pairs do not turn from unsafe to safe: {named}")
        return lines


def export_pairs(folder: Path, decisions: Sequence[Decision]) -> Exported:
    """Write ``rows.jsonl`` and ``safeedit.jsonl`` into ``folder``, each in one step.

    Only accepted pairs are written, under every policy that has a label. Raises ConfigurationError if there
    are none.
    """
    candidates = {candidate.id: candidate for candidate in read_candidates(folder)}
    exported = Exported(undecided=len(candidates) - sum(decision.choice != "" for decision in decisions))
    resolved: dict[str, ResolvedPolicy] = {}
    own: dict[str, Policy] = {}
    rows: list[LabelRow] = []
    bench: list[str] = []
    for decision in decisions:
        exported.rejected += decision.choice == "reject"
        if decision.choice != "accept":
            continue
        candidate = candidates[decision.id]
        exported.pairs += 1
        if decision.labels.get(candidate.policy) != Labels(before="unsafe", after="safe"):
            exported.unturned.append(candidate.id)
        for name, labels in decision.labels.items():
            if name not in resolved:
                resolved[name] = load_policy(name).resolve()
            policy = resolved[name]
            called = name
            if is_path(name):
                own[policy.id], called = document_of(policy), f"#{policy.id}"
            for side, label in (("before", labels.before), ("after", labels.after)):
                if label is None:
                    exported.unlabelled += 1
                    continue
                rows.append(_row(candidate, side, label, name, called))
                bench.append(_bench_row(candidate, side, label, policy))
    if not rows:
        raise ConfigurationError(
            "no pair is accepted, so there are no rows to write",
            hint=f"open {folder / 'review.html'}, decide, and save the CSV",
        )
    if own:
        write_policies(folder, own)
    write_lines(folder / BENCH_ROWS, bench)
    exported.rows = write_rows(folder / ROWS, rows)
    return exported


def _row(candidate: Candidate, side: str, label: str, name: str, called: str) -> LabelRow:
    """The rules that the guard found are kept where they still fit what the reviewer says."""
    known = label == "unsafe" and side == "before" and name == candidate.policy and bool(candidate.rules)
    return LabelRow(
        image=candidate.before if side == "before" else candidate.after,
        sha256=candidate.before_sha256 if side == "before" else candidate.after_sha256,
        source=candidate.source if side == "before" else f"{candidate.source}, edited by {candidate.editor}",
        licence=candidate.licence,
        split=candidate.split,
        policy=called,
        label="unsafe" if label == "unsafe" else "safe",
        category=candidate.rules[0] if known else None,
        violations=tuple(candidate.rules) if known else () if label == "safe" else None,
        complete=False if known else None,  # a guard's findings need not be all
        pair_id=candidate.id,
    )


def _bench_row(candidate: Candidate, side: str, label: str, policy: ResolvedPolicy) -> str:
    level = _LEVEL.match(policy.id)
    return json.dumps(
        {
            "image_path": candidate.before if side == "before" else candidate.after,
            "safety_label": label,
            "policy": policy.text,
            "policy_level": level[1].upper() if level else policy.id,
        },
        ensure_ascii=False,
    )
