"""Decoding ahead of the model, bounded in images by the caller and in memory here."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from policyguard.assessment import Failure
from policyguard.checking.rounds import Opened
from policyguard.images import Snapshot

__all__ = ["READ_AHEAD_PIXELS", "Ahead"]

READ_AHEAD_PIXELS = 128_000_000
"""Pixels that may wait for the model (three bytes each) before decoding pauses; files read count as well."""


class Ahead:
    """Opens images in threads, in the order they come.

    Images belong to groups, which go to the backend whole and are numbered upwards. Decoding pauses while
    groups not yet released hold ``pixels`` (READ_AHEAD_PIXELS); the oldest group is exempt, so that it always
    gets done. What is held stays under the sum of ``pixels``, the oldest group and one image per thread.
    No thread waits for room: one that did would keep the interpreter from ending.
    """

    def __init__(
        self, opening: Callable[[object], Opened], *, workers: int, pixels: int | None = None
    ) -> None:
        self._opening = opening
        self._limit = READ_AHEAD_PIXELS if pixels is None else pixels
        self._idle = min(workers + 1, (os.cpu_count() or 1) + 2)
        self._pool = ThreadPoolExecutor(self._idle, thread_name_prefix="policyguard-decode")
        self._queue: deque[tuple[Future[Opened], object, int]] = deque()
        self._held: dict[int, int] = {}  # pixels of the groups not yet released, oldest first
        self._lock = threading.Lock()
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether as many pixels are held as may be."""
        with self._lock:
            return self._is_full()

    def submit(self, source: object, group: int) -> Future[Opened]:
        """Open ``source`` in a thread, as soon as there is room for its pixels."""
        opened: Future[Opened] = Future()
        with self._lock:
            read = len(source.data) // 3 if type(source) is Snapshot else 0
            self._held[group] = self._held.get(group, 0) + read
            self._queue.append((opened, source, group))
        self._go_on()
        return opened

    def open(self, source: object, group: int) -> Future[Opened]:
        """Open ``source`` here and now, room or not: its owner may change it as soon as this returns."""
        opened: Future[Opened] = Future()
        with self._lock:
            self._held.setdefault(group, 0)
        self._open(opened, source, group)
        return opened

    def release(self, group: int) -> None:
        """The pixels of ``group`` are no longer needed."""
        with self._lock:
            self._held.pop(group, None)
        self._go_on()

    def close(self, *, wait: bool) -> None:
        """Open nothing more; ``wait`` for what is being opened."""
        with self._lock:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
        for opened, _, _ in left:
            opened.cancel()
        self._pool.shutdown(wait=wait)  # the pool's own queue is short, and each of its futures must end

    def _go_on(self) -> None:
        """Hand the pool what there is room for."""
        with self._lock:
            while self._queue and self._idle and self._has_room(self._queue[0][2]):
                opened, source, group = self._queue.popleft()
                try:
                    self._pool.submit(self._work, opened, source, group)
                    self._idle -= 1
                except RuntimeError as error:  # closed, or the interpreter is about to end
                    opened.set_exception(error)

    def _work(self, opened: Future[Opened], source: object, group: int) -> None:
        try:
            if self._closed:
                opened.cancel()
            if opened.set_running_or_notify_cancel():
                self._open(opened, source, group)
        finally:
            with self._lock:
                self._idle += 1
            self._go_on()

    def _open(self, opened: Future[Opened], source: object, group: int) -> None:
        try:
            item = self._opening(source)
        except Exception as error:
            opened.set_exception(error)
            return
        except BaseException as error:
            opened.set_exception(error)
            raise
        if not isinstance(item.image, Failure):
            with self._lock:
                if group in self._held:
                    self._held[group] += sum(frame.width * frame.height for frame in item.image.frames)
        opened.set_result(item)

    def _has_room(self, group: int) -> bool:
        return not self._is_full() or group == next(iter(self._held)) or group not in self._held

    def _is_full(self) -> bool:
        return sum(self._held.values()) >= self._limit
