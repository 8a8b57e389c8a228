"""How a model runs in this process: where, in which numbers, with how many threads and why, and how fast."""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

from policyguard.assessment import Failure
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.remote.doctor import Examination, Level, Speed
from policyguard.errors import UsageError
from policyguard.policy import load_policy

if TYPE_CHECKING:
    from policyguard.backends.transformers.backend import TransformersBackend
    from policyguard.policy import ResolvedPolicy

__all__ = ["examine_local", "measure_rate", "seconds_per_photo"]

_SIDE = 320
"""Pixels of the sides of an image of noise."""


def examine_local(
    backend: TransformersBackend, *, policy: ResolvedPolicy | None = None, readings: int = 5
) -> Examination:
    """Load the model, ask it about images of noise under ``policy`` (default: a packaged one), and say how it
    runs."""
    examination = Examination("this process")
    try:
        examination.model = backend.model.id
        if policy is None:
            world = backend.dialect.world
            policy = load_policy("safeedit/l3" if world is None else "pictosafe/l3").resolve()
        backend.accept(policy)
        backend.warm()
        examination.add("model", Level.OK, f"{backend.model.id}, {backend.model.dialect} dialect")
        _time(examination, backend, policy, readings)
        _describe(examination, backend)
    except UsageError as error:
        examination.add("model", Level.PROBLEM, error.message, error.hint or "")
    return examination


def _describe(examination: Examination, backend: TransformersBackend) -> None:
    stats, add = backend.stats(), examination.add
    add("device", Level.OK, stats.device)
    slow = stats.device == "cpu" and stats.dtype == "float32" and stats.dtype_reason != "asked for"
    add(
        "numbers",
        Level.NOTE if slow else Level.OK,
        f"{stats.dtype}: {stats.dtype_reason}",
        "a CPU with AMX or AVX-512 BF16, or a GPU, is several times faster" if slow else "",
    )
    if stats.threads is not None:
        add("threads", Level.OK, f"{stats.threads}: {stats.threads_reason}")
    if stats.prefix_hits:
        add("policy", Level.OK, "computed once and shared by all images under it")
    else:
        add("policy", Level.NOTE, "computed anew for each image, as this model's prefix cannot be shared")
    for fallback in stats.fallbacks:
        add("fallback", Level.NOTE, fallback)


def _time(
    examination: Examination, backend: TransformersBackend, policy: ResolvedPolicy, readings: int
) -> None:
    from PIL.Image import frombytes

    seconds = []
    for _ in range(readings + 1):
        noise = frombytes("RGB", (_SIDE, _SIDE), os.urandom(3 * _SIDE * _SIDE))
        began = time.perf_counter()
        (result,) = backend.assess([AssessmentRequest(noise, policy)])
        seconds.append(time.perf_counter() - began)
        if isinstance(result, Failure):
            examination.add("answer", Level.PROBLEM, result.reason)
            return
    examination.add("answer", Level.OK, "read from the model's own probabilities")
    later = statistics.median(seconds[1:])
    examination.speed = Speed(1000 * seconds[0], 1000 * later, readings)


TOKENS = 350
"""Of a photo of 512 pixels a side (about 320 in the Qwen families) and the end of the prompt."""


def measure_rate() -> tuple[float, str]:
    """FLOP/s of a matrix product of a model's shapes, where and in the numbers that a model would run here,
    and what that is. The best of some tries within about a second. Raises MissingExtraError without torch.
    """
    from policyguard.backends.transformers.placement import choose_device, choose_dtype

    device = choose_device(None)
    dtype = choose_dtype(None, device)
    import torch

    rows, width = TOKENS, 2048
    left = torch.ones(rows, width, device=device, dtype=dtype)
    right = torch.ones(width, width, device=device, dtype=dtype)
    times: list[float] = []
    end = time.perf_counter() + 1.0
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        float((left @ right)[0, 0])  # reading a number waits for the device
        times.append(time.perf_counter() - start)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return 2 * rows * width * width / min(times), f"{name} in {str(dtype).removeprefix('torch.')}"


def seconds_per_photo(gigabytes: float, rate: float) -> float:
    """The arithmetic of one photo at ``rate`` FLOP/s: two operations per parameter and token.

    ``gigabytes``: of weights in bfloat16, two bytes a parameter. What a machine takes is rarely less.
    """
    return 2 * (gigabytes / 2 * 1e9) * TOKENS / rate
