"""An event loop in a thread of its own, on which all calls of one backend run.

Callers are threads and event loops of any number. Connections belong to one loop, so one loop of ours
serves them all: the bound on concurrent calls holds across all callers, deadlines are hard, a cancelled
caller cancels its calls, and ``check`` works where an event loop already runs.

Nobody waits for this thread without a bound, and nobody waits for an answer that it will not give any more.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["LoopThread"]

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds for cancelled work to end, and again for connections to close."""


_running: set[LoopThread] = set()


@atexit.register
def _stop_all() -> None:
    """The interpreter ends: what is still open is closed, as far as that is quick."""
    for thread in list(_running):
        thread.stop()


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
        self._waiting: set[Future[Any]] = set()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="policyguard-vllm", daemon=True)
        self._thread.start()
        _running.add(self)

    @property
    def forked(self) -> bool:
        """Whether this is a child process, in which the thread does not exist."""
        return os.getpid() != self._pid

    def submit(self, work: Callable[[], Coroutine[object, object, T]]) -> Future[T]:
        """Start ``work()`` on the loop. Raises RuntimeError after ``stop``."""
        with self._lock:
            if self._stopped:
                raise RuntimeError("the loop is stopped")
            future = asyncio.run_coroutine_threadsafe(work(), self._loop)
            self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def let_go(self) -> None:
        """Begin to stop, and wait for nothing: for the garbage collector.

        It may run in any thread, under any lock, so that waiting for this thread could wait for ever. It does
        not take our own lock either: an object that is collected is in no method any more.
        """
        if not self._stopped and not self.forked:
            self._stopped = True
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)

    def stop(self) -> None:
        """Cancel all work, close, and end the thread. May be called twice, and from any thread."""
        if self.forked:
            return
        with self._lock:
            self.let_go()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=3 * _PATIENCE)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._stopped = True
            self._loop.close()
            for future in list(self._waiting):
                future.cancel()
            _running.discard(self)

    async def _main(self) -> None:
        await self._stopping.wait()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_PATIENCE)
        with suppress(Exception):
            async with asyncio.timeout(_PATIENCE):
                await self._closing()
