"""A benchmark report in plain text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policyguard.bench.pictosafe.evaluation import Report, Scores

__all__ = ["to_text"]

_FIGURES = {
    "five_way_macro": "five-way macro (accuracy at L1, F1 at L2-L5)",
    "l2_l5_macro": "L2-L5 macro F1",
    "pooled_f1": "pooled F1",
    "balanced_accuracy": "balanced accuracy, L2-L5",
    "shuffled": "  on shuffled images (near 0.5)",
    "pair_accuracy": "edit pairs, both right",
    "policy_flip_accuracy": "policy flips, both right",
    "exempted_accuracy": "  safe once the rule is exempted",
    "held_out": "balanced accuracy, held-out policies",
    "held_out_shuffled": "  on shuffled images (near 0.5)",
}


def to_text(report: Report) -> str:
    """Two tables: one line per level, then one line per figure beside two guards that look at nothing."""
    sizes = report.sizes
    counts = f"{sizes.scenes} scenes, {sizes.pairs} edit pairs, {sizes.held_out} held-out policies"
    head = f"{'level':<14}{'unsafe':>8}{'F1':>8}{'accuracy':>10}{'precision':>11}{'recall':>8}"
    head += f"{'undecided':>11}{'unparsed':>10}"
    lines = [f"PictoSafe, seed {report.seed}: {counts}", "", head]
    for name, level in report.guard.levels.items():
        lines.append(
            f"{name:<14}{level.unsafe:>8.0%}{_number(level.f1):>8}{_number(level.accuracy):>10}"
            f"{_number(level.precision):>11}{_number(level.recall):>8}{level.undecided:>11}{level.unparsed:>10}"
        )
    lines += ["", f"{'':<46}{'guard':>8}{'always safe':>14}{'always unsafe':>16}"]
    columns = (report.guard, report.always_safe, report.always_unsafe)
    for figure, title in _FIGURES.items():
        lines.append(_row(title, [getattr(scores, figure) for scores in columns]))
    for style in report.guard.styles:
        lines.append(_row(f"balanced accuracy, style {style}", [_style(scores, style) for scores in columns]))
    lines += ["", "Undecided and unparsed answers count as wrong: a miss, or a false alarm."]
    return "\n".join(lines)


def _row(title: str, values: list[float]) -> str:
    first, second, third = map(_number, values)
    return f"{title:<46}{first:>8}{second:>14}{third:>16}"


def _style(scores: Scores, style: str) -> float:
    return scores.styles[style]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
