#!/usr/bin/env python
"""Write the tables of docs/experiments.md, and its plot, from ``results/``:
python train/experiments/cross_policy/tables.py

The page's own words stay; what stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` is written anew.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[3]
PAGE, PLOT = ROOT / "docs" / "experiments.md", ROOT / "docs" / "experiments.png"
LEVELS = tuple(f"pictosafe/l{n}" for n in range(1, 6))
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Student's t for a 95% interval of the mean of so many runs."""

ONE_POLICY = ("warm", "assess-l1", "grpo-l1", "assess-l4", "grpo-l4", "assess-l5", "grpo-l5")
STAGES = ("base", "plain-warm", "warm", "recap-warm", "recap-warm-grpo", "warm-grpo", "warm-assess")
PAIRS = ("warm", "warm-grpo", "warm-grpo-pairs")
GENERAL = ("base", "recap", "warm", "recap-warm", "warm-grpo", "warm-assess", "assess-l1", "grpo-l1")
NAMES = {
    "base": "base model",
    "warm": "+ warm-up",
    "plain-warm": "+ SFT on plain captions + warm-up",
    "recap": "+ SFT on recaptions",
    "recap-warm": "+ SFT on recaptions + warm-up",
    "recap-warm-grpo": "+ SFT on recaptions + warm-up + GRPO",
    "warm-grpo": "+ warm-up + GRPO",
    "warm-grpo-pairs": "+ warm-up + GRPO with edit pairs",
    "warm-assess": "+ warm-up + verdict SFT (assess)",
    **{
        f"{kind}-l{n}": f"+ warm-up + {label} on L{n}"
        for n in (1, 4, 5)
        for kind, label in (("assess", "assess"), ("grpo", "GRPO"))
    },
}

Runs = dict[str, list[dict[str, Any]]]


def read() -> Runs:
    """Run -> its results, one per seed."""
    found: Runs = defaultdict(list)
    for path in sorted((Path(__file__).parent / "results").glob("*.json")):
        data = json.loads(path.read_text())
        found[data["run"]].append(data)
    return found


def shown(values: list[float | None]) -> str:
    """The mean in per cent, with half the width of its 95% interval over seeds where there are several."""
    real = [value for value in values if value is not None]
    if not real:
        return "–"
    text = f"{100 * mean(real):.1f}"
    if len(real) in T_95:
        text += f" ±{100 * T_95[len(real)] * stdev(real) / math.sqrt(len(real)):.1f}"
    return text


def table(runs: Runs, names: tuple[str, ...], columns: dict[str, Any]) -> str:
    rows = [["model", "seeds", *columns], ["---", "---:", *["---:"] * len(columns)]]
    for name in names:
        if name in runs:
            cells = [shown([pick(run) for run in runs[name]]) for pick in columns.values()]
            rows.append([NAMES[name], str(len(runs[name])), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _level(level: str, figure: str) -> Any:
    return lambda run: run["safety"][level][figure]


def tables(runs: Runs) -> dict[str, str]:
    """Every table of the page, by name."""
    score = {level[-2:].upper(): _level(level, "balanced_accuracy") for level in LEVELS}
    f1 = {level[-2:].upper(): _level(level, "f1_unsafe") for level in LEVELS[1:]}
    called = {level[-2:].upper(): _level(level, "called_unsafe") for level in LEVELS}
    random = {
        "random policies": _level("random", "balanced_accuracy"),
        "held-out family": _level("held_out", "balanced_accuracy"),
        "both of an edit pair": lambda run: run["safety"]["pairs_both_right"],
    }
    general = {
        "describes (F1)": lambda run: run["general"]["describe_neutral_f1"],
        "names the sensitive": lambda run: run["general"]["describe_sensitive_recall"],
        "list questions": lambda run: run["general"]["questions"],
        "other format": lambda run: run["general"]["other_format"],
    }
    minutes = []
    for name in sorted(runs):
        for run in runs[name]:
            stages = "; ".join(
                f"{s['stage']} on {s['on']}, {s['rows']} rows, {s['updates']} updates, "
                f"lr {s['lr']:g}: {s['minutes']:.1f} min"
                for s in run["stages"]
            )
            minutes.append(f"| {name} | {run['seed']} | {stages or '-'} |")
    return {
        "one-policy": table(runs, ONE_POLICY, score),
        "one-policy-f1": table(runs, ONE_POLICY, f1),
        "one-policy-called": table(runs, ONE_POLICY, called),
        "stages": table(runs, STAGES, score | random),
        "pairs": table(runs, PAIRS, random),
        "general": table(runs, GENERAL, general),
        "runs": "\n".join(["| run | seed | stages |", "|---|---:|---|", *minutes]),
    }


def plot(runs: Runs) -> None:
    """Balanced accuracy under each level, after training on one."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, names, title in (
        (axes[0], ONE_POLICY, "trained on one policy"),
        (axes[1], STAGES, "stages, random policies"),
    ):
        for name in names:
            if name in runs:
                line = [
                    mean([run["safety"][level]["balanced_accuracy"] for run in runs[name]])
                    for level in LEVELS
                ]
                style = ":" if name in ("base", "warm") else "--" if name.startswith("assess") else "-"
                axis.plot(
                    [level[-2:].upper() for level in LEVELS], line, style, marker="o", ms=3, label=NAMES[name]
                )
        axis.axhline(0.5, color="grey", lw=0.6)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, 1.02)
        axis.legend(fontsize=6)
    axes[0].set_ylabel("balanced accuracy (L1: accuracy)")
    figure.tight_layout()
    figure.savefig(PLOT, dpi=130)


def main() -> None:
    runs = read()
    page = PAGE.read_text()
    for name, text in tables(runs).items():
        page = re.sub(
            rf"(<!-- table: {name} -->\n).*?(<!-- end -->)",
            lambda m, t=text: f"{m[1]}\n{t}\n\n{m[2]}",
            page,
            flags=re.DOTALL,
        )
    PAGE.write_text(page)
    plot(runs)
    print(f"{sum(map(len, runs.values()))} runs: {PAGE}, {PLOT}")


if __name__ == "__main__":
    main()
