"""Kills audits at random moments, resumes them, and compares with one that nobody disturbed.

    PYTHONPATH=tests python benchmarks/audit_kills.py --kills 500                     # in one process
    PYTHONPATH=tests python benchmarks/audit_kills.py --kills 20 --rows 300 --pico    # with a model
    PYTHONPATH=tests python benchmarks/audit_kills.py --ray --kills 50 --driver-kills 10

Each audit is begun, killed with SIGKILL wherever it is (planning, judging, writing), and resumed, until it is
done; then all of its verdict files must equal those of the undisturbed one, but for the seconds, and the next
one begins, until there were as many kills as asked for.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.support import house_rules, red
from policyguard.errors import UsageError
from policyguard.policy import load_policy
from policyguard.runs.audit.rows import Audit
from policyguard.runs.audit.run import Engine, Set, left, resume, start
from policyguard.runs.audit.sources import Spec
from policyguard.testing import FakeBackend
from runs.audit.support import contents, folder_of, keys, rows, shot, spec


class Noted:
    """Makes a guard, and leaves the number of its process, so that it can be found and killed."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def __call__(self) -> FakeBackend:
        if self.folder is not None:
            (self.folder / str(os.getpid())).touch()
        return FakeBackend(red)


def data(root: Path, count: int, *, pico: bool) -> None:
    """``count`` images, some of them twice or broken."""
    if not pico:
        broken = b"no image"
        made = (broken if n % 501 == 500 else shot(n - n % 97 // 96, n % 256) for n in range(count))
        folder_of(root / "photos", made)
        return
    from policyguard.pictosafe import Sizes, make

    make(root / "scenes", sizes=Sizes(count, 0, 0))
    (root / "scenes" / "images").rename(root / "photos")


def made_of(*, pico: bool, pids: Path | None = None) -> Set:
    if pico:
        return Set((load_policy("pictosafe/l3").resolve(),), settings={"cache": None})
    return Set((house_rules().resolve(),), settings={"cache": None}, backend=Noted(pids))


def go_on(folder: Path, found: Spec, made: Set, engine: Engine) -> None:
    """What ``policyguard audit`` does, without printing."""
    from policyguard.runs.audit.run import Work

    try:
        audit = resume(Audit.open(folder), made)
    except UsageError:
        audit = start(folder, found, made)
    for _ in engine(Work(str(folder), made), left(audit), lambda counts: None):
        pass


def killed(work: Callable[[], None], within: float) -> bool:
    """Do ``work`` in a process of its own, and kill it at a random moment; whether it was still at it."""
    if (child := os.fork()) == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    time.sleep(random.uniform(0.0, within))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("an audit failed by itself")
    return os.WIFSIGNALED(status)


def same(audit: Path, expected: dict[str, Any]) -> None:
    """Raise SystemExit unless the verdict files are those expected, and every key is there once."""
    opened = Audit.open(audit)
    found = keys(rows(opened, "key"))
    if left(opened) or len(found) != len(set(found)) or dict(contents(audit)) != expected:
        raise SystemExit(f"{audit} differs from the audit that nobody disturbed")


def reference(root: Path, found: Spec, *, pico: bool) -> tuple[dict[str, Any], float]:
    """The verdict files of an undisturbed audit, and how long it took. In a process of its own."""
    began = time.perf_counter()
    if (child := os.fork()) == 0:
        from policyguard.runs.audit.run import local

        go_on(root / "reference", found, made_of(pico=pico), local)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the reference failed")
    return dict(contents(root / "reference")), time.perf_counter() - began


def local_kills(root: Path, *, count: int, kills: int, pico: bool, per_part: int) -> None:
    from policyguard.runs.audit.run import local

    data(root, count, pico=pico)
    found = spec("photos", root=root, per_part=per_part)
    expected, seconds = reference(root, found, pico=pico)
    done = audits = 0
    folder = root / "audit"
    within = max(2.0 * seconds * per_part / count, 0.6) if not pico else 2.0 * seconds / 4
    while done < kills or not audits:
        if killed(lambda: go_on(folder, found, made_of(pico=pico), local), within):
            done += 1
        elif not (folder / "audit.json").exists() or left(Audit.open(folder)):
            continue
        else:
            same(folder, expected)
            shutil.rmtree(folder)
            audits += 1
        if done >= kills and not audits:  # the last one may go on to its end
            within = 1e6 if within > 1e3 else within * 2
    print(f"{done} kills, {audits} audits of {count:,} rows brought to their end: 0 lost, 0 twice, all equal")


def ray_kills(root: Path, *, count: int, kills: int, driver_kills: int, per_part: int) -> None:
    data(root, count, pico=False)
    found = spec("photos", root=root, per_part=per_part)
    expected, _ = reference(root, found, pico=False)
    pids = root / "pids"
    pids.mkdir()
    workers = drivers = audits = 0
    folder = root / "audit"
    command = [sys.executable, __file__, "--drive", str(root), "--per-part", str(per_part)]
    while workers < kills or drivers < driver_kills:
        driver = subprocess.Popen(command, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"})
        while driver.poll() is None:
            time.sleep(random.uniform(0.5, 3.0))
            alive = [int(path.name) for path in pids.iterdir() if _alive(int(path.name))]
            if workers < kills and alive:
                os.kill(random.choice(alive), signal.SIGKILL)
                workers += 1
            elif drivers < driver_kills and alive:
                driver.kill()
                drivers += 1
            print(f"{workers} workers and {drivers} drivers killed, {audits} audits done", flush=True)
            if drivers * kills < workers * driver_kills and drivers < driver_kills and driver.poll() is None:
                driver.kill()
                drivers += 1
        driver.wait()
        for path in pids.iterdir():
            path.unlink()
        if (folder / "audit.json").exists() and not left(Audit.open(folder)):
            same(folder, expected)
            shutil.rmtree(folder)
            audits += 1
    subprocess.run(command, check=True)
    same(folder, expected)
    print(
        f"{workers} workers and {drivers} drivers killed on Ray, {audits + 1} audits of {count:,} rows "
        "brought to their end: 0 lost, 0 twice, all equal"
    )


def _alive(pid: int) -> bool:
    """Whether it is one of our workers still: a number may be given to another process."""
    try:
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def drive(root: Path, per_part: int) -> None:
    import ray

    from policyguard.runs.audit.ray import RayEngine

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 * 2**20,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    made = made_of(pico=False, pids=root / "pids")
    go_on(root / "audit", spec("photos", root=root, per_part=per_part), made, RayEngine(workers=2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--driver-kills", type=int, default=10)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--per-part", type=int, default=100)
    parser.add_argument("--pico", action="store_true")
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--drive", type=Path)
    asked = parser.parse_args()
    if asked.drive:
        drive(asked.drive, asked.per_part)
        return
    with tempfile.TemporaryDirectory(prefix="policyguard-kills-") as folder:
        sizes: dict[str, Any] = {"count": asked.rows, "kills": asked.kills, "per_part": asked.per_part}
        if asked.ray:
            ray_kills(Path(folder), driver_kills=asked.driver_kills, **sizes)
        else:
            local_kills(Path(folder), pico=asked.pico, **sizes)


if __name__ == "__main__":
    main()
