"""The report of an audit of 1,000,000 rows: seconds and memory. Goal: less than 30 s and 1 GiB.

    PYTHONPATH=tests python benchmarks/audit_report.py [ROWS]
    PYTHONPATH=tests python benchmarks/audit_report.py intervals

The second says how often the intervals of precision, recall and prevalence hold the true value. Goal: 95%.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from policyguard.runs.audit.estimates import Stratum, corrected
from policyguard.runs.audit.report import Asked, make_report
from policyguard.runs.audit.rows import Audit
from support.audits import write_many

SAMPLES = 400
POPULATIONS = {  # strata: rows, whether the guard calls them violating, unsafe share, rows labelled
    "rare, good guard": (
        (800_000, 0, 0.0002, 110), (100_000, 0, 0.002, 30), (60_000, 0, 0.02, 30), (20_000, 0, 0.1, 20),
        (6_000, 1, 0.4, 70), (7_000, 1, 0.7, 70), (6_000, 1, 0.95, 60),
    ),
    "rare, two strata": ((90_000, 0, 0.001, 200), (2_000, 1, 0.8, 200)),
    "many missed": ((90_000, 0, 0.02, 200), (2_000, 1, 0.8, 200)),
    "common": (
        (9_000, 0, 0.05, 50), (8_000, 0, 0.1, 50), (7_000, 0, 0.2, 50), (5_000, 0, 0.4, 50),
        (3_000, 1, 0.6, 100), (9_000, 1, 0.9, 100),
    ),
}  # fmt: skip


def intervals() -> None:
    for name, strata in POPULATIONS.items():
        random = np.random.default_rng(1)
        size, called, share, labelled = map(np.array, zip(*strata, strict=True))
        unsafe = random.binomial(size, share)
        over = called.astype(bool)
        truth = {
            "precision": unsafe[over].sum() / size[over].sum(),
            "recall": unsafe[over].sum() / unsafe.sum(),
            "prevalence": unsafe.sum() / size.sum(),
        }
        held = dict.fromkeys(truth, 0)
        for _ in range(SAMPLES):
            found = random.hypergeometric(unsafe, size - unsafe, labelled)
            figures = corrected(
                [Stratum("", bool(c), int(n), int(m), int(x))
                 for c, n, m, x in zip(over, size, labelled, found, strict=True)]
            )  # fmt: skip
            assert figures is not None
            for figure, value in truth.items():
                held[figure] += figures[figure].low <= value <= figures[figure].high
        print(name, ", ".join(f"{figure} {count / SAMPLES:.1%}" for figure, count in held.items()), sep=": ")


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
        cpu = time.process_time()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
        page = written.files[1].stat().st_size / 1024
        print(
            f"report over {written.figures['rows']:,} rows: {seconds:.1f} s ({cpu:.1f} s of CPU), "
            f"at most {memory:.2f} GiB (goal: less than 30 s and 1 GiB); page {page:.0f} KiB"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["intervals"]:
        intervals()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
