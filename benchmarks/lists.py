"""A million known images: how long one hash is searched, and how long an image is hashed.

    python benchmarks/lists.py [--hashes 1000000]

Goal: a search takes at most 5 ms. Made-up hashes; half of those looked for are near one of the list.
"""

from __future__ import annotations

import argparse
import random
import resource
from statistics import median
from time import perf_counter, process_time

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from policyguard.lists import HashList, pdq_hashes

LOOKS, IMAGES = 200, 20


def near(row: np.ndarray, bits: int, numbers: np.random.Generator) -> np.ndarray:
    changed = np.unpackbits(row)
    changed[numbers.choice(256, bits, replace=False)] ^= 1
    return np.packbits(changed)


def memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(hashes: int = 1_000_000) -> None:
    numbers = np.random.default_rng(0)
    rows = numbers.integers(0, 256, (hashes, 32), dtype=np.uint8)
    before, started = memory(), perf_counter()
    known = HashList({"pdq": rows.tobytes()}, deny="rule")
    print(
        f"{hashes:,} hashes indexed in {perf_counter() - started:.1f} s, {memory() - before:.0f} MiB at most"
    )
    asked = [near(rows[number], number % 32, numbers) for number in range(LOOKS // 2)]
    asked += list(numbers.integers(0, 256, (LOOKS // 2, 32), dtype=np.uint8))
    walls, cpus, found = [], [], 0
    for row in asked:
        wall, cpu = perf_counter(), process_time()
        found += known.find(None, row[None]) is not None
        walls.append(1e3 * (perf_counter() - wall))
        cpus.append(1e3 * (process_time() - cpu))
    assert found == LOOKS // 2
    print(f"search, ms: median {median(walls):.2f}, most {max(walls):.2f}; of CPU {median(cpus):.2f}")

    for size in ((640, 480), (1280, 960), (4000, 3000)):
        cpus = []
        for number in range(IMAGES):
            data = random.Random(number).randbytes(40 * 30 * 3)
            frame = Image.frombytes("RGB", (40, 30), data).resize(size, Resampling.BICUBIC)
            cpu = process_time()
            count = len(pdq_hashes([frame]))
            cpus.append(1e3 * (process_time() - cpu))
        print(f"{count} hashes of a frame of {size[0]} x {size[1]}: {median(cpus):.0f} ms of CPU")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hashes", type=int, default=1_000_000)
    main(parser.parse_args().hashes)
