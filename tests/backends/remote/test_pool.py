"""Several servers that run one model: they share the work, and stand in for each other."""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backends.remote.faults import TRANSPORT
from backends.remote.server import ToyServer
from backends.remote.support import ask, backend_on, picture, policy
from policyguard import Guard
from policyguard.assessment import Assessment, Failure
from policyguard.backends import build_backend
from policyguard.backends.remote import Retries
from policyguard.backends.remote.client import JsonClient
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.servers import CONSECUTIVE, Breaker, Pool, Server
from policyguard.errors import ConfigurationError, UnavailableError
from support.clock import Clock


@pytest.fixture
def servers() -> Iterator[list[ToyServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(ToyServer()) for _ in range(3)]


def urls(servers: list[ToyServer]) -> list[str]:
    return [server.url for server in servers]


def requests(count: int) -> list[Any]:
    return [ask(picture(shade)) for shade in range(count)]


def nowhere() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def test_all_servers_get_work(servers: list[ToyServer]) -> None:
    with backend_on(urls(servers), concurrency=6) as guard:
        for server in servers:
            server.delay = lambda scene: 0.02
        results = guard.assess(requests(24))
    assert all(isinstance(result, Assessment) for result in results)
    assert all(len(server.bodies()) >= 4 for server in servers)


@pytest.mark.parametrize("fault", ["500", "503", "reset", "no answer", "html", "dead"])
def test_a_server_that_fails_is_stood_in_for(servers: list[ToyServer], fault: str) -> None:
    from backends.remote.faults import BODIES

    where = urls(servers)
    if fault == "dead":
        where[0] = nowhere()
    else:
        servers[0].fault = (TRANSPORT | BODIES)[fault]
    with backend_on(where, concurrency=2, timeout=1.0, deadline=30.0) as guard:
        results = guard.assess(requests(20))
    failed = [result for result in results if isinstance(result, Failure)]
    # What is not repeated fails until the breaker opens, and only then.
    assert len(failed) <= (CONSECUTIVE if fault == "500" else 0), failed
    assert len(servers[0].bodies()) <= CONSECUTIVE + 1


def test_the_retry_goes_to_another_server_and_waits_for_no_retry_after_of_the_first(
    servers: list[ToyServer],
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    for server in servers:
        server.fault = lambda handler, answer: handler.send_bytes(429, b"{}", **{"Retry-After": "9"})
    with backend_on(urls(servers), retries=Retries(sleep=sleep)) as guard:
        guard.assess(requests(1))
    assert [len(server.bodies()) for server in servers] == [1, 1, 1]
    assert all(wait < 1.0 for wait in waits)


def test_a_server_that_asked_for_quiet_is_left_to_the_others(servers: list[ToyServer]) -> None:
    quiet = servers[0]
    quiet.fault = lambda handler, answer: handler.send_bytes(429, b"{}", **{"Retry-After": "600"})
    with backend_on(urls(servers), concurrency=2) as guard:
        results = guard.assess(requests(30))
    assert all(isinstance(result, Assessment) for result in results)
    assert 1 <= len(quiet.bodies()) <= 2


@pytest.mark.parametrize("fault", ["401", "403", "404 model", "404 path", "301"])
def test_one_server_with_a_wrong_set_up_stops_everything(servers: list[ToyServer], fault: str) -> None:
    servers[1].fault, servers[1].fault_at = TRANSPORT[fault], lambda path, body: True
    open_door = policy(outcomes={"error": "allow"})
    with backend_on(urls(servers), concurrency=1) as backend:
        guard = Guard(open_door, backend=backend)
        with pytest.raises(ConfigurationError):
            list(guard.check_many(picture(shade) for shade in range(200)))
    assert 1 <= len(servers[1].calls) <= 2


def test_warm_looks_at_every_server(servers: list[ToyServer]) -> None:
    with backend_on(urls(servers)) as guard:
        guard.warm()
        assert [len(server.calls) for server in servers] == [1, 1, 1]
        servers[2].model = "another"
        with pytest.raises(ConfigurationError, match="it serves: another"):
            guard.warm()


def test_warm_passes_by_servers_that_are_away_unless_all_are(servers: list[ToyServer]) -> None:
    with backend_on([nowhere(), servers[0].url]) as guard:
        guard.warm()
    with backend_on([nowhere(), nowhere()]) as guard, pytest.raises(UnavailableError):
        guard.warm()


def test_when_all_servers_fail_the_reason_names_them(servers: list[ToyServer]) -> None:
    for server in servers:
        server.fault, server.fault_at = TRANSPORT["500"], lambda path, body: True
    retries = Retries.without_waits(cool_down=600.0)
    with backend_on(urls(servers), concurrency=1, retries=retries) as guard:
        *_, last = guard.assess(requests(5 * CONSECUTIVE))
    assert isinstance(last, Failure)
    assert all(server.url.split("/")[2] in last.reason for server in servers)
    assert [len(server.calls) for server in servers] == [CONSECUTIVE] * 3


def test_the_identity_is_the_same_in_whatever_order_the_servers_are_given(servers: list[ToyServer]) -> None:
    where = urls(servers)
    with backend_on(where) as one, backend_on(where[::-1]) as other:
        assert one.model == other.model
        hosts = ",".join(sorted(url.split("/")[2] for url in where))
        assert one.model.id == f"toy-guard@{hosts}"
        assert all(url in repr(one) for url in where)


@pytest.mark.parametrize("wrong", [[], ["http://gpu/v1", "http://gpu/v1/"], ["http://gpu/v1", ""]])
def test_lists_of_servers_that_make_no_sense_are_refused(wrong: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        backend_on(wrong)


def test_servers_may_be_named_in_one_setting(servers: list[ToyServer]) -> None:
    where = urls(servers)[:2]
    for given in (", ".join(where), where):
        with build_backend("toy-guard", base_url=given) as guard:
            assert guard.model.id.count(",") == 1


def test_a_server_that_dies_in_the_middle_loses_no_picture_and_lets_none_through(
    servers: list[ToyServer], tmp_path: Path
) -> None:
    for server in servers:
        server.delay = lambda scene: 0.01
        server.default.unsafe = 0.9
    with backend_on(urls(servers), concurrency=4) as backend:
        guard = Guard(policy(), backend=backend)
        verdicts = []
        for verdict in guard.check_many(picture(shade) for shade in range(30)):
            verdicts.append(verdict)
            if len(verdicts) == 8:
                servers[0].die()
    assert len(verdicts) == 30
    assert not any(verdict.allowed for verdict in verdicts)
    assert all(verdict.outcome.judged for verdict in verdicts), Counter(v.reason for v in verdicts)


def pool(count: int) -> Pool:
    endpoints = [Endpoint.parse(f"http://gpu{number}:8000/v1") for number in range(count)]
    made = [Server(JsonClient(each, timeout=1.0, connections=1), Breaker()) for each in endpoints]
    return Pool(made, chance=random.Random(0).random)


def test_the_server_with_the_least_to_do_is_picked_and_ties_are_broken_by_chance() -> None:
    three = pool(3)
    first = Counter(three.pick()[0].host for _ in range(300))
    assert len(first) == 3
    assert min(first.values()) > 50
    busy, free, middling = three.servers
    busy.in_flight, middling.in_flight = 5, 1
    assert {three.pick()[0] for _ in range(20)} == {free}
    assert {three.pick([free])[0] for _ in range(20)} == {middling}
    assert {three.pick([free, middling])[0] for _ in range(20)} == {busy}
    assert {three.pick(three.servers)[0] for _ in range(20)} == {free}


def test_a_server_behind_an_open_breaker_is_not_picked() -> None:
    two = pool(2)
    broken, well = two.servers
    for server in (broken, well):
        for _ in range(CONSECUTIVE):
            ticket = server.breaker.admit()
            assert ticket is not None
            server.breaker.record(ticket, ok=False)
        if server is broken:
            well.in_flight = 100
            assert two.pick([well])[0] is well
            assert not two.has_other([well])
    with pytest.raises(CallError, match="gpu0:8000, gpu1:8000 all keep failing"):
        two.pick()


def test_no_header_keeps_a_server_out_of_the_pool_for_more_than_a_minute(
    servers: list[ToyServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("policyguard.backends.remote.servers.time.monotonic", clock)
    server = Server(None, Breaker())  # type: ignore[arg-type]
    server.leave_alone(1e9)
    clock.now += 59.0
    assert server.quiet
    clock.now += 2.0
    assert not server.quiet


def test_a_server_that_answers_again_is_left_alone_no_longer(servers: list[ToyServer]) -> None:
    answers = iter([False])  # busy once, then well

    def busy_once(handler: Any, answer: Any) -> None:
        if next(answers, True):
            handler.send_json(200, answer)
        else:
            handler.send_bytes(429, b"{}", **{"Retry-After": "3000"})

    servers[0].fault = busy_once
    with backend_on(urls(servers[:1]), retries=Retries.without_waits(attempts=1)) as guard:
        first, second = guard.assess(requests(1)), guard.assess(requests(1))
        (server,) = guard._reader._servers._pool.servers
        assert isinstance(first[0], Failure)
        assert isinstance(second[0], Assessment)
        assert not server.quiet
