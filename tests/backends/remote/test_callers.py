"""Many callers at once: threads, event loops, processes; and those that give up."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest

from backends.remote.server import ToyServer
from backends.remote.support import ask, backend, picture, policy
from policyguard import Guard
from policyguard.assessment import Assessment, Failure
from policyguard.backends.remote.backend import LoopThread
from policyguard.errors import ConfigurationError
from support.waiting import until

SCORES = [0.01, 0.99, 0.3, 0.7, 0.55, 0.2, 0.9, 0.05]


def show(server: ToyServer) -> None:
    for shade, unsafe in enumerate(SCORES):
        server.show(picture(shade), unsafe=unsafe)


def scores(results: list[Assessment | Failure]) -> list[float | None]:
    return [result.p_unsafe if isinstance(result, Assessment) else None for result in results]


def test_results_come_in_the_order_of_the_requests(server: ToyServer) -> None:
    show(server)
    server.delay = lambda scene: 0.02 * scene.unsafe  # later ones overtake earlier ones
    with backend(server, concurrency=6) as guard:
        found = scores(guard.assess([ask(picture(shade)) for shade in range(len(SCORES))]))
    assert found == pytest.approx(SCORES)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_no_more_pictures_are_in_flight_than_allowed(server: ToyServer, concurrency: int) -> None:
    server.delay = lambda scene: 0.01
    requests = [ask(picture(shade)) for shade in range(8)]
    with backend(server, concurrency=concurrency) as guard, ThreadPoolExecutor(3) as pool:
        for results in pool.map(guard.assess, [requests] * 3):
            assert None not in scores(results)
    assert min(concurrency, 2) <= server.most_active <= concurrency


def test_eight_threads_and_three_event_loops_share_one_backend(server: ToyServer) -> None:
    show(server)
    requests = [ask(picture(shade)) for shade in range(len(SCORES))]
    with backend(server) as guard, ThreadPoolExecutor(8) as pool:

        def in_a_loop(_: int) -> list[Assessment | Failure]:
            return asyncio.run(guard.aassess(requests))

        for results in [
            *pool.map(in_a_loop, range(3)),
            *pool.map(lambda _: guard.assess(requests), range(8)),
        ]:
            assert scores(results) == pytest.approx(SCORES)


def test_assess_works_inside_a_running_event_loop(server: ToyServer) -> None:
    async def notebook() -> list[Assessment | Failure]:
        with backend(server) as guard:
            return guard.assess([ask(picture())])

    assert None not in scores(asyncio.run(notebook()))


def test_aassess_leaves_the_event_loop_free(server: ToyServer) -> None:
    server.delay = lambda scene: None

    async def check() -> list[Assessment | Failure]:
        with backend(server) as guard:
            judging = asyncio.ensure_future(guard.aassess([ask(picture())]))
            await until(lambda: server.active)  # never, if the loop waited for the server
            server.closing.set()
            return await judging

    assert isinstance(asyncio.run(check())[0], Assessment)


def test_a_cancelled_caller_leaves_no_request_behind(server: ToyServer) -> None:
    server.delay = lambda scene: None

    async def give_up() -> None:
        asking = asyncio.ensure_future(guard.aassess([ask(picture(shade)) for shade in range(20)]))
        await until(lambda: server.active == 2)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    with backend(server, concurrency=2) as guard:
        asyncio.run(give_up())
        server.closing.set()
        assert None not in scores(guard.assess([ask(picture())]))
    assert len(server.bodies()) <= 3  # the two in flight, and the one afterwards


def test_closing_ends_what_is_in_flight_and_nothing_passes(server: ToyServer) -> None:
    server.delay = lambda scene: None
    guard = backend(server)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(guard.assess, [ask(picture())])

        async def wait() -> list[Assessment | Failure]:
            also = asyncio.ensure_future(guard.aassess([ask(picture())]))
            await until(lambda: server.active == 2)
            threading.Timer(0.0, guard.close).start()
            return await also

        results = [*asyncio.run(wait()), *waiting.result()]
    assert ["closed" in result.reason for result in results if isinstance(result, Failure)] == [True, True]


def test_a_closed_backend_says_so(server: ToyServer) -> None:
    guard = backend(server)
    guard.close()
    guard.close()
    with pytest.raises(ConfigurationError, match="closed"):
        guard.assess([ask(picture())])


def test_connections_are_kept_between_pictures(server: ToyServer) -> None:
    ports = set()
    original = server.process_request

    def watch(request: object, address: tuple[str, int]) -> None:
        ports.add(address[1])
        original(request, address)  # type: ignore[arg-type]

    server.process_request = watch  # type: ignore[method-assign, assignment]
    try:
        with backend(server, concurrency=2) as guard:
            for shade in range(6):
                guard.assess([ask(picture(shade))])
    finally:
        del server.process_request
    assert len(ports) <= 2, "at most as many as may run at once"


def test_a_forgotten_backend_ends_its_thread(server: ToyServer) -> None:
    before = set(threading.enumerate())
    guard = backend(server)
    (own,) = set(threading.enumerate()) - before
    del guard
    gc.collect()
    own.join()


def test_the_garbage_collector_waits_for_no_thread(server: ToyServer) -> None:
    before = set(threading.enumerate())
    guard = backend(server)
    (own,) = set(threading.enumerate()) - before
    under_way, go_on = threading.Event(), threading.Event()

    async def hold_the_loop() -> None:
        under_way.set()
        go_on.wait()  # as a thread does that waits for a lock which the collecting thread holds

    held = guard._thread.submit(hold_the_loop)
    under_way.wait()
    del guard
    gc.collect()
    assert own.is_alive()
    go_on.set()
    own.join()
    assert held.done()


def test_no_caller_waits_for_an_answer_of_a_loop_that_has_ended() -> None:
    async def nothing() -> None: ...

    async def stubborn() -> None:
        while True:  # swallows its cancellation
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    thread = LoopThread(nothing)
    waiting = thread.submit(stubborn)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), thread._loop).result()
    thread.stop()
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(RuntimeError):
        thread.submit(nothing)


def test_a_program_that_leaves_everything_open_ends(server: ToyServer) -> None:
    server.delay = lambda scene: None
    code = f"""
        import sys, threading, time
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from backends.remote.support import RemoteBackend, SafeguardDialect, ask, picture
        guard = RemoteBackend({server.url!r}, model="toy-guard", dialect=SafeguardDialect())
        threading.Thread(target=guard.assess, args=([ask(picture())],), daemon=True).start()
        time.sleep(0.3)
        assert False, "the program fails with its backend open and a call in flight"
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("a call in flight\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_connections_of_its_own(server: ToyServer) -> None:
    code = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from backends.remote.support import RemoteBackend, SafeguardDialect, ask, picture
        guard = RemoteBackend({server.url!r}, model="toy-guard", dialect=SafeguardDialect())
        assert guard.assess([ask(picture())])[0].p_unsafe < 0.5
        child = os.fork()
        good = guard.assess([ask(picture())])[0].p_unsafe < 0.5
        if child == 0:
            guard.close()
            os._exit(0 if good else 1)
        sys.exit(os.waitpid(child, 0)[1] or not good)
    """
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_exception_of_the_http_client_becomes_a_failure(server: ToyServer) -> None:
    import httpcore

    from policyguard.backends.remote.client import JsonClient
    from policyguard.backends.remote.endpoint import Endpoint
    from policyguard.backends.remote.errors import CallError

    foreign = [*vars(httpcore).values(), ConnectionResetError, ssl.SSLError, OSError]
    kinds = [kind for kind in foreign if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 15
    connection = JsonClient(Endpoint.parse(server.url), timeout=1.0, connections=1)

    async def raised(kind: type[Exception]) -> None:
        error = kind.__new__(kind)
        Exception.__init__(error, "boom")
        with pytest.raises(CallError):
            async with connection._own_errors(1.0):
                raise error

    async def each() -> None:
        for kind in kinds:
            await raised(kind)
        await connection.close()

    asyncio.run(each())


@pytest.mark.parametrize(("given", "most"), [(None, 24), (4, 4)])
def test_as_many_frames_are_in_flight_as_there_are_workers_unless_a_bound_was_given(
    server: ToyServer, given: int | None, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    together = threading.Barrier(most)
    first = iter(range(most))
    lock = threading.Lock()
    inside = most_inside = 0

    def gather(scene: object) -> float:
        nonlocal inside, most_inside
        with lock:
            inside += 1
            most_inside = max(most_inside, inside)
            waits = next(first, None) is not None
        if waits:
            together.wait()
        with lock:
            inside -= 1
        return 0.0

    images = [picture(shade) for shade in range(2, 2 + 3 * most)]
    with backend(server, concurrency=given) as on_server:
        guard = Guard(policy(), backend=on_server)
        guard.check(picture(1))  # finds out what the server can do
        server.delay = gather
        assert all(verdict.allowed for verdict in guard.check_many(images, workers=24))
        assert on_server.preferred_workers == most
    assert most_inside == most
    assert ("at most 4 frames" in caplog.text) is (given is not None)
