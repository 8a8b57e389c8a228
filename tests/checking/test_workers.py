"""check_many with several workers: order, bounds, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from policyguard import ConfigurationError, Guard, Outcome
from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity, Rating, Result
from policyguard.backends.base import AssessmentRequest, Backend
from policyguard.checking import ahead
from policyguard.checking.rounds import Opened
from policyguard.images import snapshot
from policyguard.testing import FakeBackend
from support.guards import Watched, picture, png, policy, shade
from support.waiting import wait_until


@pytest.fixture
def own_threads() -> Callable[[], list[str]]:
    """The package's threads that this test started: one of an earlier test may still be ending."""
    others = set(threading.enumerate())

    def running() -> list[str]:
        return [
            t.name for t in threading.enumerate() if t.name.startswith("policyguard-") and t not in others
        ]

    return running


def counted(limit: int | None = None) -> tuple[list[int], Iterator[bytes]]:
    """Pictures of rising shade, and how many of them were drawn."""
    drawn = [0]

    def source() -> Iterator[bytes]:
        while limit is None or drawn[0] < limit:
            drawn[0] += 1
            yield png((drawn[0] - 1) % 100)

    return drawn, source()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("workers", [1, 2, 8])
def test_verdicts_keep_the_order_of_their_images_however_long_each_takes(workers: int, batch: int) -> None:
    chance = random.Random(workers)
    backend = Watched(lambda _: time.sleep(chance.random() / 100), preferred_batch=batch)
    verdicts = Guard(policy(), backend=backend).check_many((png(n) for n in range(100)), workers=workers)
    assert [n / 255 for n in range(100)] == [verdict.score for verdict in verdicts]
    assert backend.peak <= workers


@pytest.mark.parametrize("asked_for", [4, None])
def test_as_many_calls_run_at_once_as_there_are_workers(asked_for: int | None) -> None:
    meeting = threading.Barrier(4)  # opens only once four calls are inside
    backend = Watched(lambda _: meeting.wait(), preferred_workers=4)
    verdicts = list(Guard(policy(), backend=backend).check_many([png()] * 8, workers=asked_for))
    assert {Outcome.COMPLIES} == {verdict.outcome for verdict in verdicts}
    assert backend.peak == 4


def test_one_worker_is_the_caller_and_asks_nothing_before_it_is_wanted() -> None:
    threads = []
    backend = Watched(lambda _: threads.append(threading.current_thread()))
    verdicts = Guard(policy(), backend=backend).check_many([png()] * 5)
    assert backend.started == 0
    next(verdicts)
    assert [threading.current_thread()] == threads


def test_a_backend_that_says_only_what_it_must_gets_one_image_and_one_worker() -> None:
    calls: list[int] = []

    class Least(Backend):
        @property
        def model(self) -> ModelIdentity:
            return ModelIdentity("least")

        def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
            calls.append(len(requests))
            return [Assessment(Rating.SAFE, 0.1) for _ in requests]

    with Least() as backend:
        guard = Guard(policy(), backend=backend, cache="memory").warm()
        assert all(verdict.allowed for verdict in guard.check_many([png(n) for n in range(3)]))
        assert asyncio.run(guard.acheck(png(3))).allowed
    assert [1] * 4 == calls


@pytest.mark.parametrize("workers", [0, -1, 2.5, True, "4"])
def test_a_number_of_workers_that_cannot_be_is_refused_before_anything_is_drawn(workers: Any) -> None:
    guard = Guard(policy(), backend=FakeBackend())
    drawn, source = counted()
    with pytest.raises(ConfigurationError, match="workers"):
        guard.check_many(source, workers=workers)
    with pytest.raises(ConfigurationError, match="workers"):
        guard.acheck_as_completed(source, workers=workers)
    assert drawn == [0]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("workers", [1, 5])
def test_a_source_without_end_is_drawn_two_groups_per_worker_ahead(workers: int, batch: int) -> None:
    drawn, source = counted()
    verdicts = Guard(policy(), backend=Watched(preferred_batch=batch)).check_many(source, workers=workers)
    for taken in range(1, 30):
        next(verdicts)
        assert drawn[0] <= taken + (2 * workers + 1) * batch
    verdicts.close()


def test_a_slow_image_holds_up_no_more_than_the_window() -> None:
    others = threading.Semaphore(0)

    def during(requests: Any) -> None:
        if shade(requests[0]):
            others.release()
            return
        for _ in range(7):  # the rest of the window of two groups per worker
            others.acquire()

    backend = Watched(during)
    verdicts = list(Guard(policy(), backend=backend).check_many((png(n) for n in range(20)), workers=4))
    assert [n / 255 for n in range(20)] == [verdict.score for verdict in verdicts]


@pytest.mark.parametrize("way", ["close", "break"])
@pytest.mark.parametrize("workers", [1, 6])
def test_leaving_early_leaves_no_thread_and_no_call(
    workers: int, way: str, own_threads: Callable[[], list[str]]
) -> None:
    drawn, source = counted()
    backend = Watched(lambda _: time.sleep(0.01))
    verdicts = Guard(policy(), backend=backend).check_many(source, workers=workers)
    if way == "close":
        next(verdicts)
        verdicts.close()
    else:
        for _ in verdicts:
            break
        del verdicts
        gc.collect()
    assert (0, []) == (backend.running, own_threads())
    started = backend.started
    time.sleep(0.05)
    assert (started, True) == (backend.started, drawn[0] <= 1 + 2 * workers + 1)


def test_leaving_while_images_are_just_handed_to_decoding_never_hangs(
    own_threads: Callable[[], list[str]],
) -> None:
    guard = Guard(policy(), backend=Watched(preferred_batch=2))
    for _ in range(60):
        verdicts = guard.check_many([png()] * 100, workers=6)
        next(verdicts)
        verdicts.close()
    assert own_threads() == []


def test_ctrl_c_does_not_wait_for_calls_that_run(own_threads: Callable[[], list[str]]) -> None:
    go_on = threading.Event()
    running = threading.Event()

    def during(_: Any) -> None:
        running.set()
        go_on.wait()

    def source() -> Iterator[bytes]:
        yield png()
        running.wait()
        raise KeyboardInterrupt

    backend = Watched(during)
    with pytest.raises(KeyboardInterrupt):
        list(Guard(policy(), backend=backend).check_many(source(), workers=2))
    assert backend.running == 1
    go_on.set()
    wait_until(lambda: not own_threads())


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_source_that_fails_midway_loses_nothing_that_came_before(
    workers: int, batch: int, own_threads: Callable[[], list[str]]
) -> None:
    def source() -> Iterator[bytes]:
        for number in range(10):
            yield png(number)
        raise OSError("the disk went away")

    verdicts = Guard(policy(), backend=Watched(preferred_batch=batch)).check_many(source(), workers=workers)
    found: list[float | None] = []
    with pytest.raises(OSError, match="disk"):
        found.extend(verdict.score for verdict in verdicts)
    assert [number / 255 for number in range(10)] == found
    assert own_threads() == []


@pytest.mark.parametrize("workers", [1, 4])
def test_a_usage_error_midway_is_raised_once_and_ends_the_run(
    workers: int, own_threads: Callable[[], list[str]]
) -> None:
    def during(requests: Any) -> None:
        if shade(requests[0]) == 30:
            raise ConfigurationError("wrong key")

    _, source = counted()
    backend = Watched(during)
    verdicts = Guard(policy(), backend=backend).check_many(source, workers=workers)
    found: list[float | None] = []
    with pytest.raises(ConfigurationError, match="wrong key"):
        found.extend(verdict.score for verdict in verdicts)
    assert [n / 255 for n in range(len(found))] == found
    assert len(found) <= 30
    assert (0, []) == (backend.running, own_threads())
    assert backend.started <= 30 + 2 * workers + 1


def test_a_usage_error_does_not_wait_for_its_turn() -> None:
    raised, slow_is_done = threading.Event(), threading.Event()

    def during(requests: Any) -> None:
        if shade(requests[0]):
            raised.set()
            raise ConfigurationError("wrong key")
        raised.wait()
        time.sleep(0.3)
        slow_is_done.set()

    backend = Watched(during)
    with pytest.raises(ConfigurationError):
        next(Guard(policy(), backend=backend).check_many((png(n) for n in range(100)), workers=2))
    assert slow_is_done.is_set()  # nothing of the run is left
    assert backend.started <= 3


def test_what_fails_for_one_image_touches_no_other() -> None:
    def during(requests: Any) -> None:
        if shade(requests[0]) % 5 == 3:
            raise RuntimeError("lost")

    images = [b"broken" if n % 10 == 7 else png(n) for n in range(60)]
    found = [v.outcome for v in Guard(policy(), backend=Watched(during)).check_many(images, workers=6)]
    wanted = {3: Outcome.ERROR, 8: Outcome.ERROR, 7: Outcome.UNSCANNABLE}
    assert [wanted.get(n % 10, Outcome.COMPLIES) for n in range(60)] == found


def test_progress_is_told_in_the_caller_s_thread_and_its_error_ends_the_run(
    own_threads: Callable[[], list[str]],
) -> None:
    told = []

    def progress(done: int, total: int | None) -> None:
        told.append((done, total, threading.current_thread()))
        if done == 3:
            raise LookupError("the bar is broken")

    with pytest.raises(LookupError):
        list(Guard(policy(), backend=Watched()).check_many([png()] * 9, workers=3, progress=progress))
    assert [(n, 9, threading.current_thread()) for n in (1, 2, 3)] == told
    assert own_threads() == []


def test_calls_in_workers_see_the_caller_s_context() -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen = set()
    backend = Watched(lambda _: seen.add(tenant.get()))
    tenant.set("somebody")
    list(Guard(policy(), backend=backend).check_many([png()] * 6, workers=3))
    assert seen == {"somebody"}


@pytest.mark.parametrize("settled", [True, False], ids=["bytes", "PIL"])
@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (1, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_large_pictures_shorten_the_read_ahead_and_never_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, workers: int, batch: int, way: str, settled: bool
) -> None:
    monkeypatch.setattr(ahead, "READ_AHEAD_PIXELS", 100)  # less than two of the pictures
    guard = Guard(policy(), backend=Watched(preferred_batch=batch))
    images = (png(n) if settled else picture(n) for n in range(50))

    async def collect() -> list[float | None]:
        return [verdict.score async for verdict in guard.acheck_many(images, workers=workers)]

    found = (
        [verdict.score for verdict in guard.check_many(images, workers=workers)]
        if way == "sync"
        else asyncio.run(collect())
    )
    assert [n / 255 for n in range(50)] == found


def test_decoding_pauses_while_enough_pixels_wait() -> None:
    from policyguard.images import decode

    opened: list[object] = []

    def opening(source: object) -> Opened:
        opened.append(source)
        return Opened("", decode(source), 0.0)

    reader = ahead.Ahead(opening, workers=2, pixels=3 * 64)
    futures = [reader.submit(png(n), n) for n in range(40)]
    futures[2].result()
    time.sleep(0.1)
    assert 3 <= len(opened) <= 3 + 4 + 1  # what is held, and one per thread on its way
    for group, future in enumerate(futures):
        assert not isinstance(future.result().image, Failure)
        reader.release(group)
    reader.close(wait=True)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_run_that_is_left_open_does_not_keep_the_interpreter_from_ending(workers: int) -> None:
    code = (
        "from support.guards import FakeBackend, png, policy\n"
        "from policyguard import Guard\n"
        "from policyguard.checking import ahead\n"
        "ahead.READ_AHEAD_PIXELS = 1\n"
        "guard = Guard(policy(), backend=FakeBackend(0.1, preferred_batch=2))\n"
        f"verdicts = guard.check_many((png(n) for n in range(99)), workers={workers})\n"
        "print(next(verdicts).outcome)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert (0, "complies\n", "") == (done.returncode, done.stdout, done.stderr)


def test_sixty_four_threads_share_one_guard() -> None:
    guard = Guard(policy(), backend=Watched())
    wrong: list[Any] = []
    ready = threading.Barrier(64)

    def work(start: int) -> None:
        ready.wait()
        for n in range(start, 256, 64):
            verdict = guard.check(png(n))
            if verdict.score != n / 255:
                wrong.append(verdict)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_check_and_check_many_work_where_an_event_loop_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(51))
    guard = Guard(policy(), backend=Watched())

    async def handler() -> list[float | None]:
        return [guard.check(path).score, *(v.score for v in guard.check_many([path] * 3, workers=2))]

    assert [0.2] * 4 == asyncio.run(handler())


def test_a_failure_among_many_names_its_reason() -> None:
    backend = FakeBackend(Failure(FailureKind.ERROR, "the server is down"), preferred_batch=1)
    verdicts = list(Guard(policy(), backend=backend).check_many([png()] * 4, workers=4))
    assert [(False, "the server is down")] * 4 == [(v.allowed, v.reason) for v in verdicts]


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("cache", [None, "memory"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_path_that_is_used_again_names_the_picture_of_its_turn(
    tmp_path: Path, kind: Any, cache: str | None, workers: int
) -> None:
    path = tmp_path / "frame.png"

    def frames() -> Iterator[Any]:
        for number in range(40):
            path.write_bytes(png(number))
            yield kind(path)
        path.unlink()

    guard = Guard(policy(), backend=Watched(preferred_batch=3), cache=cache)
    verdicts = list(guard.check_many(frames(), workers=workers))
    assert [number / 255 for number in range(40)] == [verdict.score for verdict in verdicts]
    assert {str(path)} == {verdict.source for verdict in verdicts}


def test_files_that_were_read_count_as_what_waits_for_the_model(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(bytes(3000))
    held = ahead.Ahead(lambda source: Opened("", Failure(FailureKind.ERROR, ""), 0.0), workers=1, pixels=1000)
    held.submit(snapshot(path), 0).result()
    assert held.full
    held.release(0)
    assert not held.full
    held.close(wait=True)
