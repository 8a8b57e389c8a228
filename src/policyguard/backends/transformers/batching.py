"""Which frames go through the model together: those of equal length, as many as there is room for.

A batch is as long as its longest frame, and the rest of it is padding. So frames are put in the order of
their image tokens, and a batch ends where it is full or where too much of it would be padding. How many
fit is learnt: on a GPU from the memory that passes took, anywhere from a batch that did not fit, which is
judged in halves. The answer on a frame does not depend on its batch, but for the rounding of 16-bit numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from policyguard.backends.stats import Counters

__all__ = ["Batching", "CudaMemory", "is_out_of_memory"]

WASTE = 0.15
"""The most of a batch that may be padding."""

MOST_ON_GPU = 64
"""Frames in a pass where memory alone bounds it; more gain nothing."""

RESERVE = 0.2
"""Share of the free memory of a GPU that is left alone."""


class Memory(Protocol):
    """Bytes of a GPU: used by this process now, at most so far, and what it could still use."""

    def used(self) -> int: ...
    def peak(self) -> int: ...
    def free(self) -> int: ...


class CudaMemory:
    """The memory of a CUDA device, as torch counts it."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def used(self) -> int:
        import torch

        return int(torch.cuda.memory_allocated(self._device))

    def peak(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated(self._device))

    def free(self) -> int:
        import torch

        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0] + kept)


class Batching:
    """How the frames of one model are put into batches of at most ``most``.

    ``grows``: ``most`` is no bound of the user's, and rises on a GPU with room. Thread-safe.
    """

    def __init__(
        self,
        processor: Any,
        most: int,
        counters: Counters,
        *,
        grows: bool = False,
        memory: Memory | None = None,
    ) -> None:
        self.most = most
        self.room: int | None = None  # image tokens in one pass; ``None``: not known to be bounded
        self._grows = grows
        self._memory = memory
        self._counters = counters
        self._lock = Lock()
        self.tokens = lru_cache(4096)(_counter(processor))

    def batches(self, sizes: Sequence[tuple[int, int]]) -> list[list[int]]:
        """The indices of frames of these sizes (width, height), batch by batch."""
        lengths = [self._length(size) for size in sizes]
        known = all(self.tokens(size) is not None for size in set(sizes))
        found: list[list[int]] = []
        batch: list[int] = []
        for index in sorted(range(len(sizes)), key=lengths.__getitem__):
            if batch and self._ends(batch, lengths, lengths[index], known=known):
                found.append(batch)
                batch = []
            batch.append(index)
        return [*found, batch] if batch else found

    def halve(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Frames of these sizes did not fit: from now on half as much goes into a batch."""
        half = max(1, self._whole(sizes) // 2)
        with self._lock:
            self.room = half if self.room is None else min(half, self.room)
        self._counters.say("a batch did not fit into memory: batches are made smaller from now on")

    def exceeds(self, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether several frames of these sizes are known not to fit together."""
        return len(sizes) > 1 and self.room is not None and self._whole(sizes) > self.room

    @contextmanager
    def measured(self, sizes: Sequence[tuple[int, int]]) -> Iterator[None]:
        """A forward pass over frames of these sizes runs inside, alone on its GPU."""
        memory = self._memory
        if memory is None or not sizes:
            yield
            return
        used, peak = memory.used(), memory.peak()
        yield
        if (now := memory.peak()) > peak:  # else something else took more, and this pass is not seen
            each = (now - used) / self._whole(sizes)
            with self._lock:
                self.room = max(1, int((1.0 - RESERVE) * memory.free() / each))
                if self._grows:
                    self.most = MOST_ON_GPU

    def _whole(self, sizes: Sequence[tuple[int, int]]) -> int:
        return max(map(self._length, sizes)) * len(sizes)

    def _length(self, size: tuple[int, int]) -> int:
        tokens = self.tokens(size)
        return max(1, size[0] * size[1] // 1024 if tokens is None else tokens)

    def _ends(self, batch: list[int], lengths: Sequence[int], length: int, *, known: bool) -> bool:
        """Whether a frame of ``length``, the longest so far, begins another batch."""
        whole = length * (len(batch) + 1)
        if len(batch) >= self.most or (self.room is not None and whole > self.room):
            return True
        return known and whole - length - sum(lengths[index] for index in batch) > WASTE * whole


def _counter(processor: Any) -> Any:
    """How many image tokens a frame of a size (width, height) makes; ``None`` where it cannot say."""
    count = getattr(processor, "_get_num_multimodal_tokens", None)

    def tokens(size: tuple[int, int]) -> int | None:
        if count is None:
            return None
        try:
            return int(count(image_sizes=[(size[1], size[0])]).num_image_tokens[0])
        except (
            Exception
        ):  # of one library version, or for a size that the processor refuses later, and says why
            return None

    return tokens


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory, of a GPU or of the machine, was too small."""
    import torch

    text = str(error)
    said = ("out of memory", "can't allocate memory", "can't allocate", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in text for words in said)
