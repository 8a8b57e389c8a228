"""Many images on an event loop, in input order or as they come.

One task draws the images, one task per group judges it; at most two groups per worker are drawn and not yet
handed out, and at most ``workers`` of them are with the backend. Everything is awaited before the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from policyguard.checking.ahead import Ahead

if TYPE_CHECKING:
    from concurrent.futures import Future

    from policyguard.assessment import Reading
    from policyguard.checking.checker import Checker
    from policyguard.checking.rounds import Opened
    from policyguard.verdict import Verdict

__all__ = ["in_tasks"]


async def in_tasks(
    checker: Checker,
    images: Iterable[object] | AsyncIterable[object],
    *,
    reading: Reading,
    workers: int,
    progress: Callable[[int, int | None], None] | None,
    ordered: bool,
) -> AsyncGenerator[tuple[int, Verdict], None]:
    """The verdicts on ``images``, each with the place of its image, counted from 0.

    An error of ``images`` itself is raised after the verdicts on what came before it, a usage error at once.
    Closing, or cancelling whoever iterates, cancels the backend calls that run.
    """
    total = len(images) if isinstance(images, Sequence) else None
    done = 0
    run = _Run(checker, images, reading, workers)
    try:
        async with aclosing(run.groups(ordered=ordered)) as groups:
            async for first, verdicts in groups:
                for index, verdict in enumerate(verdicts, first):
                    done += 1
                    if progress is not None:
                        progress(done, total)
                    yield index, verdict
    finally:
        await run.close()


class _Run:
    def __init__(
        self,
        checker: Checker,
        images: Iterable[object] | AsyncIterable[object],
        reading: Reading,
        workers: int,
    ) -> None:
        self._checker = checker
        self._images = images
        self._reading = reading
        self._size = max(1, checker.backend.preferred_batch)
        self._room = asyncio.Semaphore(2 * workers)
        self._slots = asyncio.Semaphore(workers)
        self._eased = asyncio.Event()
        self._ahead = Ahead(checker.open, workers=workers)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._finished: asyncio.Queue[asyncio.Task[Any]] = asyncio.Queue()

    async def groups(self, *, ordered: bool) -> AsyncGenerator[tuple[int, list[Verdict]], None]:
        """The index of a group's first image, and the group's verdicts."""
        failed: Exception | None = None
        turn = 0
        ready: dict[int, list[Verdict]] = {}
        feeder = self._start(self._feed())
        while self._tasks:
            task = await self._finished.get()
            self._tasks.discard(task)
            if task is feeder:
                failed = task.result()
                continue
            number, verdicts = task.result()
            ready[number] = verdicts
            while (number := turn if ordered else number) in ready:
                self._room.release()
                yield number * self._size, ready.pop(number)
                turn += 1
        if failed is not None:
            raise failed

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ahead.close(wait=False)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished.put_nowait)
        return task

    async def _feed(self) -> Exception | None:
        """Draw all images, each group as soon as there is room for it; what ended the source early."""
        from policyguard.images import is_settled, snapshot

        number = 0
        group: list[Future[Opened]] = []
        failed: Exception | None = None
        await self._room.acquire()
        try:
            async with aclosing(_each(self._images)) as images:
                async for source in images:
                    # Its owner may change it, or the file it names, once the next one is asked for.
                    image = source if is_settled(source) else await asyncio.to_thread(snapshot, source)
                    group.append(self._ahead.submit(image, number))
                    if not is_settled(image):
                        await asyncio.gather(asyncio.wrap_future(group[-1]), return_exceptions=True)
                    if len(group) == self._size:
                        self._start(self._judge(number, group))
                        number, group = number + 1, []
                        await self._room.acquire()
                        while self._ahead.full:  # of groups that are being judged
                            self._eased.clear()
                            await self._eased.wait()
        except Exception as error:
            failed = error
        if group:
            self._start(self._judge(number, group))
        return failed

    async def _judge(self, number: int, group: list[Future[Opened]]) -> tuple[int, list[Verdict]]:
        try:
            opened = [await asyncio.wrap_future(future) for future in group]
            group.clear()  # so that verdicts which wait here keep no pixels
            async with self._slots:
                return number, await self._checker.ajudge(opened, self._reading)
        finally:
            self._ahead.release(number)
            self._eased.set()


async def _each(images: Iterable[object] | AsyncIterable[object]) -> AsyncGenerator[object, None]:
    if isinstance(images, AsyncIterable):
        try:
            async for image in images:
                yield image
        finally:
            if isinstance(images, AsyncGenerator):
                await images.aclose()  # nobody else will, once this run is left
        return
    for image in images:
        yield image
        await asyncio.sleep(0)  # a long list must not keep the loop to itself
