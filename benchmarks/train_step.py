"""Steps of training at the geometry of real models, with random weights: memory and tokens per second.

    PYTHONPATH=tests python benchmarks/train_step.py                 # Qwen2.5-VL-3B and 7B, on a GPU
    PYTHONPATH=tests python benchmarks/train_step.py 7b/grpo/lora    # one case: shape/stage/mode
    PYTHONPATH=tests python benchmarks/train_step.py --small         # a toy, on the CPU
    PYTHONPATH=tests python benchmarks/train_step.py --loading       # what reading weights takes, on the CPU

Each case is a run like any other, in a process of its own: three updates of 8 rows, or of 16 answers in
groups of 8, in bf16 with gradient checkpointing (``--small``: float32 without). It prints the memory that the
dry run estimates and what was taken (of the GPU: what torch's allocator gave out; on the CPU: all of the
process), and the seconds of the second and third update with tokens per second, pictures included. One that
does not fit, as full fine-tuning at 7B on one GPU, is printed with the reason; any other failure ends with 1.
It takes 35 GB of disk at 7B.

``--loading`` builds a Qwen3-VL of 100 M parameters, 200 MB in bfloat16, and reads it as a run does: in one
process, and in two that share weights out by FSDP2. Peak and rest are the resident memory that was added,
over the size of the weights in the numbers they are trained in: bfloat16 with LoRA, float32 fully.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from models import build_100m
from shapes import SHAPES

from policyguard.errors import ConfigurationError
from policyguard.strict.files import sha256_of
from policyguard.train.command import dry_run, start
from policyguard.train.models import load_weights
from policyguard.train.recipe import Tune, load_recipe
from policyguard.train.rows import open_frame
from support.training import caption_rows, environment, label_rows, recipe, write_recipe

ROOT = Path(__file__).parents[1]
STAGES, MODES = ("sft", "grpo"), ("lora", "full")
UPDATES, SIDE = 3, 448


def case(name: str, folder: Path, *, small: bool) -> dict[str, Any]:
    """Run ``SHAPE/STAGE/MODE``; its model is built in ``folder`` unless it is there."""
    import torch

    shape, stage, mode = name.split("/")
    base, work = folder / shape, Path(tempfile.mkdtemp(dir=folder))
    if not (base / "config.json").exists():
        SHAPES[shape].build(base, device="cpu" if small else "cuda", dtype="float32" if small else "bfloat16")
    values = settings(stage, mode, base, work, small=small)
    loaded = load_recipe(write_recipe(work / "run.yaml", values))
    found: dict[str, Any] = {"case": name}
    try:
        (note,) = [line for line in dry_run(loaded) if line.startswith("estimate")]
    except ConfigurationError as error:
        if "too little memory" not in error.message:
            raise
        return found | {"refused": error.message}
    seconds = timed()
    if not small:
        torch.cuda.reset_peak_memory_stats()
    start(loaded)
    taken = peak() if small else torch.cuda.max_memory_allocated()
    answers = values["optim"]["batch"] * values["optim"]["accumulate"]
    tokens = int(re.findall(r"rows of about (\d+) tokens", note)[0])
    update = statistics.mean(seconds[1:])
    return found | {
        "device": "CPU" if small else torch.cuda.get_device_name(),
        "estimated": re.findall(r"memory per device about ([\d.]+ \w+)", note)[0],
        "taken": gib(taken),
        "seconds per update": round(update, 2),
        "tokens per second": round(answers * tokens / update, 1),
    }


def settings(stage: str, mode: str, base: Path, work: Path, *, small: bool) -> dict[str, Any]:
    rows = (caption_rows if stage == "sft" else label_rows)(work / "data", count=24)
    if not small:
        enlarge(rows)
    values = recipe(stage, base, rows, work / "out", tune={"mode": mode, "rank": 32, "alpha": 64})
    values["optim"] |= {"batch": 4, "accumulate": 2, "lr": 1e-5, "max_steps": UPDATES}
    values["data"]["held_out"] = 0.0
    values["run"]["save_every"] = 100
    if not small:
        values["run"] |= {"device": "auto", "precision": "bf16", "gradient_checkpointing": True}
    if stage == "grpo":
        values |= {"rollout": {"group": 8, "max_tokens": 8 if small else 128}, "watch": {"stop": False}}
        values["optim"] |= {"batch": 8}
    return values


def enlarge(rows: Path) -> None:
    """Pictures as photographs are, with some 1,000 patches or more."""
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for line in lines:
        path = rows.parent / line["image"]
        open_frame(path).resize((SIDE, SIDE)).save(path)
        line["sha256"] = sha256_of(path)
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))


def timed() -> list[float]:
    """Seconds of each update that is made from now on."""
    import torch
    from transformers import TrainerCallback, trainer

    seconds: list[float] = []

    class Timer(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            before = self.at
            seconds.append(self.now() - before)

        def now(self) -> float:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.at = time.perf_counter()
            return self.at

    trainer.DEFAULT_CALLBACKS = [one for one in trainer.DEFAULT_CALLBACKS if one.__name__ != "Timer"]
    trainer.DEFAULT_CALLBACKS.append(Timer)
    return seconds


def peak() -> int:
    """Bytes of this process at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def load(folder: Path, mode: str) -> dict[str, Any]:
    """Read the weights in ``folder`` as a run of ``mode`` does. In a fresh process, whose peak is of that."""
    import torch
    from transformers import AutoModelForImageTextToText

    if shared := "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    _ = AutoModelForImageTextToText  # imported before, as the trainer would have
    before = psutil.Process().memory_info().rss
    model = load_weights(folder, Tune(mode="lora" if mode == "lora" else "full"), precision="bf16")
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    rest = psutil.Process().memory_info().rss
    found = {
        "mode": mode,
        "rank": int(os.environ.get("RANK", "0")) if shared else None,
        "weights": gib(size),
        "peak": round((peak() - before) / size, 2),
        "rest": round((rest - before) / size, 2),
    }
    if shared:
        torch.distributed.destroy_process_group()
    return found


def loading(folder: Path) -> None:
    import torch

    torch.set_default_dtype(torch.bfloat16)
    base = build_100m(folder / "base")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    accelerate += ["--config_file", str(ROOT / "train/accelerate/fsdp2.yaml"), "--mixed_precision", "no"]
    for mode in MODES:
        this = [__file__, "--load", mode, str(base)]
        for command in ([sys.executable, *this], [*accelerate, *this]):
            done = subprocess.run(command, env=paths(), stdout=subprocess.PIPE, text=True, check=True)
            print(done.stdout.strip(), flush=True)


def gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB"


def paths() -> dict[str, str]:
    known = environment()
    return known | {"PYTHONPATH": os.pathsep.join([known["PYTHONPATH"], str(ROOT / "tests")])}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="SHAPE/STAGE/MODE", help="default: all of 3b and 7b")
    parser.add_argument("--small", action="store_true", help="a toy, on the CPU")
    parser.add_argument("--loading", action="store_true", help="measure what reading weights takes")
    parser.add_argument("--case", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=2, metavar=("MODE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.load:
        print(json.dumps(load(Path(options.load[1]), options.load[0])))
        return 0
    if options.case:
        print(json.dumps(case(options.case[0], Path(options.case[1]), small=options.small)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        if options.loading:
            loading(Path(name))
            return 0
        shapes = ("tiny",) if options.small else ("3b", "7b")
        names = [f"{shape}/{stage}/{mode}" for shape in shapes for stage in STAGES for mode in MODES]
        failed = 0
        for one in options.cases or names:
            command = [sys.executable, __file__, *(["--small"] if options.small else []), "--case", one, name]
            done = subprocess.run(command, env=paths(), capture_output=True, text=True, check=False)
            failed += done.returncode != 0
            print(done.stdout.splitlines()[-1] if done.returncode == 0 else f"{one}: {done.stderr[-3000:]}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
