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
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).parents[3]
PAGE, PLOT = ROOT / "docs" / "experiments.md", ROOT / "docs" / "experiments.png"
LEVELS = tuple(f"pictosafe/l{n}" for n in range(1, 6))
Z = 1.96
"""Of a 95% interval."""

ONE_POLICY = ("warm", "assess-l1", "grpo-l1", "assess-l4", "grpo-l4", "assess-l5", "grpo-l5")
STAGES = ("plain-warm", "warm", "recap-warm", "recap-warm-grpo", "warm-grpo", "warm-assess")
PAIRS = ("warm", "warm-grpo", "warm-grpo-pairs", "warm-grpo-crossed")
GENERAL = ("warm", "recap-warm", "warm-grpo", "recap-warm-grpo", "warm-assess", "assess-l1", "grpo-l1")


def _long(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"long-{name}" for name in names)


_SHORT = {
    "warm": "+ warm-up",
    "plain-warm": "+ SFT on plain captions + warm-up",
    "recap-warm": "+ SFT on recaptions + warm-up",
    "recap-warm-grpo": "+ SFT on recaptions + warm-up + GRPO",
    "warm-grpo": "+ warm-up + GRPO",
    "warm-grpo-pairs": "+ warm-up + GRPO with edit pairs",
    "warm-grpo-crossed": "+ warm-up + GRPO with crossed policies",
    "warm-assess": "+ warm-up + verdict SFT (assess)",
    **{
        f"{kind}-l{n}": f"+ warm-up + {label} on L{n}"
        for n in (1, 4, 5)
        for kind, label in (("assess", "assess"), ("grpo", "GRPO"))
    },
}
NAMES = {
    "base": "base model",
    "recap": "+ SFT on recaptions",
    **_SHORT,
    **{f"long-{name}": text.replace("warm-up", "long warm-up") for name, text in _SHORT.items()},
}

APART = {
    "warm": ("– (the warm-up)", "–"),
    "warm-grpo": ("expected reward, 4 answers drawn, by the trainer", "plain rows"),
    "exact-4": ("expected reward, 4 answers drawn", "plain rows"),
    "exact-16": ("expected reward, 16 answers drawn", "plain rows"),
    "exact-scaled": ("expected reward, none drawn", "plain rows"),
    "exact-expected": ("expected reward, none drawn, not scaled", "plain rows"),
    "exact-log": ("logarithm of the chance", "plain rows"),
    "warm-grpo-crossed": ("expected reward, 4 answers drawn, by the trainer", "crossed rows"),
    "exact-4-crossed": ("expected reward, 4 answers drawn", "crossed rows"),
    "exact-scaled-crossed": ("expected reward, none drawn", "crossed rows"),
    "exact-log-crossed": ("logarithm of the chance", "crossed rows"),
    "exact-scaled-more": ("expected reward, none drawn", "five times the plain rows"),
    "exact-log-more": ("logarithm of the chance", "five times the plain rows"),
}
"""Runs of exact.py and of the trainer on the same prompts: what was raised, on which rows."""

Run = dict[str, Any]
Runs = dict[str, list[Run]]
Figure = tuple[float, float, float]
"""A share, and the ends of its 95% interval over the samples it was measured on."""


def read() -> Runs:
    """Run -> its results, one per seed."""
    found: Runs = defaultdict(list)
    for path in sorted((Path(__file__).parent / "results").glob("*.json")):
        data = json.loads(path.read_text())
        found[data["run"]].append(data)
    return found


def share(part: float, of: int) -> Figure:
    """``part`` of ``of`` independent samples, with Wilson's interval."""
    centre = (part + Z * Z / (2 * of)) / (1 + Z * Z / of)
    half = Z * math.sqrt(part * (1 - part) / of + Z * Z / (4 * of * of)) / (1 + Z * Z / of)
    return part, centre - half, centre + half


def balanced(level: str) -> Callable[[Run], Figure]:
    """Balanced accuracy: the mean of two recalls, whose margins add up in squares (Newcombe)."""

    def pick(run: Run) -> Figure:
        found = run["safety"][level]
        counts = (
            (found["recall_unsafe"], found["unsafe"]),
            (found["recall_safe"], found["n"] - found["unsafe"]),
        )
        recalls = [share(recall, of) for recall, of in counts if recall is not None]
        middle = found["balanced_accuracy"]
        below = math.hypot(*((value - low) / len(recalls) for value, low, _ in recalls))
        above = math.hypot(*((high - value) / len(recalls) for value, _, high in recalls))
        return middle, middle - below, middle + above

    return pick


def called(level: str) -> Callable[[Run], Figure]:
    return lambda run: share(run["safety"][level]["called_unsafe"], run["safety"][level]["n"])


def recall(level: str, label: str) -> Callable[[Run], Figure]:
    def pick(run: Run) -> Figure:
        found = run["safety"][level]
        of = found["unsafe"] if label == "unsafe" else found["n"] - found["unsafe"]
        return share(found[f"recall_{label}"], of)

    return pick


def auc(run: Run) -> Figure:
    """The area under the ROC curve on random policies, with Hanley and McNeil's interval (1982, eq. 2)."""
    found = run["safety"]["random"]
    area, unsafe = found["auc"], found["unsafe"]
    safe = found["n"] - unsafe
    above, below = area / (2 - area), 2 * area * area / (1 + area)
    spread = (unsafe - 1) * (above - area * area) + (safe - 1) * (below - area * area)
    half = Z * math.sqrt((area * (1 - area) + spread) / (unsafe * safe))
    return area, area - half, area + half


def ranked(by: str) -> Callable[[Run], Figure]:
    return lambda run: share(run["reading"][by], 2 * run["reading"]["fours"])


def general(figure: str, of: str) -> Callable[[Run], Figure]:
    return lambda run: share(run["general"][figure], run["general"][of])


def shown(figures: list[Figure]) -> str:
    """In per cent: of one run, with its interval over samples; of several, the mean and the extremes."""
    values = [100 * value for value, _, _ in figures]
    if len(figures) > 1:
        return f"{mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
    _, low, high = figures[0]
    return f"{values[0]:.1f} [{100 * low:.0f}, {100 * high:.0f}]"


def apart(runs: Runs) -> str:
    """GRPO without one of its parts, beside the warm-up that all begin with, seed by seed."""
    columns: dict[str, Callable[[Run], Figure]] = {
        "balanced accuracy": balanced("random"),
        "AUC": auc,
        "tells policies apart": ranked("by_policy"),
        "tells pictures apart": ranked("by_picture"),
    }
    rows = [["seed", "what is raised", "on", *columns], ["---:", "---", "---", *["---:"] * len(columns)]]
    for seed in sorted({run["seed"] for name in APART for run in runs.get(name, [])}):
        for name, (what, on) in APART.items():
            for run in runs.get(name, []):
                if run["seed"] == seed:
                    picks = list(columns.values())[: None if "reading" in run else 2]
                    cells = [shown([pick(run)]) for pick in picks]
                    rows.append([str(seed), what, on, *cells, *["–"] * (len(columns) - len(cells))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table(runs: Runs, names: tuple[str, ...], columns: dict[str, Callable[[Run], Figure]]) -> str:
    rows = [["model", "seeds", *columns], ["---", "---:", *["---:"] * len(columns)]]
    for name in names:
        if name in runs:
            cells = [shown([pick(run) for run in runs[name]]) for pick in columns.values()]
            rows.append([NAMES[name], str(len(runs[name])), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def gains(runs: Runs) -> str:
    """What GRPO added to the warm-up it started from, seed by seed, on the same samples."""
    head = ["model", "seed", "before", "after", "gain", "recalls before", "recalls after", "AUC"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    pick = balanced("random")
    for name, start in (
        ("warm-grpo", "warm"),
        ("warm-grpo-pairs", "warm"),
        ("warm-grpo-crossed", "warm"),
        ("recap-warm-grpo", "recap-warm"),
        ("warm-assess", "warm"),
        ("long-warm-grpo", "long-warm"),
        ("long-warm-assess", "long-warm"),
    ):
        before = {run["seed"]: run for run in runs.get(start, [])}
        for run in runs.get(name, []):
            if run["seed"] in before:
                old, new = pick(before[run["seed"]]), pick(run)
                # as if the samples were different ones: they are the same, so this is wider than need be
                half = (
                    math.hypot(new[0] - new[1], old[2] - old[0]),
                    math.hypot(new[2] - new[0], old[0] - old[1]),
                )
                gain = new[0] - old[0]
                gained = f"{100 * gain:+.1f} [{100 * (gain - half[0]):+.0f}, {100 * (gain + half[1]):+.0f}]"
                said = [shown([old]), shown([new]), gained]
                judged = [one["safety"]["random"] for one in (before[run["seed"]], run)]
                recalls = [
                    f"{100 * one['recall_unsafe']:.0f} unsafe, {100 * one['recall_safe']:.0f} safe"
                    for one in judged
                ]
                areas = [one.get("auc") for one in judged]
                auc = " to ".join(f"{100 * area:.1f}" for area in areas) if all(areas) else "–"
                rows.append([NAMES[name], str(run["seed"]), *said, *recalls, auc])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _stage(stage: dict[str, Any]) -> str:
    """One stage of a chain, and what it took."""
    form = f" ({stage['form']})" if stage.get("form") else ""
    took = f"{stage['minutes']:.1f} min"
    if "cpu_minutes" in stage:
        took = f"{stage['cpu_minutes']:.1f} min of one core"
    size = f"{stage['rows']} rows, {stage['updates']} updates, lr {stage['lr']:g}"
    return f"{stage['stage']}{form} on {stage['on']}, {size}: {took}"


def tables(runs: Runs) -> dict[str, str]:
    """Every table of the page, by name."""
    score = {level[-2:].upper(): balanced(level) for level in LEVELS}
    unsafe = {level[-2:].upper(): called(level) for level in LEVELS}
    random: dict[str, Callable[[Run], Figure]] = {
        "random policies": balanced("random"),
        "held-out family": balanced("held_out"),
        "both of an edit pair": lambda run: share(run["safety"]["pairs_both_right"], run["safety"]["pairs"]),
    }
    recalls = {"recall of unsafe": recall("random", "unsafe"), "recall of safe": recall("random", "safe")}
    abilities: dict[str, Callable[[Run], Figure]] = {
        "describes (F1)": general("describe_neutral_f1", "neutral"),
        "names the sensitive": general("describe_sensitive_recall", "sensitive"),
        "list questions": general("questions", "n"),
        "other format": general("other_format", "n"),
    }
    minutes = []
    for name in sorted(runs):
        for run in runs[name]:
            stages = "; ".join(map(_stage, run["stages"]))
            minutes.append(f"| {name} | {run['seed']} | {stages or '-'} |")
    stages = ("base", *STAGES, *_long(STAGES))
    return {
        "gains": gains(runs),
        "apart": apart(runs),
        "one-policy": table(
            runs,
            (*ONE_POLICY, *_long(ONE_POLICY)),
            score | {"random policies": random["random policies"]},
        ),
        "one-policy-called": table(runs, (*ONE_POLICY, *_long(ONE_POLICY)), unsafe),
        "stages": table(runs, stages, random | recalls),
        "stages-levels": table(runs, stages, score),
        "pairs": table(runs, (*PAIRS, *_long(PAIRS)), random),
        "general": table(runs, ("base", "recap", *GENERAL, *_long(GENERAL)), abilities),
        "runs": "\n".join(["| run | seed | stages |", "|---|---:|---|", *minutes]),
    }


def plot(runs: Runs) -> None:
    """Balanced accuracy under each level, after training on one."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    single = ONE_POLICY if "assess-l1" in runs else _long(ONE_POLICY)
    for axis, names, title in (
        (axes[0], single, "trained on one policy"),
        (axes[1], ("base", *STAGES, *_long(STAGES)), "stages, random policies"),
    ):
        for name in names:
            if name in runs:
                line = [
                    mean([run["safety"][level]["balanced_accuracy"] for run in runs[name]])
                    for level in LEVELS
                ]
                style = ":" if name.endswith(("base", "warm")) else "--" if "assess" in name else "-"
                axis.plot(
                    [level[-2:].upper() for level in LEVELS], line, style, marker="o", ms=3, label=NAMES[name]
                )
        axis.axhline(0.5, color="grey", lw=0.6)
        axis.set_title(title, fontsize=10)
        axis.set_ylim(0, 1.02)
        axis.legend(fontsize=5.5)
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
