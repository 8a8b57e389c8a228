"""What `make bench` runs: each comparison side by side in one process, printed as ratios.

    PYTHONPATH=tests python benchmarks/run.py [cache] [ci] [decode] [import] [lists] [local] [overhead]
                                              [memory] [rules] [workers]

Ratios carry from machine to machine, milliseconds do not. Nothing here is a test: read the numbers.
"""

from __future__ import annotations

import argparse

import ci
import decode
import import_time
import lists
import local
import memory
import overhead
import rules
import workers

import cache

BENCHMARKS = {
    "cache": cache.main,
    "ci": ci.main,
    "decode": decode.main,
    "import": import_time.main,
    "lists": lists.main,
    "local": lambda: local.main(["--shape", "small-language", "prefill", "share"]),
    "memory": memory.main,
    "overhead": overhead.main,
    "rules": rules.main,
    "workers": workers.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones; default: all")
    for name in parser.parse_args().names or BENCHMARKS:
        print(f"\n== {name}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()
