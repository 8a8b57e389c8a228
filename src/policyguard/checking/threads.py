"""Many images through threads, in input order.

Groups of images, as large as the backend likes them, go to a bounded number of workers. The caller's thread
draws the images and hands out the verdicts; a window of two groups per worker is decoded and judged ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from policyguard.checking.ahead import Ahead

if TYPE_CHECKING:
    from policyguard.assessment import Reading
    from policyguard.checking.checker import Checker
    from policyguard.checking.rounds import Opened
    from policyguard.verdict import Verdict

__all__ = ["in_threads"]


def in_threads(
    checker: Checker,
    images: Iterable[object],
    *,
    reading: Reading,
    workers: int,
    progress: Callable[[int, int | None], None] | None,
) -> Generator[Verdict, None, None]:
    """The verdicts on ``images``, in order.

    An error of ``images`` itself is raised after the verdicts on what came before it. A usage error is raised
    at once. Closing waits for the backend calls that run and starts no others; Ctrl-C does not wait.
    """
    total = len(images) if isinstance(images, Sequence) else None
    done, waits = 0, True
    run = _Run(checker, images, reading, workers)
    try:
        run.fill()
        while run.window:
            verdicts = run.window.popleft()()
            run.fill()  # the workers go on while the caller looks at these
            for verdict in verdicts:
                done += 1
                if progress is not None:
                    progress(done, total)
                yield verdict
        if run.failed is not None:
            raise run.failed
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        run.close(wait=waits)


class _Run:
    """``window`` holds what gives the verdicts of each group, oldest first."""

    def __init__(self, checker: Checker, images: Iterable[object], reading: Reading, workers: int) -> None:
        self.window: deque[Callable[[], list[Verdict]]] = deque()
        self.failed: Exception | None = None
        self._checker = checker
        self._reading = reading
        self._source = iter(images)
        self._drawn = False
        self._number = 0
        self._groups = 2 * workers
        self._size = max(1, checker.backend.preferred_batch)
        self._fatal: Future[None] = Future()
        self._ahead = Ahead(checker.open, workers=workers)
        # One worker is the caller itself: nothing is asked ahead of need.
        self._pool = ThreadPoolExecutor(workers, "policyguard-check") if workers > 1 else None

    def fill(self) -> None:
        """Draw images until the window, or the room for their pixels, is full."""
        while not self._drawn and len(self.window) < self._groups:
            if self.window and self._ahead.full:
                return
            group = self._draw()
            if not group:
                return
            if self._pool is None:
                self.window.append(partial(self._judge, self._number, group))
            else:
                work = self._pool.submit(copy_context().run, self._judge, self._number, group)
                self.window.append(partial(self._result, work))
            self._number += 1

    def close(self, *, wait: bool) -> None:
        self._ahead.close(wait=wait)
        if self._pool is not None:
            self._pool.shutdown(wait=wait, cancel_futures=True)

    def _draw(self) -> list[Future[Opened]]:
        from policyguard.images import is_settled, snapshot

        group: list[Future[Opened]] = []
        try:
            for image in map(snapshot, islice(self._source, self._size)):
                opening = self._ahead.submit if is_settled(image) else self._ahead.open
                group.append(opening(image, self._number))
        except Exception as error:
            self.failed = error
        self._drawn = len(group) < self._size
        return group

    def _judge(self, number: int, group: list[Future[Opened]]) -> list[Verdict]:
        try:
            if self._fatal.done():
                raise RuntimeError("the run has ended")
            opened = [future.result() for future in group]
            group.clear()  # so that verdicts which wait here keep no pixels
            return self._checker.judge(opened, self._reading)
        except BaseException as error:
            with suppress(InvalidStateError):  # another worker was first
                self._fatal.set_exception(error)
            raise
        finally:
            self._ahead.release(number)

    def _result(self, work: Future[list[Verdict]]) -> list[Verdict]:
        either: tuple[Future[Any], ...] = (work, self._fatal)
        wait(either, return_when=FIRST_COMPLETED)
        if self._fatal.done():
            self._fatal.result()
        return work.result()
