"""An event loop in a thread of its own, on which all calls of one backend run.

Callers are threads and event loops of any number. Connections belong to one loop, so one loop of ours
serves them all: the bound on concurrent calls holds across all callers, deadlines are hard, a cancelled
caller cancels its calls, and ``check`` works where an event loop already runs.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")


class LoopThread:
    """Runs coroutines until ``stop``, which cancels what still runs and then awaits ``closing``.

    Must not hold a reference to whatever stops it when collected.
    """

    def __init__(self, closing: Callable[[], Awaitable[None]]) -> None:
        self._closing = closing
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._stopped = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="policyguard-vllm", daemon=True)
        self._thread.start()

    @property
    def forked(self) -> bool:
        """Whether this is a child process, in which the thread does not exist."""
        return os.getpid() != self._pid

    def submit(self, work: Callable[[], Coroutine[object, object, T]]) -> Future[T]:
        """Start ``work()`` on the loop. Raises RuntimeError after ``stop``."""
        with self._lock:
            if self._stopped:
                raise RuntimeError("the loop is stopped")
            return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def stop(self) -> None:
        """Cancel all work, close, and end the thread. May be called twice, and from any thread."""
        if self.forked:
            return
        with self._lock:
            if not self._stopped:
                self._stopped = True
                self._loop.call_soon_threadsafe(self._stopping.set)
        # The garbage collector may call this on the loop's own thread, which cannot wait for itself.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        await self._stopping.wait()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._closing()
