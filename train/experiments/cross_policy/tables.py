#!/usr/bin/env python
"""Write the tables of docs/experiments.md, and its plot, from ``results/``:
python train/experiments/cross_policy/tables.py

The page's own words stay; what stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` is written anew.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

ROOT = Path(__file__).parents[3]
PAGE, PLOT = ROOT / "docs" / "experiments.md", ROOT / "docs" / "experiments.png"
LEVELS = tuple(f"pictosafe/l{n}" for n in range(1, 6))
Z = 1.96
"""Of a 95% interval."""

ONE_POLICY = ("warm", "assess-l1", "grpo-l1", "assess-l4", "grpo-l4", "assess-l5", "grpo-l5")
STAGES = ("plain-warm", "warm", "recap-warm", "recap-warm-grpo", "warm-grpo", "warm-assess")
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
    "exact-4-again": ("expected reward, 4 others drawn", "plain rows"),
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

GAINS = {
    "warm-grpo": "warm",
    "warm-grpo-pairs": "warm",
    "warm-grpo-crossed": "warm",
    "recap-warm-grpo": "recap-warm",
    "warm-assess": "warm",
}
"""Runs, and what they began from."""
DRAWN = ("warm-grpo", "exact-4", "exact-4-again")
"""GRPO with 4 answers to a prompt, three times from the same start: they differ in what was drawn."""
CHANGES: tuple[tuple[str, str | tuple[str, ...], str | tuple[str, ...]], ...] = (
    ("GRPO by the trainer, over the warm-up", "warm", "warm-grpo"),
    ("the mean of three GRPO runs, over the warm-up", "warm", DRAWN),
    ("GRPO by `exact.py`, over the trainer's", "warm-grpo", "exact-4"),
    ("4 other answers drawn", "exact-4", "exact-4-again"),
    ("16 answers drawn, not 4", "exact-4", "exact-16"),
    ("none drawn, not 4", "exact-4", "exact-scaled"),
    ("none drawn, over the mean of three GRPO runs", DRAWN, "exact-scaled"),
    ("not scaled, none drawn", "exact-scaled", "exact-expected"),
    ("the logarithm, not the expected reward", "exact-scaled", "exact-log"),
    ("five times the prompts, expected reward", "exact-scaled", "exact-scaled-more"),
    ("five times the prompts, logarithm", "exact-log", "exact-log-more"),
    ("none drawn, over the warm-up", "warm", "exact-scaled"),
    ("the logarithm, over the warm-up", "warm", "exact-log"),
    ("crossed rows, 4 answers drawn", "exact-4", "exact-4-crossed"),
    ("crossed rows, none drawn", "exact-scaled", "exact-scaled-crossed"),
    ("crossed rows, logarithm", "exact-log", "exact-log-crossed"),
    ("crossed rows, by the trainer", "warm-grpo", "warm-grpo-crossed"),
    ("edit pairs, by the trainer", "warm-grpo", "warm-grpo-pairs"),
    ("plain captions before the warm-up", "warm", "plain-warm"),
    ("recaptions before the warm-up", "warm", "recap-warm"),
    ("recaptions, not plain captions", "plain-warm", "recap-warm"),
    ("recaptions before warm-up and GRPO", "warm-grpo", "recap-warm-grpo"),
    ("verdict SFT, over the warm-up", "warm", "warm-assess"),
    ("verdict SFT, over GRPO by the trainer", "warm-grpo", "warm-assess"),
    ("verdict SFT on L1, over that on many policies", "warm-assess", "assess-l1"),
    ("verdict SFT on L4, over that on many policies", "warm-assess", "assess-l4"),
    ("verdict SFT on L5, over that on many policies", "warm-assess", "assess-l5"),
)
"""What is compared: from which run to which, or from and to the mean of several."""
STUDENT = {2: 12.706, 3: 4.303}
"""97.5% points of Student's t, by the number of seeds."""

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


def _right(run: Run) -> tuple[list[float], list[float]]:
    """Of every unsafe and every safe sample, whether it was judged right."""
    above, below = _chances(run)
    return [float(p >= 0.5) for p in above], [float(p < 0.5) for p in below]


def _placed(run: Run) -> tuple[list[float], list[float]]:
    """Of every unsafe sample the share of safe ones that P(unsafe) puts below it, of every safe one the share
    of unsafe ones above it."""
    above, below = _chances(run)
    up, down = sorted(above), sorted(below)

    def under(p: float, ranked: list[float]) -> float:
        return (bisect_left(ranked, p) + bisect_right(ranked, p)) / (2 * len(ranked))

    return [under(p, down) for p in above], [1 - under(p, up) for p in below]


def _chances(run: Run) -> tuple[list[float], list[float]]:
    """P(unsafe) of the unsafe and of the safe samples under random policies."""
    said = run["safety"]["random"]["p_unsafe"]
    return list(map(float, said["unsafe"].split())), list(map(float, said["safe"].split()))


def gain(name: str, old: Run, new: Run) -> tuple[float, float | None]:
    """What ``new`` has over ``old`` under random policies, and half its 95% interval over samples, which are
    the same for both (for the AUC by DeLong et al. 1988); none where a result does not keep them."""
    judged = [run["safety"]["random"] for run in (old, new)]
    value = judged[1][name] - judged[0][name]
    if any("p_unsafe" not in one for one in judged):
        return value, None
    parts = _placed if name == "auc" else _right
    moved = [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(parts(old), parts(new), strict=True)]
    spread = math.sqrt(sum(variance(part) / len(part) for part in moved))
    return value, Z * spread * (1 if name == "auc" else 0.5)


def _gained(name: str, old: Run, new: Run) -> str:
    value, half = gain(name, old, new)
    if half is None:
        return f"{100 * value:+.1f}"
    return f"{100 * value:+.1f} [{100 * (value - half):+.1f}, {100 * (value + half):+.1f}]"


def line_moved(run: Run) -> float:
    """Balanced accuracy with no training but of the line: each half of the samples is judged by the threshold
    that is best on the other half."""
    above, below = _chances(run)
    found = []
    for half in (0, 1):
        up, down = sorted(above[1 - half :: 2]), sorted(below[1 - half :: 2])
        line = max(
            up + down,
            key=lambda t: bisect_left(down, t) / len(down) - bisect_left(up, t) / len(up),
        )
        found += [mean(p >= line for p in above[half::2]) / 2 + mean(p < line for p in below[half::2]) / 2]
    return mean(found)


def gains(runs: Runs) -> str:
    """What GRPO added to the warm-up it started from, seed by seed, on the same samples; and what moving the
    warm-up's threshold gives."""
    head = ["model", "seed", "balanced accuracy", "gain", "line moved", "recalls", "AUC", "gain"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, start in GAINS.items():
        before = {run["seed"]: run for run in runs.get(start, [])}
        for run in runs.get(name, []):
            if run["seed"] not in before:
                continue
            old = before[run["seed"]]
            judged = [one["safety"]["random"] for one in (old, run)]
            accuracy, areas = (
                [" to ".join(f"{100 * one[figure]:.1f}" for one in judged), _gained(figure, old, run)]
                for figure in ("balanced_accuracy", "auc")
            )
            moved = f"{100 * line_moved(old):.1f}" if "p_unsafe" in judged[0] else "–"
            recalls = ", ".join(
                " to ".join(f"{100 * one[f'recall_{label}']:.0f}" for one in judged) + f" {label}"
                for label in ("unsafe", "safe")
            )
            rows.append([NAMES[name], str(run["seed"]), *accuracy, moved, recalls, *areas])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def changes(runs: Runs) -> str:
    """One thing changed at a time: the mean over seeds of what it adds, and what it adds at each."""
    rows = [
        ["what changes", "seeds", "balanced accuracy", "at each seed", "AUC", "at each seed"],
        ["---", *["---:"] * 5],
    ]
    at = {name: {run["seed"]: run for run in found} for name, found in runs.items()}
    for what, *ends in CHANGES:
        old, new = ([one] if isinstance(one, str) else one for one in ends)
        seeds = [seed for seed in at.get(new[0], {}) if all(seed in at.get(one, {}) for one in (*old, *new))]
        if not seeds:
            continue
        cells = []
        for figure in ("balanced_accuracy", "auc"):
            pairs = [[(at[a][seed], at[b][seed]) for a in old for b in new] for seed in seeds]
            values = [100 * mean(gain(figure, *pair)[0] for pair in several) for several in pairs]
            said = [
                _gained(figure, *several[0]) if len(several) == 1 else f"{value:+.1f}"
                for several, value in zip(pairs, values, strict=True)
            ]
            cells += [_over_seeds(values), ", ".join(said)]
        rows.append([what, ", ".join(map(str, seeds)), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _over_seeds(values: list[float]) -> str:
    """Their mean, with Student's 95% interval."""
    if len(values) < 2:
        return "–"
    half = STUDENT[len(values)] * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):+.1f} [{mean(values) - half:+.1f}, {mean(values) + half:+.1f}]"


def _stage(seeds: Sequence[dict[str, Any]]) -> str:
    """One stage of a chain at several seeds, and what it took on average."""
    stage = seeds[0]
    form = f" ({stage['form']})" if stage.get("form") else ""
    took = f"{mean(one['minutes'] for one in seeds):.1f} min"
    if all("cpu_minutes" in one for one in seeds):
        took = f"{mean(one['cpu_minutes'] for one in seeds):.1f} min of one core"
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
        seeds = ", ".join(str(run["seed"]) for run in runs[name])
        said = "; ".join(map(_stage, zip(*(run["stages"] for run in runs[name]), strict=True)))
        minutes.append(f"| {name} | {seeds} | {said or '–'} |")
    stages = ("base", *STAGES, *_long(STAGES))
    return {
        "gains": gains(runs),
        "apart": apart(runs),
        "changes": changes(runs),
        "one-policy": table(
            runs,
            (*ONE_POLICY, *_long(ONE_POLICY)),
            score | {"random policies": random["random policies"]},
        ),
        "one-policy-called": table(runs, (*ONE_POLICY, *_long(ONE_POLICY)), unsafe),
        "stages": table(runs, stages, random | recalls),
        "stages-levels": table(runs, stages, score),
        "general": table(runs, ("base", "recap", *GENERAL, *_long(GENERAL)), abilities),
        "runs": "\n".join(["| run | seeds | stages |", "| --- | --- | --- |", *minutes]),
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
