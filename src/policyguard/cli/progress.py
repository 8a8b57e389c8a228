"""What a person at a terminal sees while they wait; nothing anywhere else.

Ctrl-C falls between images, not into the middle of one's output.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import TextIO

from policyguard.strict.text import is_terminal

__all__ = [
    "Move",
    "log_lines",
    "progress_bar",
    "uninterrupted",
    "waiting",
]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done. A second one gets through: a blocked pipe is no trap."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # somebody else decides what Ctrl-C does
        return
    held = False

    def hold(_signal: int, _frame: FrameType | None) -> None:
        nonlocal held
        if held:
            raise KeyboardInterrupt
        held = True

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if held:
        raise KeyboardInterrupt


Move = Callable[[int, int | None, str], None]
"""Called with what is done, how much there is in all (where it is known), and a few words beside the bar."""


@contextmanager
def waiting(what: str, stream: TextIO) -> Iterator[None]:
    """A moving sign with ``what`` beside it."""
    if not is_terminal(stream):
        yield
        return
    from rich.console import Console

    with Console(file=stream).status(what):
        yield


@contextmanager
def progress_bar(stream: TextIO | None) -> Iterator[Move]:
    """A bar that goes away at the end. A single thing to do gets none."""
    if stream is None or not is_terminal(stream):
        yield lambda done, total, words: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
        redirect_stdout=False,  # data must not end up on stderr
        redirect_stderr=False,
    )
    task = bar.add_task("", total=None)

    def move(done: int, total: int | None, words: str) -> None:
        if total != 1:
            bar.update(task, completed=done, total=total, description=words)
            bar.start()

    try:
        yield move
    finally:
        bar.stop()


def log_lines(stream: TextIO, total: int, *, every: float = 30.0) -> Callable[[int, str], None]:
    """For a log, where no bar can move: a plain line every ``every`` seconds. A terminal gets none."""
    if is_terminal(stream):
        return lambda done, words: None
    last = monotonic()

    def tell(done: int, words: str) -> None:
        nonlocal last
        if done < total and monotonic() - last >= every:
            last = monotonic()
            print(f"{done:,} of {total:,} images: {words}", file=stream, flush=True)

    return tell
