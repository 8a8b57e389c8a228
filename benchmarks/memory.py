"""Memory of this process over 10,000 checks of PNG bytes on a backend without a model. Goal: flat."""

from __future__ import annotations

import gc
import io
from pathlib import Path

from PIL import Image

from policyguard import Guard
from policyguard.testing import FakeBackend

CHECKS = 10_000


def resident_mib() -> float:
    """Resident set in MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def pictures(count: int) -> list[bytes]:
    encoded = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (448, 448), (number * 7 % 256, number * 13 % 256, 90)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


def main() -> None:
    backend = FakeBackend(0.1)
    backend.requests = type(backend.requests)(maxlen=1)
    guard = Guard(policy="safeedit/l3", backend=backend)
    source = pictures(64)
    readings = []
    for number in range(CHECKS + 1):
        guard.check(source[number % len(source)])
        if number in (CHECKS // 10, CHECKS):
            gc.collect()
            readings.append(resident_mib())
    print(f"after {CHECKS // 10} checks {readings[0]:.1f} MiB, after {CHECKS} {readings[1]:.1f} MiB: "
          f"ratio {readings[1] / readings[0]:.3f} (goal: flat)")  # fmt: skip


if __name__ == "__main__":
    main()
