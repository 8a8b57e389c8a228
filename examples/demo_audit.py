"""Audits 2,000 pictogram scenes with pico, kills the run on the way, resumes it, compares, and reports.

    python examples/demo_audit.py [FOLDER]          (or: make demo-audit)

pico is a toy: it judges pictogram scenes under PictoSafe policies and nothing else.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import webbrowser
from pathlib import Path

SCENES = 2000


def policyguard(*arguments: str) -> list[str]:
    print(f"\n$ policyguard {' '.join(arguments)}", flush=True)
    return [sys.executable, "-m", "policyguard", *arguments]


def main(folder: Path, scenes: int = SCENES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data, audit, other = (str(folder / name) for name in ("scenes", "audit", "audit-l2"))
    for old in (audit, other):
        shutil.rmtree(old, ignore_errors=True)
    if not Path(data).exists():
        sizes = ["--scenes", str(scenes), "--pairs", "0", "--held-out", "0"]
        subprocess.run(policyguard("bench", "pictosafe", "make", data, *sizes), check=True)
    cache = ["--cache", str(folder / "scores.sqlite"), "--per-part", str(max(1, scenes // 20))]
    begin = ["audit", f"{data}/images", "--policy", "pictosafe/l3", "--out", audit, *cache]
    running = subprocess.Popen(policyguard(*begin))
    while running.poll() is None and not list(Path(audit).glob("verdicts/part-00000002.parquet")):
        time.sleep(0.1)
    running.kill()
    running.wait()
    done = len(list(Path(audit).glob("verdicts/part-*.parquet")))
    print(f"killed with {done} of 20 parts done")
    subprocess.run(policyguard("audit", "resume", audit, "--fail-on", "never"), check=True)
    second = ["audit", f"{data}/images", "--policy", "pictosafe/l2", "--out", other, *cache]
    subprocess.run(policyguard(*second, "--fail-on", "never"), check=True)
    subprocess.run(policyguard("audit", "diff", audit, other, "--list", "3"), check=True)
    subprocess.run(policyguard("audit", "report", audit), check=True)
    if sys.stdout.isatty():
        webbrowser.open((Path(audit) / "report" / "report.html").resolve().as_uri())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo-audit"))
