#!/usr/bin/env python
"""Train pico from nothing on two CPU cores:  python train/pico/train.py --out runs/pico

Vision and text learn at the same time, one core each; when vision is done, text takes both cores; then
the joint stage does. An interrupted run goes on where it was when started again. ``--vision``, ``--text`` and
``--joint`` are budgets in minutes of the stage's own time ("9m") or in steps ("600"); steps give the same run
again, minutes what the machine has time for. ``--quick`` is a smoke run of a few steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

STAGES = ("vision", "text", "joint")
DEFAULT = {"vision": "3000", "text": "4600", "joint": "800"}
GOING_ON = {"vision": "1500", "text": "0", "joint": "200"}
QUICK = {"vision": "3", "text": "3", "joint": "2"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=2, help="default 2")
    parser.add_argument(
        "--from", type=Path, dest="start", metavar="MODEL", help="go on from this model's weights"
    )
    parser.add_argument("--stage", choices=STAGES, help="one stage only (used by the run itself)")
    for stage in STAGES:
        parser.add_argument(
            f"--{stage}",
            metavar="BUDGET",
            help=f"minutes or steps; default {DEFAULT[stage]}, with --from {GOING_ON[stage]}",
        )
    return parser.parse_args()


def _run_stage(stage: str, budget: str, arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(arguments.cores if stage == "joint" else 1)
    import stages
    from export import export, verify
    from loop import Budget
    from tokens import build_tokenizer

    minutes = budget.endswith("m")
    spent = Budget(minutes=float(budget[:-1])) if minutes else Budget(steps=int(budget))
    settings = stages.Settings(
        out=arguments.out,
        seed=arguments.seed,
        compile=not arguments.quick,
        cores=arguments.cores,
        start=arguments.start,
    )
    work = stages.Workshop(settings)
    if stage != "joint":
        getattr(stages, stage)(work, spent)
        return
    model = stages.joint(work, spent)
    export(model, build_tokenizer(), arguments.out / "model")
    print("largest difference to the stock forward pass:", verify(arguments.out / "model"))


def main() -> None:
    arguments = _arguments()
    default = QUICK if arguments.quick else GOING_ON if arguments.start else DEFAULT
    budgets = {stage: getattr(arguments, stage) or default[stage] for stage in STAGES}
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.stage:
        _run_stage(arguments.stage, budgets[arguments.stage], arguments)
        return
    schedule = {"seed": arguments.seed, "quick": arguments.quick, "budgets": budgets}
    if arguments.start:
        weights = (arguments.start / "model.safetensors").read_bytes()
        schedule["from"] = {"sha256": hashlib.sha256(weights).hexdigest()}
    (arguments.out / "schedule.json").write_text(json.dumps(schedule, indent=2) + "\n")
    command = [sys.executable, __file__, "--out", str(arguments.out), "--seed", str(arguments.seed)]
    command += (
        ["--cores", str(arguments.cores)]
        + ["--quick"] * arguments.quick
        + (["--from", str(arguments.start)] if arguments.start else [])
        + [w for s in STAGES for w in (f"--{s}", budgets[s])]
    )
    start = time.monotonic()
    alone = dict(os.environ, OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    taught = [stage for stage in ("vision", "text") if budgets[stage] != "0"]
    both = [subprocess.Popen([*command, "--stage", stage], env=alone) for stage in taught]
    if sum(process.wait() != 0 for process in both):
        sys.exit("a stage failed; start the same command again to go on")
    subprocess.run(
        [*command, "--stage", "joint"], env=dict(alone, OMP_NUM_THREADS=str(arguments.cores)), check=True
    )
    schedule["minutes"] = round((time.monotonic() - start) / 60, 1)
    (arguments.out / "schedule.json").write_text(json.dumps(schedule, indent=2) + "\n")
    print(f"done in {schedule['minutes']} minutes: {arguments.out / 'model'}")


if __name__ == "__main__":
    main()
