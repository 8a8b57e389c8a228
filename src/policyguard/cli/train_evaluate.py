"""``policyguard train evaluate``: how good a guard is on one's own label rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from policyguard.cli.errors import command, warn, warn_of
from policyguard.cli.options import BASE_URL, DIALECT
from policyguard.cli.policy_diff import JUDGED, kept_scores
from policyguard.runs.exits import ExitCode
from policyguard.strict.text import is_terminal, one_line

if TYPE_CHECKING:
    from policyguard.metrics import Figures
    from policyguard.train.evaluate import Evaluation
    from policyguard.train.general import General

__all__ = ["evaluate"]

PATIENCE = 60.0
"""Seconds of an outage for which a row waits, as in `policyguard check`."""
SHOWN = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "recall": "recall of unsafe",
    "specificity": "recall of safe",
    "auc": "AUC",
}


class _Side(StrEnum):
    HELD_OUT = "held-out"
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"


@command
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A folder that a stage has left, a model's name, or as the server calls it."
        ),
    ],
    rows: Annotated[
        Path, typer.Argument(metavar="ROWS", help="A .jsonl file of label rows (docs/training.md).")
    ],
    split: Annotated[
        _Side, typer.Option("--split", help="Which rows. held-out: all but those of the side train.")
    ] = _Side.HELD_OUT,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, metavar="N", help="At most N rows, the same ones each time; pairs stay whole."
        ),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Decode explanations too (slower): how many of them can be read?"),
    ] = False,
    base_url: BASE_URL = None,
    dialect: DIALECT = None,
    judged: JUDGED = None,
    general: Annotated[
        Path | None,
        typer.Option(
            "--general",
            metavar="PATH",
            help="Put the results of `policyguard bench general` beside: a file of lmms-eval, or its folder.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures, and every row, as JSON.")
    ] = None,
) -> ExitCode:
    """Measure a guard on your own label rows: figures with intervals, by policy and source, and of pairs.

    Each row is judged by the guard, under the row's policy. A row without an answer is wrong.

    Exit code: 0 all rows are in the figures; 3 some are not, and are named; 2 the set-up is wrong; after
    Ctrl-C 130, with the figures of what was judged so far. With --judged, a second run goes on from there.
    """
    from policyguard.cli.progress import load_model, progress_bar
    from policyguard.guard import Guard
    from policyguard.metrics import require_metrics
    from policyguard.strict.files import check_place, write_json
    from policyguard.train import general as ability
    from policyguard.train.evaluate import choose, judge

    require_metrics()
    if out is not None:
        check_place(out, name="--json", folder=False)
    found = None if general is None else ability.read(general)
    folder = Path(model).expanduser()
    chosen = choose(rows, split=split.value, limit=limit, model=folder if folder.is_dir() else None)
    policies = list(dict.fromkeys(item.policy for item in chosen.items if item.policy is not None))
    with (
        kept_scores(judged) as cache,
        Guard(
            policies, model=model, base_url=base_url, dialect=dialect, cache=cache, patience=PATIENCE
        ) as guard,
    ):
        load_model(guard, sys.stderr)
        identity = guard.backend.model
        with progress_bar(sys.stderr) as move:
            report = judge(
                chosen.items,
                guard.backend,
                explain=explain,
                progress=lambda done, total: move(done, total, "judged"),
            )
    if out is not None:
        told = {
            "model": identity.to_dict(),
            "rows_file": {"path": str(rows), "sha256": chosen.sha256},
            "split": split.value,
            "left_out": dict(chosen.left_out),
            "bad_rows": [str(problem) for problem in chosen.problems],
            "notes": chosen.notes,
            "general": None if found is None else found.to_dict(),
        }
        write_json(out, told | report.to_dict())
    spoken = f" in dialect {identity.dialect} {identity.dialect_version}" if identity.dialect else ""
    print(f"guard: {one_line(identity.id)}{spoken}")
    unsafe = sum(item.row.label == "unsafe" for item in report.judged)
    print(f"rows: {len(report.judged):,} of {one_line(str(rows))} ({split.value}), {unsafe:,} of them unsafe")
    for side, number in sorted(chosen.left_out.items()):
        print(f"left out: {number:,} ({side})")
    if report.judged:
        _print(report, found)
    for note in chosen.notes:
        warn(note)
    warn_of([*chosen.problems, *report.unasked])
    if found is not None and found.failed:
        warn(f"{found.failed:,} requests failed in {found.file}, and lmms-eval takes each for an answer")
    if report.stopped:
        warn(f"stopped after {len(report.judged):,} of {len(chosen.items):,} rows")
        return ExitCode.INTERRUPTED
    return ExitCode.UNJUDGED if chosen.problems or report.unasked else ExitCode.OK


def _print(report: Evaluation, general: General | None) -> None:
    from policyguard.metrics import proportion

    figures, silent = report.figures, report.silent
    which = ", ".join(f"{number:,} {name}" for name, number in silent.most_common()) or "none"
    print(f"without an answer: {proportion(silent.total(), len(report.judged))} ({which})")
    if report.explained:
        print(f"explanations that cannot be read: {report.unread}")
    print()
    lines = [[title, str(getattr(figures, name)), ""] for name, title in SHOWN.items()]
    lines.append(["the broken rule is named", str(report.named), ""])
    for title, (count, figure) in (
        ("edit pairs, both right", report.edit_pairs),
        ("policy pairs, both right", report.policy_pairs),
    ):
        lines.append([title, str(figure), f"of {count:,}" if count else "there are none"])
    _table(["figure", "value [95%]", ""], lines)
    for title, groups in (("policy", report.by_policy), ("source", report.by_source)):
        if len(groups) > 1:
            print()
            _table([title, "rows", "unsafe", "silent", *SHOWN.values()], list(_grouped(groups)))
    if general is not None:
        told: dict[str, Any] = general.to_dict()["figures"]
        print("\ngeneral ability, by lmms-eval:")
        _table(["task", "right"], [[name, f"{value:.3f}"] for name, value in told.items()])


def _grouped(groups: dict[str, Figures]) -> Iterator[list[str]]:
    for name, found in groups.items():
        counts = [str(found.images), str(found.unsafe), str(found.silent)]
        yield [one_line(name), *counts, *(str(getattr(found, figure)) for figure in SHOWN)]


def _table(heads: list[str], lines: list[list[str]]) -> None:
    from policyguard.cli.output import print_table

    print_table(heads, lines if is_terminal(sys.stdout) else [heads, *lines], sys.stdout)
