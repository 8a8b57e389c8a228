"""A hit in the verdict cache: Guard.check from encoded bytes to verdict, with a backend that takes no time.

Goal: at most 0.5 ms plus 1 ms per MB of image. Next to it, in the same interleaved run, the same check
without a cache (which decodes), and SHA-256 of the bytes, the least that a cache keyed by content must do.
"""

from __future__ import annotations

import hashlib
import io
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from time import perf_counter

from PIL import Image

from policyguard import Guard
from policyguard.testing import FakeBackend

RUNS = 60
SIDES = (96, 448, 1024, 2400)
CALLERS = 64


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for side in SIDES:
            data = noise(side)
            megabytes = len(data) / 1e6
            goal = 0.5 + megabytes
            calls: dict[str, Callable[[], object]] = {
                "no cache": guard(None, data),
                "memory": guard("memory", data),
                "sqlite": guard(str(Path(folder) / "verdicts.sqlite"), data),
                "sha256": lambda data=data: hashlib.sha256(data).digest(),  # type: ignore[misc]
            }
            times = {name: statistics.median(times) * 1e3 for name, times in interleaved(calls).items()}
            print(f"{side} x {side}, {megabytes:.2f} MB, goal {goal:.2f} ms: " + ", ".join(
                f"{name} {value:.2f} ms" for name, value in times.items()
            ) + f"; sqlite hit / goal {times['sqlite'] / goal:.2f}")  # fmt: skip
    backend = FakeBackend(0.1, delay=0.1)
    shared, data, gate = Guard("safeedit/l3", backend=backend, cache="memory"), noise(96), Barrier(CALLERS)

    def ask(_: int) -> None:
        gate.wait()
        shared.check(data)

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(ask, range(CALLERS)))
    print(f"single flight: {CALLERS} threads at once, {len(backend.requests)} question to the model")


def guard(cache: str | None, data: bytes) -> Callable[[], object]:
    made = Guard("safeedit/l3", backend=FakeBackend(0.1), cache=cache)
    made.check(data)
    assert made.check(data).cached is (cache is not None)
    return lambda: made.check(data)


def interleaved(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each call, ``RUNS`` times, in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(RUNS):
        for name, call in calls.items():
            started = perf_counter()
            call()
            times[name].append(perf_counter() - started)
    return times


def noise(side: int) -> bytes:
    """A JPEG of random noise, ``side`` x ``side`` pixels."""
    buffer = io.BytesIO()
    Image.effect_noise((side, side), 90).convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
