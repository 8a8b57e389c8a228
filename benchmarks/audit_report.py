"""The report of an audit of 1,000,000 rows: seconds and memory. Goal: less than 30 s and 1 GiB.

PYTHONPATH=tests python benchmarks/audit_report.py [ROWS]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from policyguard.runs.audit.report import Asked, make_report
from policyguard.runs.audit.rows import Audit
from support.audits import write_many


def main(rows: int = 1_000_000) -> None:
    with tempfile.TemporaryDirectory(prefix="policyguard-") as folder:
        if len(sys.argv) < 3:  # a process of its own, so that making the rows up counts for nothing
            import subprocess

            write_many(Path(folder) / "audit", rows)
            subprocess.run([sys.executable, __file__, str(rows), folder], check=True)
            return
        audit = Path(sys.argv[2]) / "audit"
        began = time.perf_counter()
        asked = Asked(sample=400, labels=audit.parent / "labels.csv")
        written = make_report(Audit.open(audit), audit / "report", asked)
        seconds = time.perf_counter() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        print(
            f"report over {written.figures['rows']:,} rows: {seconds:.1f} s, at most {memory:.2f} GiB "
            f"(goal: less than 30 s and 1 GiB); page {written.files[1].stat().st_size / 1024:.0f} KiB"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
