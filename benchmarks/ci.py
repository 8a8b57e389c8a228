"""``policyguard check`` over many images, on a backend that takes 50 ms and no processor.

Three questions: how much faster 16 workers are than one (goal: 14 times), whether memory depends on the
number of images (goal: the same at 1,000 and 100,000), and what share of the time is ours when the model is
the bottleneck (goal: at most 5%). One worker would need more than eight minutes for 10,000 images, so it gets
1,000 of them; both sides are compared by images per second. Memory is measured on a backend that answers at
once, over names that are links to a few files, each size in a process of its own.

    python benchmarks/ci.py            # all three
    python benchmarks/ci.py --quick    # a tenth of the images
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from PIL import Image

from policyguard.cli.options import Format
from policyguard.cli.run import run_check
from policyguard.runs.job import build_job
from policyguard.runs.project import Project, Settings
from policyguard.runs.reports.registry import Reports
from policyguard.runs.selection import select_images
from policyguard.runs.settings import Flags, merge_settings
from policyguard.testing import FakeBackend

DELAY = 0.05
WORKERS = 16
IMAGES = 10_000
ONE_WORKER = 1_000
MEMORY = (1_000, 100_000)
FILES = 8
STEP = 100  # images in a folder


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    parser.add_argument("--memory", type=int, metavar="N", help="measure this process over N images")
    options = parser.parse_args(arguments)
    if options.memory:
        memory(options.memory)
        return
    less = 10 if options.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        throughput(Path(folder), IMAGES // less, ONE_WORKER // less)
    peaks = []
    for images in (MEMORY[0], MEMORY[1] // less):
        done = subprocess.run(
            [sys.executable, __file__, "--memory", str(images)], stdout=subprocess.PIPE, text=True, check=True
        )
        peaks.append(float(done.stdout))
        print(f"memory: peak {peaks[-1]:.1f} MiB over {images:,} images")
    print(f"memory: ratio {peaks[1] / peaks[0]:.3f} (goal: the same)")


def throughput(folder: Path, many: int, few: int) -> None:
    pictures(folder, many)
    rates = {}
    for workers, images in ((1, few), (WORKERS, many)):
        seconds = check(folder, workers=workers, delay=DELAY, limit=images)
        rates[workers] = images / seconds
        ideal = images * DELAY / workers
        print(
            f"speed: {workers} workers, {images:,} images, {seconds:.1f} s, {rates[workers]:.1f} images/s; "
            f"beside the model {1 - ideal / seconds:.1%} of the time (goal: at most 5%)"
        )
    print(f"speed: {WORKERS} workers are {rates[WORKERS] / rates[1]:.2f} times one (goal: at least 14)")


def memory(images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pictures(Path(folder), images)
        check(Path(folder), workers=2, delay=0.0, limit=images)
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak too
    print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024)


def pictures(folder: Path, count: int) -> None:
    """``count`` names for a few real pictures of 224 x 224 pixels."""
    data = []
    for number in range(FILES):
        buffer = io.BytesIO()
        Image.effect_noise((224, 224), 40 + number).convert("RGB").save(buffer, "JPEG")
        data.append(folder / f"real-{number}.bin")
        data[-1].write_bytes(buffer.getvalue())
    for number in range(count):
        part = folder / f"{number // STEP:05}"
        part.mkdir(exist_ok=True)
        os.link(data[number % FILES], part / f"{number:06}.jpg")


def check(folder: Path, *, workers: int, delay: float, limit: int) -> float:
    """Seconds for one run over the first ``limit`` images of ``folder``, from the search to the summary."""
    backend = FakeBackend(0.1, delay=delay, preferred_batch=1)
    backend.requests = type(backend.requests)(maxlen=1)
    parts = sorted(str(part) for part in folder.iterdir() if part.is_dir())[: limit // STEP]
    if limit == STEP * sum(1 for part in folder.iterdir() if part.is_dir()):
        parts = [str(folder)]
    started = perf_counter()
    settings = merge_settings(Flags(policy=("safeedit/l3",), workers=workers), Project(Settings(), folder))
    selected = select_images(parts, settings)
    job = build_job(settings, selected, backend=backend)
    with Path(os.devnull).open("w") as out, contextlib.redirect_stderr(io.StringIO()):
        code = run_check(job, style=Format.JSONL, reports=Reports(), stdout=out, stderr=sys.stderr)
    assert code == 0
    assert backend.calls == len(selected.sources) == limit
    return perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1:])
