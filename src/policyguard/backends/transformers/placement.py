"""Where a model runs, in which numbers and with how many CPU threads; and why, for whoever asks.

A small model on several threads waits for its threads more than it computes, and where other work keeps the
cores busy it waits for those that do not get a turn: many times slower than with one thread. torch's number
is one for the whole process, and other code of the application may use torch. So it is changed only inside
``limited``, for the thread that asks, and not at all where the application has set it itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from policyguard.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from policyguard.backends.stats import Counters

__all__ = [
    "DTYPES",
    "ThreadChoice",
    "Threads",
    "choose_attention",
    "choose_device",
    "choose_dtype",
    "choose_threads",
    "dtype_reason",
    "limited",
    "usable_cores",
]

T = TypeVar("T")

DTYPES = ("bfloat16", "float16", "float32")


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "transformers") from None
    return torch


def choose_device(name: str | None) -> Any:
    """The ``torch.device`` asked for; by default CUDA, else MPS, else the CPU. Raises ConfigurationError."""
    torch = _torch()
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # naming a device that is not there fails only when it is used
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigurationError(
            f"device='{name}' cannot be used here: {str(error).splitlines()[0]}",
            hint="leave device out to take the best one there is, or give 'cpu'",
        ) from error
    return device


def choose_dtype(name: str | None, device: Any) -> Any:
    """The ``torch.dtype`` asked for; by default bfloat16 where the hardware computes in it.

    Without bfloat16: float16 on CUDA, float32 elsewhere. Raises ConfigurationError for an unknown name.
    """
    torch = _torch()
    if name is not None:
        if name not in DTYPES:
            raise ConfigurationError(f"dtype='{name}' is unknown", hint=f"choose one of: {', '.join(DTYPES)}")
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if _has_bf16(device) else torch.float16
    return torch.bfloat16 if _has_bf16(device) else torch.float32


def dtype_reason(name: str | None, device: Any) -> str:
    """Why ``choose_dtype`` chooses as it does."""
    if name is not None:
        return "asked for"
    kind = {"cuda": "GPU", "cpu": "CPU"}.get(device.type, device.type)
    if _has_bf16(device):
        return f"the {kind} computes in bfloat16"
    parts = " (neither AMX nor AVX-512 BF16)" if device.type == "cpu" else ""
    return f"the {kind} has no arithmetic for bfloat16{parts}"


def _has_bf16(device: Any) -> bool:
    torch = _torch()
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch versions that cannot say get float32.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(
        capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")
    )


def choose_attention(asked: str | None, dtype: Any, device: Any, *, compiled: bool) -> str | None:
    """The attention asked for; by default ``matmul`` on a CPU that computes in bfloat16 and has no AMX.

    ``None`` is transformers' sdpa. With AMX, torch's own attention computes in bfloat16; a compiler does not
    take ``matmul`` in one piece.
    """
    if asked is not None or compiled or device.type != "cpu" or dtype != _torch().bfloat16:
        return asked
    capabilities: dict[str, Any] = getattr(_torch().cpu, "get_capabilities", dict)()
    without = capabilities.get("avx512_bf16") and not capabilities.get("amx_bf16")
    return "matmul" if without else None


SMALL = 50_000_000
"""Parameters. A smaller model computes with one thread."""

LOOK_AGAIN = 30.0
"""Seconds after which the load of the machine is looked at again."""

_setting = threading.Lock()

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Threads:
    """With how many threads to compute, and why; ``count`` is ``None`` where torch's own number stays."""

    count: int | None
    reason: str


def choose_threads(
    device: Any, parameters: int, *, asked: int | None = None, among: int = 1, load: float = 0.0
) -> Threads:
    """The threads for a model of ``parameters`` on ``device``; ``load``: runnable threads of other programs.

    One for small models; else the physical cores that this process may use, shared ``among`` replicas, and
    fewer where others keep them busy. A number that the application has set (``torch.set_num_threads``, the
    variables ``OMP_NUM_THREADS`` and ``MKL_NUM_THREADS``) stays.
    """
    if device.type != "cpu":
        return Threads(None, f"the model computes on {device.type}")
    if asked is not None:
        return Threads(asked, "asked for")
    for variable in _VARIABLES:
        if os.environ.get(variable):
            return Threads(None, f"{variable} is set")
    torch = _torch()
    with _setting:
        everywhere = _elsewhere(torch.get_num_threads)
    for current in (torch.get_num_threads(), everywhere):
        if current not in _defaults():
            return Threads(None, f"the program has set torch to {current}")
    millions = f"{parameters / 1e6:,.1f} million parameters"
    if parameters < SMALL:
        return Threads(1, f"{millions} gain nothing by more")
    cores = usable_cores()
    named = f"{cores} physical {'core' if cores == 1 else 'cores'} for this process"
    if among > 1:
        return Threads(max(1, cores // among), f"{named} and its {among - 1} other replicas")
    free = max(1, round((os.cpu_count() or 1) - load))
    if free < cores:
        return Threads(free, f"{named}, and other programs keep the machine busy (load {load:.0f})")
    return Threads(cores, named)


def usable_cores() -> int:
    """Physical cores that this process may use: its affinity, and its share by the control group."""
    allowed = _affinity()
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota()))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """The logical CPUs of the core that ``cpu`` is on."""
    try:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return path.read_text().strip() or str(cpu)
    except OSError:
        return str(cpu)


def _quota(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs that the control group of this process (version 2 or 1) leaves it, at least one."""
    unlimited = os.cpu_count() or 1
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        if quota in ("max", "-1"):
            return unlimited
        return max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return unlimited


def _defaults() -> set[int]:
    """What torch may take of itself; any other number is somebody's choice."""
    everything = set(range(os.cpu_count() or 1))
    physical = {len({_siblings(cpu) for cpu in cpus}) for cpus in (everything, _affinity())}
    return physical | {len(everything), len(_affinity()), usable_cores()}


class ThreadChoice:
    """The choice for one model, looked at again from time to time, as the load of the machine changes."""

    def __init__(
        self, device: Any, parameters: int, asked: int | None, among: int, counters: Counters
    ) -> None:
        self._settings = (device, parameters, asked, among)
        self._counters = counters
        self._load = _OthersLoad()
        self._lock = threading.Lock()
        self._count: int | None = None
        self._until = -1.0

    def __call__(self) -> int | None:
        """What ``limited`` is to be given."""
        with self._lock:
            if monotonic() >= self._until:
                device, parameters, asked, among = self._settings
                chosen = choose_threads(device, parameters, asked=asked, among=among, load=self._load())
                kept = _torch().get_num_threads() if device.type == "cpu" else None
                shown = kept if chosen.count is None else chosen.count
                self._counters.set(threads=shown, threads_reason=chosen.reason)
                self._count, self._until = chosen.count, monotonic() + LOOK_AGAIN
            return self._count


class _OthersLoad:
    """How many threads of other programs want to run: the machine's load, without what this process adds."""

    def __init__(self) -> None:
        self._began, self._used = monotonic(), _cpu_seconds()

    def __call__(self) -> float:
        """The load of the last minute but this process's own, since this was asked before. At least 0."""
        if not hasattr(os, "getloadavg"):
            return 0.0
        now, used = monotonic(), _cpu_seconds()
        own = (used - self._used) / max(1e-3, now - self._began)
        self._began, self._used = now, used
        return max(0.0, os.getloadavg()[0] - own)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


@contextmanager
def limited(count: int | None) -> Iterator[None]:
    """In the block this thread, and no other, computes with ``count`` threads; ``None`` changes nothing."""
    if count is None or (before := (torch := _torch()).get_num_threads()) == count:
        yield
        return
    _set_here(torch, count)
    try:
        yield
    finally:
        _set_here(torch, before)


def _set_here(torch: Any, count: int) -> None:
    """torch.set_num_threads is for the thread that calls it, and for those that use torch for the first time
    after it. The second is put back, by a thread of its own, as that thread's number does not matter."""
    with _setting:
        default = _elsewhere(torch.get_num_threads)
        torch.set_num_threads(count)
        if default != count:
            _elsewhere(lambda: torch.set_num_threads(default))


def _elsewhere(work: Callable[[], T]) -> T:
    """What ``work`` gives in a thread that has not used torch before."""
    given: list[T] = []
    thread = threading.Thread(target=lambda: given.append(work()), name="policyguard-threads", daemon=True)
    thread.start()
    thread.join()
    return given[0]


def default_batch(device: Any) -> int:
    """Frames in a forward pass, until more is known: a CPU gains nothing by many."""
    return 4 if device.type == "cpu" else 16


def gpus() -> int:
    """How many CUDA devices there are; loads torch."""
    torch = _torch()
    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0
