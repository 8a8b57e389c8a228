"""The field's benchmarks: their files, their scorers beside ours, and the figures that were published."""

from policyguard.authoring.bench.rows import BENCHMARKS, BenchRow, Loaded, load_rows
from policyguard.authoring.bench.run import BenchReport, Compared, compare, published_tables, run_rows
from policyguard.authoring.bench.scoring import Judged, Line, score

__all__ = [
    "BENCHMARKS",
    "BenchReport",
    "BenchRow",
    "Compared",
    "Judged",
    "Line",
    "Loaded",
    "compare",
    "load_rows",
    "published_tables",
    "run_rows",
    "score",
]
