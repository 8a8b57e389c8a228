"""What ``audit`` costs beside the model, and what it gains from Ray workers.

    PYTHONPATH=tests python benchmarks/audit.py overhead    # against Guard.check_many on the same images
    PYTHONPATH=tests python benchmarks/audit.py manifest    # 1,000,000 files listed: seconds, memory
    PYTHONPATH=tests python benchmarks/audit.py memory      # 5,000 to 500,000 rows judged: memory
    PYTHONPATH=tests python benchmarks/audit.py ray         # 1 and 4 workers of 16 requests, 50 ms each

Ratios carry from machine to machine, milliseconds do not.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cli.support import house_rules
from policyguard import Guard
from policyguard.policy import load_policy
from policyguard.runs.audit.rows import Place, write_parts
from policyguard.runs.audit.run import Set, Work, left, local, start
from policyguard.runs.audit.sources import plan
from policyguard.testing import FakeBackend
from runs.audit.support import folder_of, made_of, shot, spec


def overhead(root: Path, scenes: int = 100, runs: int = 3) -> None:
    """pico over the same scenes, by ``check_many`` and by an audit, in turns."""
    from policyguard.pictosafe import Sizes, make

    make(root / "data", sizes=Sizes(scenes, 0, 0))
    images = sorted((root / "data" / "images").iterdir())
    policy = load_policy("pictosafe/l3").resolve()
    with Guard(policy) as guard:
        guard.warm()
        list(guard.check_many(images[:16]))
        made = Set((policy,), settings={"cache": None}, backend=lambda: _Open(guard.backend))
        times: dict[str, list[float]] = {"check_many": [], "audit": []}
        for number in range(runs):
            began = time.process_time()
            assert len(list(guard.check_many(images))) == scenes
            times["check_many"].append(time.process_time() - began)
            audit = start(root / f"audit{number}", spec("data/images", root=root, per_part=50), made)
            began = time.process_time()
            work = Work(audit.place.url, made)
            assert (
                sum(done.counts["rows"] for done in local(work, left(audit), lambda counts: None)) == scenes
            )
            times["audit"].append(time.process_time() - began)
    for name, value in (("fastest", min), ("median", statistics.median)):
        plain, whole = value(times["check_many"]), value(times["audit"])
        print(f"{name} of {runs}: check_many {plain:.2f} s of CPU, audit {whole:.2f} s, "
              f"ratio {whole / plain:.3f} (goal: at most 1.05)")  # fmt: skip


class _Open:
    """A backend that its audit does not close."""

    def __new__(cls, backend: Any) -> Any:
        from policyguard.backends import WrappingBackend

        class Kept(WrappingBackend):
            def close(self) -> None:
                return

        return Kept(backend)


def manifest(root: Path, files: int = 1_000_000) -> None:
    """Empty files in folders of 1,000, as class folders are, and how long the manifest takes."""
    for number in range(files // 1000):
        folder = root / "photos" / f"{number:04}"
        folder.mkdir(parents=True)
        for name in range(1000):
            os.close(os.open(folder / f"{name:04}.png", os.O_CREAT | os.O_WRONLY))
    for count in (files // 1000, files):
        wanted = [f"photos/{number:04}" for number in range(count // 1000)] if count < files else ["photos"]
        before = _peak()
        began = time.perf_counter()
        parts, rows = write_parts(Place(root / f"out{count}"), plan(spec(*wanted, root=root), []))
        seconds = time.perf_counter() - began
        print(f"{rows:,} files in {parts:,} parts: {seconds:.1f} s (goal: under 60), "
              f"peak {_peak():.0f} MiB, {_peak() - before:.0f} more than before")  # fmt: skip


def memory(root: Path, rows: int = 500_000) -> None:
    """The peak of a process that judges ``rows`` images, after a hundredth of them and at the end."""
    some = 5 + rows // 10_000  # a file takes so many links
    folder_of(root / "some", [shot(number) for number in range(some)])
    for number in range(rows):
        folder = root / "photos" / f"{number // 1000:04}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(root / "some" / f"{number % some:05}.png", folder / f"{number % 1000:04}.png")
    audit = start(root / "out", spec("photos", root=root, per_part=1000), made_of())
    done, peaks = 0, {}
    for one in local(Work(audit.place.url, made_of()), left(audit), lambda counts: None):
        done += one.counts["rows"]
        if done in (rows // 100, rows // 10, rows):
            peaks[done] = _peak()
    print(", ".join(f"{count:,} rows: peak {peak:.0f} MiB" for count, peak in peaks.items()))


def ray_workers(root: Path, images: int = 6400) -> None:
    """Images per second with one worker and with four, once their guards are open."""
    import ray

    from policyguard.runs.audit.ray import RayEngine

    folder_of(root / "photos", (shot(number) for number in range(images)))
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    rates = {}
    for workers in (1, 4):
        made = Set((house_rules().resolve(),), settings={"cache": None}, backend=_slow)
        found = spec("photos", root=root, per_part=200)
        audit = start(root / f"out{workers}", found, made)
        work = Work(str(root / f"out{workers}"), made, workers=16)
        dones = RayEngine(workers=workers)(work, left(audit), lambda counts: None)
        finished = [time.perf_counter() for _ in dones]
        skipped = workers  # the first part of each worker includes its start
        rates[workers] = (len(finished) - skipped) * 200 / (finished[-1] - finished[skipped - 1])
        print(f"{workers} workers: {rates[workers]:,.0f} images/s", flush=True)
    print(f"ratio {rates[4] / rates[1]:.2f} (goal: at least 3.5)")


def _slow() -> FakeBackend:
    return FakeBackend(0.1, delay=0.05, preferred_batch=1, preferred_workers=16)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


BENCHMARKS = {"overhead": overhead, "manifest": manifest, "memory": memory, "ray": ray_workers}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=BENCHMARKS)
    with tempfile.TemporaryDirectory(prefix="policyguard-audit-") as folder:
        BENCHMARKS[parser.parse_args().name](Path(folder))


if __name__ == "__main__":
    main()
