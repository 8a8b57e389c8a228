"""What a terminal shows while somebody waits; nothing elsewhere. Ctrl-C takes effect between images."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from policyguard.strict.text import is_terminal

if TYPE_CHECKING:
    from policyguard.guard import Guard

__all__ = [
    "Move",
    "load_model",
    "log_lines",
    "progress_bar",
    "uninterrupted",
    "waiting",
]


Move = Callable[[int, int | None, str], None]
"""Called with how many are done, how many there are (if known), and a few words beside the bar."""


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done. A second one gets through, in case a pipe blocks."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield  # another handler is in charge of Ctrl-C
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


@contextmanager
def waiting(label: str, stream: TextIO) -> Iterator[None]:
    """A spinner with ``label`` beside it."""
    if not is_terminal(stream):
        yield
        return
    from rich.console import Console

    with Console(file=stream).status(label):
        yield


def load_model(guard: Guard, stream: TextIO | None) -> None:
    """Load the model of ``guard`` now, with a spinner."""
    with nullcontext() if stream is None else waiting("loading the guard model", stream):
        guard.warm()


@contextmanager
def progress_bar(stream: TextIO | None) -> Iterator[Move]:
    """A bar that goes away at the end. A single item gets none."""
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


def log_lines(stream: TextIO | None, total: int, *, every: float = 30.0) -> Callable[[int, str], None]:
    """For a log, where no bar can move: a plain line every ``every`` seconds. A terminal gets none."""
    if stream is None or is_terminal(stream):
        return lambda done, words: None
    last = monotonic()

    def log(done: int, words: str) -> None:
        nonlocal last
        if done < total and monotonic() - last >= every:
            last = monotonic()
            print(f"{done:,} of {total:,} images: {words}", file=stream, flush=True)

    return log
