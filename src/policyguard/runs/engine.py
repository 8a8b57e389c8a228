"""The run itself: images through guards, in order, each with its status for the build."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol, TypeVar

from policyguard.guard import Guard
from policyguard.outcomes import Action
from policyguard.runs.baseline import Baseline, BaselineEntry, accepting
from policyguard.runs.run import CheckedImage, ImageStatus
from policyguard.verdict import Verdict

__all__ = ["Group", "Item", "OutOfTime", "check_groups", "classify", "until"]

T = TypeVar("T")
_READ_AHEAD = 32
_WAIT = 0.2


class OutOfTime(Exception):  # noqa: N818 (it never leaves the package: the run ends with the results so far)
    """The deadline of the run has passed."""


class Item(Protocol):
    """An image to check: its name, and what is passed to the guard."""

    @property
    def name(self) -> str: ...

    @property
    def image(self) -> object: ...


class Items(Protocol):
    """Images in order, which can be iterated over repeatedly, and by two readers at once."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Item]: ...


@dataclass(frozen=True, slots=True)
class Group:
    """Images that are judged under the same policies."""

    guard: Guard
    items: Items


def check_groups(
    groups: Iterable[Group],
    *,
    report_path: Callable[[str], str],
    baseline: Baseline,
    workers: int | None = None,
    deadline: float | None = None,
) -> Generator[CheckedImage, None, None]:
    """Check all images, group by group, in the order given, whatever the number of workers.

    ``report_path`` turns an item's name into its path in reports. When ``deadline``, on ``time.monotonic``'s
    clock, has passed, OutOfTime is raised, and checks under way are abandoned. Raises UsageError as the
    guard does.
    """
    known = baseline.by_key()
    for group in groups:
        policies = tuple(policy.id for policy in group.guard.policies)
        verdicts: Iterator[Verdict] = group.guard.check_many(
            (item.image for item in group.items), workers=workers
        )
        if deadline is not None:
            verdicts = until(deadline, verdicts)
        for item, raw in zip(group.items, verdicts, strict=True):
            verdict = _renamed(raw, item.name)
            entries = accepting(known, verdict, baseline.today)
            yield CheckedImage(report_path(item.name), verdict, classify(verdict, entries), policies, entries)


def _renamed(verdict: Verdict, name: str) -> Verdict:
    """``verdict`` under the item's name; its reasons do not repeat the name."""
    prefix = f"{verdict.source}: "
    reason = verdict.reason and verdict.reason.removeprefix(prefix)
    unexplained = tuple(line.removeprefix(prefix) for line in verdict.evidence.unexplained)
    return replace(
        verdict, source=name, reason=reason, evidence=replace(verdict.evidence, unexplained=unexplained)
    )


def classify(verdict: Verdict, accepted_by: Sequence[BaselineEntry] = ()) -> ImageStatus:
    """What a verdict means for the build."""
    if verdict.allowed:
        return ImageStatus.FLAGGED if verdict.action is Action.FLAG else ImageStatus.PASSED
    if not verdict.outcome.judged:
        return ImageStatus.UNJUDGED
    return ImageStatus.ACCEPTED if accepted_by else ImageStatus.FAILED


def until(deadline: float, items: Iterator[T]) -> Iterator[T]:
    """``items``, and OutOfTime as soon as the deadline has passed, even while waiting for the next one.

    ``items`` is read in a thread, which closes it and ends once the item it is waiting for has arrived.
    """
    arrived: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(_READ_AHEAD)
    abandoned = threading.Event()

    def put(last: bool, value: T | BaseException | None) -> None:
        while not abandoned.is_set():
            with contextlib.suppress(queue.Full):
                arrived.put((last, value), timeout=_WAIT)
                return

    def read() -> None:
        try:
            for item in items:
                put(False, item)
                if abandoned.is_set():
                    break
            put(True, None)
        except BaseException as error:
            put(True, error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    threading.Thread(target=read, name="policyguard-run", daemon=True).start()
    try:
        while True:
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise OutOfTime
            try:
                last, value = arrived.get(timeout=min(remaining, _WAIT))
            except queue.Empty:
                continue
            if not last:
                yield value  # type: ignore[misc]  # only the last one may be None or an error
            elif isinstance(value, BaseException):
                raise value
            else:
                return
    finally:
        abandoned.set()
