"""Whether `policyguard calibrate` keeps what it promises: thresholds from labelled scenes, on fresh ones.

    python benchmarks/calibrate.py --judged /tmp/scores.sqlite

pico judges a pool of PictoSafe scenes under pictosafe/l4 once. Each seed then draws labelled scenes from the
pool, calibrates on them for recall 0.98, and is held against all others, which it has not seen. A seed counts
as kept where the recall on fresh scenes lies within the interval that the report states, and as reached where
it is at least 0.98 there. 3,000 scenes take pico some minutes; with --judged, only the first time.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from policyguard import Guard
from policyguard.authoring.calibrate import calibrate_guard, is_held
from policyguard.authoring.labels import Labels, load_labels
from policyguard.authoring.thresholds import Target
from policyguard.outcomes import Outcome
from policyguard.pictosafe.render import STYLES, Renderer
from policyguard.pictosafe.rules import PictoPolicy, violating
from policyguard.pictosafe.scene import draw_scene
from policyguard.policy import load_policy


def draw(folder: Path, count: int, policy: str) -> Path:
    """``count`` scenes in ``folder``, in all drawing styles, and their labels."""
    symbols = PictoPolicy.from_resolved(load_policy(policy).resolve())
    rng, renderers = Random(7), [Renderer(style) for style in STYLES]
    labels = folder / "labels.csv"
    with labels.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("image", "label", "rule"))
        for number in range(count):
            scene, name = draw_scene(rng), f"{number:04}.png"
            renderers[number % len(renderers)].draw(scene).save(folder / name)
            rules = dict.fromkeys(rule for rule, _ in violating(symbols, scene))
            rows.writerow((name, "unsafe" if rules else "safe", ";".join(rules)))
    return labels


def subset(labels: Labels, places: Sequence[int]) -> Labels:
    return replace(labels, all=tuple(labels.all[place] for place in places))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--sample", type=int, default=700, help="labelled scenes for each seed")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--policy", default="pictosafe/l4")
    parser.add_argument("--target", default="recall=0.98")
    parser.add_argument("--folds", type=int)
    parser.add_argument("--judged", help="keep pico's scores in this file")
    options = parser.parse_args()
    target, policy = Target.parse(options.target), load_policy(options.policy)
    with tempfile.TemporaryDirectory() as folder:
        labels = load_labels(draw(Path(folder), options.scenes, options.policy), policy.resolve())
        guard = Guard(policy, model="pico", cache=options.judged or "memory")
        kept = above = reached = 0
        for seed in range(options.seeds):
            order = list(range(len(labels.all)))
            Random(seed).shuffle(order)
            report = calibrate_guard(
                policy,
                subset(labels, order[: options.sample]),
                target,
                backend=guard.backend,
                folds=options.folds,
                seed=seed,
            )
            fresh = subset(labels, order[options.sample :]).all
            verdicts = guard.with_policy(report.policy).check_many(label.image for label in fresh)
            found = [(label.unsafe, verdict) for label, verdict in zip(fresh, verdicts, strict=True)]
            if target.kind == "precision":
                base = [unsafe for unsafe, verdict in found if verdict.outcome is Outcome.VIOLATES]
            else:
                base = [v.outcome is Outcome.VIOLATES or is_held(v) for unsafe, v in found if unsafe]
            value, stated = sum(base) / len(base), report.promised
            within = (stated.low or 0.0) <= value <= (stated.high or 1.0)
            kept, reached = kept + within, reached + (value >= target.value)
            above += value >= (stated.low or 0.0)
            line = {
                "seed": seed,
                "threshold": report.policy.threshold,
                "stated": [round(x or 0.0, 4) for x in stated],
                "fresh": round(value, 4),
                "within": within,
                "calibration_error": [round(error, 4) for error in report.errors],
            }
            print(json.dumps(line), flush=True)
    print(f"of {options.seeds} seeds, {kept} are within the stated interval on fresh scenes,")
    print(f"{above} are not below it, and {reached} reach {options.target}")


if __name__ == "__main__":
    main()
