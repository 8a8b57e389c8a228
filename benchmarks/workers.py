"""check_many with 16 workers against one, on a backend that takes 50 ms; memory of 1,000 and 100,000 images.

Goals: at least 14 times one worker; the same peak memory, however many images there are.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image

from policyguard import Guard
from policyguard.testing import FakeBackend

DELAY = 0.05
WORKERS = 16
IMAGES = 320


class Waiting(FakeBackend):
    """Waits without a thread where it is asked on an event loop, as a remote backend does."""

    async def aassess(self, requests: Sequence[Any]) -> list[Any]:
        await asyncio.sleep(DELAY)
        return [self._result(request, 0.1) for request in requests]


def main() -> None:
    guard = Guard("safeedit/l3", backend=Waiting(0.1, delay=DELAY, preferred_batch=1))
    image = png()
    one = rate(lambda: list(guard.check_many([image] * (IMAGES // WORKERS))), IMAGES // WORKERS)
    ways = {
        "check_many": lambda: list(guard.check_many([image] * IMAGES, workers=WORKERS)),
        "acheck_many": lambda: asyncio.run(collect(guard, [image] * IMAGES)),
    }
    for name, way in ways.items():
        many = rate(way, IMAGES)
        print(f"{name}: {many:.0f} images/s with {WORKERS} workers, {one:.1f} with one: "
              f"ratio {many / one:.1f} (goal: at least 14)")  # fmt: skip
    few, lots = (peak(count) for count in (1_000, 100_000))
    print(f"check_many, {WORKERS} workers: peak {few:.1f} MiB over 1,000 images, {lots:.1f} over 100,000: "
          f"ratio {lots / few:.3f} (goal: the same)")  # fmt: skip


async def collect(guard: Guard, images: Sequence[bytes]) -> list[Any]:
    return [verdict async for verdict in guard.acheck_many(images, workers=WORKERS)]


def rate(work: Any, images: int) -> float:
    started = perf_counter()
    work()
    return images / (perf_counter() - started)


def png() -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (8, 8), (90, 120, 30)).save(encoded, "PNG")
    return encoded.getvalue()


def peak(images: int) -> float:
    """The highest resident set, in MiB, of a process of its own that checks so many (Linux)."""
    done = subprocess.run(
        [sys.executable, __file__, str(images)], stdout=subprocess.PIPE, text=True, check=True
    )
    return float(done.stdout)


def check(images: int) -> None:
    """Check so many images from a generator and print the peak of this process's memory."""

    def source() -> Iterator[bytes]:
        data = png()
        for _ in range(images):
            yield bytes(bytearray(data))  # each its own object, as from a disk

    backend = FakeBackend(0.1, preferred_batch=1)
    backend.requests = type(backend.requests)(maxlen=1)
    for _ in Guard("safeedit/l3", backend=backend).check_many(source(), workers=WORKERS):
        pass
    status = Path("/proc/self/status").read_text()
    print(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024)


if __name__ == "__main__":
    check(int(sys.argv[1])) if len(sys.argv) > 1 else main()
