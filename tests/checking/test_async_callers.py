"""acheck, acheck_many and acheck_as_completed: bounds, cancellation, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from policyguard import ConfigurationError, Guard, Outcome
from policyguard.checking import ahead
from support.guards import AsyncWatched, Watched, png, policy, shade


def slow(seconds: float) -> Callable[[Any], Awaitable[None]]:
    async def during(_: Any) -> None:
        await asyncio.sleep(seconds)

    return during


def run(work: Awaitable[Any]) -> Any:
    """Run ``work`` on a loop; afterwards only the task that ran it may be alive."""

    async def alone() -> Any:
        result = await work
        assert {asyncio.current_task()} == asyncio.all_tasks()
        return result

    return asyncio.run(alone())


async def for_ever() -> None:
    await asyncio.Event().wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("workers", [1, 8])
def test_verdicts_keep_the_order_of_their_images_however_long_each_takes(workers: int, batch: int) -> None:
    chance = random.Random(workers)

    async def during(_: Any) -> None:
        await asyncio.sleep(chance.random() / 100)

    async def work() -> list[float | None]:
        backend = AsyncWatched(during, preferred_batch=batch)
        verdicts = Guard(policy(), backend=backend).acheck_many((png(n) for n in range(80)), workers=workers)
        found = [verdict.score async for verdict in verdicts]
        assert backend.peak <= workers
        return found

    assert [n / 255 for n in range(80)] == run(work())


@pytest.mark.parametrize("asked_for", [4, None])
def test_as_many_calls_run_at_once_as_there_are_workers(asked_for: int | None) -> None:
    async def work() -> set[Outcome]:
        meeting = asyncio.Barrier(4)  # opens only once four calls are inside

        async def during(_: Any) -> None:
            await meeting.wait()

        backend = AsyncWatched(during, preferred_workers=4)
        guard = Guard(policy(), backend=backend)
        outcomes = {v.outcome async for v in guard.acheck_many([png()] * 8, workers=asked_for)}
        assert backend.peak == 4
        return outcomes

    assert {Outcome.COMPLIES} == run(work())


@pytest.mark.parametrize("batch", [1, 3])
def test_as_completed_gives_every_image_once_under_its_own_place_the_quick_ones_first(batch: int) -> None:
    first_is_wanted = asyncio.Event()

    async def during(requests: Any) -> None:
        if shade(requests[0]) == 0:
            await first_is_wanted.wait()

    async def work() -> list[int]:
        guard = Guard(policy(), backend=AsyncWatched(during, preferred_batch=batch))
        places = []
        async for place, verdict in guard.acheck_as_completed([png(n) for n in range(20)], workers=2):
            assert verdict.score == place / 255
            places.append(place)
            if len(places) == 20 - batch:
                first_is_wanted.set()
        return places

    places = run(work())
    assert list(range(20)) == sorted(places)
    assert places[-batch:] == list(range(batch))


def test_unordered_verdicts_come_without_their_places() -> None:
    async def work() -> set[float | None]:
        guard = Guard(policy(), backend=AsyncWatched())
        return {
            v.score async for v in guard.acheck_many([png(n) for n in range(9)], workers=3, ordered=False)
        }

    assert {n / 255 for n in range(9)} == run(work())


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_source_without_end_is_drawn_two_groups_per_worker_ahead(batch: int, kind: str) -> None:
    drawn = 0

    def plain() -> Iterator[bytes]:
        nonlocal drawn
        while True:
            drawn += 1
            yield png()

    async def asynchronous() -> AsyncIterator[bytes]:
        for image in plain():
            yield image

    async def work() -> None:
        guard = Guard(policy(), backend=AsyncWatched(preferred_batch=batch))
        source = plain() if kind == "plain" else asynchronous()
        async with aclosing(guard.acheck_many(source, workers=3)) as verdicts:
            for taken in range(1, 12):
                await anext(verdicts)
                await settle()  # a caller who takes his time
                assert drawn <= taken + (2 * 3 + 1) * batch

    run(work())


def test_verdicts_do_not_wait_for_a_source_that_is_slow_to_give_the_next_image() -> None:
    async def work() -> int:
        seen = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            for _ in range(5):
                seen.clear()
                yield png()
                await seen.wait()

        count = 0
        async for _ in Guard(policy(), backend=AsyncWatched()).acheck_many(source(), workers=4):
            count += 1
            seen.set()
        return count

    assert run(work()) == 5


def test_the_source_runs_in_one_task_from_start_to_end() -> None:
    tasks = set()

    async def source() -> AsyncIterator[bytes]:
        async with asyncio.timeout(1e6):  # must be left by the task that entered it
            for _ in range(20):
                tasks.add(asyncio.current_task())
                yield png()

    async def work() -> int:
        guard = Guard(policy(), backend=AsyncWatched())
        return len([verdict async for verdict in guard.acheck_many(source(), workers=4)])

    assert run(work()) == 20
    assert len(tasks) == 1


@pytest.mark.parametrize("way", ["aclose", "break", "cancel", "timeout", "loop ends"])
@pytest.mark.parametrize("ordered", [True, False])
def test_leaving_early_leaves_no_task_and_no_call(way: str, ordered: bool) -> None:
    hanging = asyncio.Event()

    judged: set[int] = set()

    async def during(requests: Any) -> None:
        number = shade(requests[0])
        # Earlier, they could take all workers before the first verdict is there.
        if number > 3 and (0 in judged if ordered else judged):
            hanging.set()
            await for_ever()
        judged.add(number)

    backend = AsyncWatched(during)
    guard = Guard(policy(), backend=backend)

    async def source() -> AsyncIterator[bytes]:
        for number in range(200):
            yield png(number)

    async def consume(*, stop: bool = False) -> None:
        async for _ in guard.acheck_many(source(), workers=5, ordered=ordered):
            if stop:
                await hanging.wait()
                break

    async def consume_until_time_runs_out() -> None:
        async def run_out() -> None:
            await hanging.wait()
            limit.reschedule(0.0)

        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
            group.create_task(run_out())
            await consume()

    async def work() -> None:
        if way == "aclose":
            verdicts = guard.acheck_many(source(), workers=5, ordered=ordered)
            await anext(verdicts)
            await hanging.wait()
            await verdicts.aclose()
        elif way == "break":
            await consume(stop=True)
            gc.collect()
            await settle()
        elif way == "timeout":
            with pytest.raises(TimeoutError):
                await consume_until_time_runs_out()
        else:
            task = asyncio.create_task(consume())
            await hanging.wait()
            if way == "loop ends":
                return
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert backend.running == 0

    if way == "loop ends":
        asyncio.run(work())
    else:
        run(work())
    assert backend.running == 0
    assert backend.cancelled > 0
    assert backend.started < 20


def test_a_cancelled_check_cancels_its_call() -> None:
    asked = asyncio.Event()

    async def during(_: Any) -> None:
        asked.set()
        await for_ever()

    backend = AsyncWatched(during)

    async def work() -> None:
        task = asyncio.create_task(Guard(policy(), backend=backend).acheck(png()))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())
    assert (0, 1) == (backend.running, backend.cancelled)


@pytest.mark.parametrize("way", ["acheck", "acheck_many"])
def test_a_call_that_the_backend_itself_gives_up_is_an_error_and_no_cancellation(way: str) -> None:
    async def during(_: Any) -> None:
        raise asyncio.CancelledError

    async def work() -> list[Any]:
        guard = Guard(policy(), backend=AsyncWatched(during))
        if way == "acheck":
            return [await guard.acheck(png())]
        return [verdict async for verdict in guard.acheck_many([png()] * 3)]

    assert {(Outcome.ERROR, False)} == {(verdict.outcome, verdict.allowed) for verdict in run(work())}


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("kind", ["plain", "async"])
def test_a_source_that_fails_midway_loses_nothing_that_came_before(kind: str, batch: int) -> None:
    def plain() -> Iterator[bytes]:
        for number in range(10):
            yield png(number)
        raise OSError("the disk went away")

    async def asynchronous() -> AsyncIterator[bytes]:
        for image in plain():
            yield image

    found = []

    async def collect() -> None:
        guard = Guard(policy(), backend=AsyncWatched(slow(0.001), preferred_batch=batch))
        source = plain() if kind == "plain" else asynchronous()
        async for verdict in guard.acheck_many(source, workers=3):
            found.append(verdict.score)  # noqa: PERF401 (what came before the error stays)

    async def work() -> None:
        with pytest.raises(OSError, match="disk"):
            await collect()

    run(work())
    assert [number / 255 for number in range(10)] == found


def test_a_usage_error_midway_is_raised_and_leaves_nothing_running() -> None:
    broken = asyncio.Event()

    async def during(requests: Any) -> None:
        """Two workers hang; the third comes to the image that breaks, in any order of decoding."""
        if shade(requests[0]) == 5:
            broken.set()
            raise ConfigurationError("wrong key")
        hangs = shade(requests[0]) in (3, 4) or broken.is_set()
        await (for_ever() if hangs else asyncio.sleep(0.001))

    backend = AsyncWatched(during)

    async def work() -> None:
        with pytest.raises(ConfigurationError, match="wrong key"):
            async for _ in Guard(policy(), backend=backend).acheck_many(
                (png(n) for n in range(99)), workers=3
            ):
                pass
        assert backend.running == 0

    run(work())
    assert backend.started < 20


def test_what_fails_for_one_image_touches_no_other() -> None:
    async def during(requests: Any) -> None:
        if shade(requests[0]) % 5 == 3:
            raise RuntimeError("lost")

    async def work() -> list[Outcome]:
        guard = Guard(policy(), backend=AsyncWatched(during))
        return [v.outcome async for v in guard.acheck_many([png(n) for n in range(30)], workers=6)]

    assert [Outcome.ERROR if n % 5 == 3 else Outcome.COMPLIES for n in range(30)] == run(work())


def test_an_error_of_progress_ends_the_run() -> None:
    def progress(done: int, total: int | None) -> None:
        assert total == 9
        if done == 3:
            raise LookupError("the bar is broken")

    backend = AsyncWatched(slow(0.001))

    async def work() -> None:
        with pytest.raises(LookupError):
            async for _ in Guard(policy(), backend=backend).acheck_many(
                [png()] * 9, workers=2, progress=progress
            ):
                pass

    run(work())
    assert backend.running == 0


def test_one_guard_serves_loop_after_loop() -> None:
    guard = Guard(policy(), backend=AsyncWatched(slow(0.001)))

    async def work() -> list[float | None]:
        return [verdict.score async for verdict in guard.acheck_many([png(51)] * 5, workers=2)]

    for _ in range(3):
        assert [0.2] * 5 == run(work())


def test_sixty_four_checks_run_on_one_loop() -> None:
    async def work() -> list[Any]:
        guard = Guard(policy(), backend=AsyncWatched(slow(0.01)))
        return await asyncio.gather(*(guard.acheck(png(n)) for n in range(64)))

    assert [n / 255 for n in range(64)] == [verdict.score for verdict in run(work())]


def test_an_async_iterable_is_not_for_check_many() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield png()

    with pytest.raises(ConfigurationError, match="acheck_many"):
        Guard(policy(), backend=AsyncWatched()).check_many(source())  # type: ignore[arg-type]


@pytest.mark.parametrize("cache", [None, "memory"])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_path_that_is_used_again_names_the_picture_of_its_turn(
    tmp_path: Path, cache: str | None, ordered: bool
) -> None:
    path = tmp_path / "frame.png"

    def frames() -> Iterator[str]:
        for number in range(40):
            path.write_bytes(png(number))
            yield str(path)
        path.unlink()

    async def main() -> list[float | None]:
        guard = Guard(policy(), backend=Watched(), cache=cache)
        return [verdict.score async for verdict in guard.acheck_many(frames(), workers=4, ordered=ordered)]

    found = run(main())
    assert [number / 255 for number in range(40)] == (found if ordered else sorted(found))


def test_drawing_pauses_while_enough_memory_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "READ_AHEAD_PIXELS", 100)
    drawn = 0

    async def main() -> None:
        first_is_held, go_on = asyncio.Event(), asyncio.Event()

        async def paths() -> AsyncIterator[str]:
            nonlocal drawn
            for number in range(20):
                (tmp_path / f"{number}.png").write_bytes(png(number, side=16))
                drawn += 1
                yield str(tmp_path / f"{number}.png")
                await first_is_held.wait()

        async def during(_: Any) -> None:
            first_is_held.set()
            await go_on.wait()

        guard = Guard(policy(), backend=AsyncWatched(during))
        async with aclosing(guard.acheck_many(paths(), workers=4)) as verdicts:
            first = asyncio.ensure_future(anext(verdicts))
            await first_is_held.wait()
            await settle()
            assert drawn <= 2
            go_on.set()
            scores = [(await first).score] + [verdict.score async for verdict in verdicts]
        assert [number / 255 for number in range(20)] == scores

    run(main())


def test_leaving_early_closes_the_source() -> None:
    closed = False

    async def source() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield png()
        finally:
            closed = True

    async def main() -> None:
        async with aclosing(Guard(policy(), backend=AsyncWatched()).acheck_many(source())) as verdicts:
            await anext(verdicts)
        assert closed

    run(main())
