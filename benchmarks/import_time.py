"""`import policyguard` against importing four modules of the standard library. Goal: at most twice."""

from __future__ import annotations

import subprocess
import sys
from time import perf_counter

STANDARD = "import json, hashlib, urllib.request, concurrent.futures"


def seconds(code: str, runs: int = 15) -> float:
    """The fastest of ``runs`` fresh interpreters."""
    times = []
    for _ in range(runs):
        started = perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(perf_counter() - started)
    return min(times)


def main() -> None:
    bare = seconds("pass")
    standard = seconds(STANDARD) - bare
    ours = seconds("import policyguard") - bare
    print(f"{STANDARD}: {standard * 1e3:.0f} ms over a bare interpreter")
    print(f"import policyguard: {ours * 1e3:.0f} ms, ratio {ours / standard:.2f} (goal: at most 2)")


if __name__ == "__main__":
    main()
