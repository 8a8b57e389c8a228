#!/usr/bin/env python
"""Write pico's model card from what was measured:  python train/pico/card.py REPORT [--run runs/pico]

``card.md`` holds the words. ``REPORT`` is what ``evaluate.py --json`` wrote; ``--run`` is the folder of the
training run, whose logs say how long it took.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CARD = HERE.parents[1] / "src" / "policyguard" / "models" / "pico" / "README.md"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers between 0 and 1 get three digits."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)


def levels(report: dict[str, Any]) -> str:
    found = report["levels"]
    rows = []
    for name, one in found.items():
        f1 = (one["f1 unsafe"], one["macro f1"]) if one["unsafe share"] else ("-", "-")
        rows.append([f"pictosafe/{name}", one["unsafe share"], one["accuracy"], *f1])
    mean = sum(found[f"l{n}"]["macro f1"] for n in range(2, 6)) / 4
    head = ["policy", "unsafe share", "accuracy", "F1 unsafe", "macro F1"]
    return f"{table(head, rows)}\n\nL2-L5 mean macro F1: **{mean:.3f}**."


def suites(report: dict[str, Any]) -> str:
    columns = ("balanced", "recall", "specificity", "undecided", "both right")
    head = ["set", "balanced accuracy", "recall of unsafe", "recall of safe", "undecided", "both right"]
    return table(head, ([name, *map(one.get, columns)] for name, one in report["suites"].items()))


def styles(report: dict[str, Any]) -> str:
    head = ["drawn in, at", "balanced accuracy", "undecided"]
    return table(head, ([n, one["balanced"], one["undecided"]] for n, one in report["styles"].items()))


def outside(report: dict[str, Any]) -> str:
    found = report["outside"]
    rows = [[source, share] for source, share in found.items()]
    kinds = {"synthetic": "synthetic", "glyphs": "glyphs", "drawings": "drawings"}
    for kind in (*kinds, "photographs held out"):
        shares = [
            s
            for source, s in found.items()
            if kinds.get(source.partition("/")[0], "photographs held out") == kind
        ]
        if shares:
            rows.append([f"**all {kind}**", f"**{sum(shares) / len(shares):.3f}**"])
    return table(["source", "undecided"], rows)


def lengths(report: dict[str, Any]) -> str:
    head = ["items", "balanced accuracy", "recall of unsafe", "recall of safe", "undecided"]
    columns = ("balanced", "recall", "specificity", "undecided")
    return table(head, ([name, *map(one.get, columns)] for name, one in report["lengths"].items()))


def attacks(report: dict[str, Any]) -> str:
    head = ["what is done", "right", "violations missed", "undecided"]
    columns = ("right", "missed", "undecided")
    return table(head, ([name, *map(one.get, columns)] for name, one in report["attacks"].items()))


def training(run: Path) -> str:
    """Steps and minutes of every stage that was run, from the last line of its log."""
    rows = []
    for stage in ("vision", "text", "joint"):
        if json.loads((run / "schedule.json").read_text())["budgets"][stage] == "0":
            continue
        last = json.loads((run / f"{stage}.jsonl").read_text().splitlines()[-1])
        if not last.get("done"):
            raise SystemExit(f"{run / stage}.jsonl ends before the stage was done")
        rows.append([stage, last["steps"], f"{last['minutes']:.0f}"])
    return table(["stage", "steps", "minutes of its own"], rows)


def start(schedule: dict[str, Any]) -> dict[str, str]:
    """The command of the run, with its budgets, and the weights that it began with."""
    command = "python train/pico/train.py --out runs/pico"
    if "from" not in schedule:
        return {"command": command, "start": "random weights"}
    budgets = " ".join(f"--{stage} {budget}" for stage, budget in schedule["budgets"].items())
    digest = schedule["from"]["sha256"]
    weights = f"the weights of an earlier release (SHA-256 of its `model.safetensors`: `{digest}`)"
    return {"command": f"{command} --from MODEL {budgets}", "start": weights}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("--run", type=Path, default=Path("runs/pico"))
    parser.add_argument("--note", default="", help="what else to say of this run")
    parser.add_argument("--out", type=Path, default=CARD)
    arguments = parser.parse_args()
    report = json.loads(arguments.report.read_text())
    text = (HERE / "card.md").read_text()
    schedule = json.loads((arguments.run / "schedule.json").read_text())
    parts = start(schedule) | {
        "count": str(report["count"]),
        "torch": report["torch"],
        "seed": str(schedule["seed"]),
        "training": "\n\n".join(part for part in (training(arguments.run), arguments.note) if part),
        "levels": levels(report),
        "suites": suites(report),
        "styles": styles(report),
        "lengths": lengths(report),
        "attacked": str(report["count"] // 4),
        "attacks": attacks(report),
        "explanations": table(["", ""], report["explanations"].items()),
        "outside": outside(report),
    }
    for name, part in parts.items():
        text = text.replace(f"{{{name}}}", part)
    arguments.out.write_text(text)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
