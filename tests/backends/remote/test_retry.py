"""What is asked again, how often, and until when: counted on the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from backends.remote.faults import BODIES, TRANSPORT, Fault
from backends.remote.server import ToyServer
from backends.remote.support import ask, backend, picture, policy
from policyguard import Guard
from policyguard.assessment import Assessment, Failure
from policyguard.backends.remote import Retries
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.retry import FLOOR, SHARE
from policyguard.backends.remote.servers import CONSECUTIVE, Servers
from policyguard.errors import BackendError, ConfigurationError, PolicyGuardError, UnavailableError
from support.clock import deadline
from support.waiting import wait_until

AGAIN = [
    "reset",
    "hangs up",
    "body cut short",
    "not http",
    "408",
    "429",
    "502",
    "503",
    "504",
    "520",
    "524",
    "529",
]
AGAIN_BODIES = ["empty body", "truncated json", "html"]
ONCE = ["huge body", "compressed", "gzip bomb", "500", "501", "204", "206", "400", "413", "418"]
NEVER = ["301", "401", "403", "404 path", "404 model", "405"]


def first(count: int, fault: Fault) -> Fault:
    """``fault`` for the first ``count`` calls, the honest answer afterwards."""
    left = count

    def send(handler: Any, answer: Any) -> None:
        nonlocal left
        left -= 1
        fault(handler, answer) if left >= 0 else handler.send_json(200, answer)

    return send


def failure(server: ToyServer, **options: Any) -> Failure:
    with backend(server, **options) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Failure)
    return found


class Waits:
    """Notes how long it was asked to wait, and waits for nothing."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)

    @property
    def retries(self) -> Retries:
        return Retries(sleep=self)


@pytest.mark.parametrize("fault", AGAIN + AGAIN_BODIES)
@pytest.mark.parametrize("count", [1, 2])
def test_what_may_be_gone_a_moment_later_is_asked_again(server: ToyServer, fault: str, count: int) -> None:
    server.fault = first(count, (TRANSPORT | BODIES)[fault])
    with backend(server) as guard:
        (found,) = guard.assess([ask(picture())])
    assert isinstance(found, Assessment)
    assert len(server.bodies()) == count + 1
    paid = [path for path, _ in server.calls if path.endswith("/chat/completions")]
    assert guard.stats().requests == len(paid) >= count + 1


@pytest.mark.parametrize("fault", AGAIN + AGAIN_BODIES)
def test_three_attempts_are_all_and_the_reason_says_so(server: ToyServer, fault: str) -> None:
    server.fault = (TRANSPORT | BODIES)[fault]
    found = failure(server)
    assert found.reason.endswith("(after 3 attempts)")
    assert found.retryable
    assert len(server.bodies()) == 3


@pytest.mark.parametrize("fault", ONCE)
def test_what_would_fail_again_is_asked_once(server: ToyServer, fault: str) -> None:
    server.fault = TRANSPORT[fault]
    assert "attempts" not in failure(server).reason
    assert len(server.bodies()) == 1


@pytest.mark.parametrize("fault", NEVER)
def test_a_wrong_set_up_is_asked_once_and_raised(server: ToyServer, fault: str) -> None:
    server.fault = TRANSPORT[fault]
    with backend(server) as guard, pytest.raises(ConfigurationError):
        guard.assess([ask(picture())])
    assert len(server.bodies()) == 1


def test_retries_can_be_turned_off(server: ToyServer) -> None:
    server.fault = TRANSPORT["503"]
    failure(server, retries=Retries.without_waits(attempts=1))
    assert len(server.bodies()) == 1


def test_waits_grow_and_are_random(server: ToyServer) -> None:
    server.fault = TRANSPORT["503"]
    seconds = []
    for _ in range(4):
        waits = Waits()
        failure(server, retries=waits.retries)
        seconds.append(waits.seconds)
    assert all(0.0 <= early <= 0.25 and 0.0 <= late <= 0.5 for early, late in seconds)
    assert len({early for early, _ in seconds}) > 1


@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_retry_after_is_honoured(server: ToyServer, status: int) -> None:
    server.fault = lambda handler, answer: handler.send_bytes(status, b"{}", **{"Retry-After": "2"})
    waits = Waits()
    failure(server, retries=waits.retries)
    assert len(waits.seconds) == 2
    assert all(2.0 <= wait <= 2.5 for wait in waits.seconds)


def test_a_real_wait_is_slept_on_the_event_loop(server: ToyServer) -> None:
    server.fault = first(1, TRANSPORT["429"])
    assert Retries().sleep is asyncio.sleep
    with backend(server, retries=Retries()) as guard:
        assert isinstance(guard.assess([ask(picture())])[0], Assessment)


def test_a_wait_that_the_deadline_has_no_room_for_fails_at_once(server: ToyServer) -> None:
    server.fault = lambda handler, answer: handler.send_bytes(429, b"{}", **{"Retry-After": "3600"})
    waits = Waits()
    found = failure(server, retries=waits.retries)
    assert found.reason.endswith("(HTTP 429); it asks to wait 3600 s (no time is left for another)")
    assert found.retryable
    assert not waits.seconds
    assert len(server.bodies()) == 1


def test_a_retry_that_cannot_end_in_time_is_not_started(server: ToyServer) -> None:
    server.fault = TRANSPORT["no answer"]
    found = failure(server, timeout=0.4, deadline=0.7)
    assert "no time is left" in found.reason
    assert len(server.bodies()) == 1


def test_a_call_that_timed_out_is_repeated_while_there_is_time(server: ToyServer) -> None:
    server.fault = first(1, TRANSPORT["no answer"])
    with backend(server, timeout=0.5, deadline=20.0) as guard:
        assert isinstance(guard.assess([ask(picture())])[0], Assessment)
    assert len(server.bodies()) == 2


@pytest.mark.parametrize("fault", ["no answer", "slow head", "slow body", "429", "503"])
def test_a_request_s_deadline_holds_across_calls_retries_waits_and_bodies(
    server: ToyServer, fault: str
) -> None:
    """Without it, none of these would come to an end in hours."""
    server.fault = TRANSPORT[fault]
    with backend(server, timeout=1e5, deadline=1e6, retries=Retries(attempts=10**6)) as guard:
        guard.warm()
        (found,) = guard.assess([replace(ask(picture()), deadline=deadline(0.5))])
    assert isinstance(found, Failure)
    assert found.retryable


def test_a_deadline_that_has_passed_asks_nothing(server: ToyServer) -> None:
    with backend(server) as guard:
        (found,) = guard.assess([replace(ask(picture()), deadline=deadline(-1.0))])
    assert isinstance(found, Failure)
    assert "deadline" in found.reason
    assert not server.calls


def test_a_guard_s_own_timeout_teaches_the_breaker_about_a_server_that_hangs(server: ToyServer) -> None:
    with Guard(policy(), base_url=server.url, model="toy-guard", timeout=0.5) as guard:
        guard.check(picture())
        server.fault = TRANSPORT["no answer"]
        # On a slow machine decoding may take all of a check's time: such a check teaches nothing.
        reasons = [guard.check(picture(shade)).reason or "" for shade in range(4 * CONSECUTIVE)]
    assert any("circuit breaker is open" in reason for reason in reasons), reasons


def test_waiting_for_a_turn_counts_and_the_one_whose_turn_it_is_goes_on(server: ToyServer) -> None:
    server.delay = lambda scene: None
    with backend(server, concurrency=1) as guard, ThreadPoolExecutor(1) as pool:
        patient = pool.submit(guard.assess, [ask(picture(1))])
        wait_until(lambda: server.active)
        (hurried,) = guard.assess([replace(ask(picture(2)), deadline=deadline(0.1))])
        assert not patient.done()
        server.closing.set()
        assert isinstance(patient.result()[0], Assessment)
    assert isinstance(hurried, Failure)
    assert "deadline" in hurried.reason


def test_a_server_that_always_fails_sees_a_fifth_more_calls_at_most(server: ToyServer) -> None:
    server.fault, server.fault_at = TRANSPORT["429"], lambda path, body: True  # which opens no breaker
    calls = 200
    client = Servers(
        [Endpoint.parse(server.url)],
        timeout=100.0,
        total=1e6,
        concurrency=4,
        retries=Retries.without_waits(),
    )

    async def ask_all() -> list[str]:
        reasons = []
        for _ in range(calls):
            with pytest.raises(CallError) as caught:
                await client.call("GET", "/models")
            reasons.append(str(caught.value))
        await client.close()
        return reasons

    reasons = asyncio.run(ask_all())
    assert calls < len(server.calls) <= calls * (1 + SHARE) + FLOOR
    assert reasons[0].endswith("(after 3 attempts)")
    assert any("the retry budget is spent" in reason for reason in reasons)


def test_an_open_breaker_asks_nothing_and_says_when_it_will(server: ToyServer) -> None:
    server.fault, server.fault_at = TRANSPORT["500"], lambda path, body: True
    waits = Waits()
    with backend(server, concurrency=1, retries=Retries(cool_down=600.0, sleep=waits)) as guard:
        results = guard.assess([ask(picture(shade)) for shade in range(20)])
        assert len(server.calls) == CONSECUTIVE
        (found,) = guard.assess([ask(picture())])
    assert not waits.seconds
    assert len(server.calls) == CONSECUTIVE
    assert isinstance(found, Failure)
    assert found.retryable
    for said in ("127.0.0.1", "circuit breaker is open", "probes it in ", "HTTP 500"):
        assert said in found.reason
    assert all(isinstance(result, Failure) for result in results)


def test_a_probe_closes_the_breaker_of_a_server_that_is_back(server: ToyServer) -> None:
    server.fault, server.fault_at = TRANSPORT["500"], lambda path, body: True
    with backend(server, concurrency=1, retries=Retries.without_waits(cool_down=600.0)) as guard:
        guard.assess([ask(picture(shade)) for shade in range(CONSECUTIVE)])
        server.fault = None
        (refused,) = guard.assess([ask(picture())])
        (tried,) = guard._reader._servers._pool.servers
        tried.breaker._opened -= 600.0
        (found,) = guard.assess([ask(picture())])
    assert isinstance(refused, Failure)
    assert isinstance(found, Assessment)


@pytest.mark.parametrize("fault", ["503", "hangs up"])
@pytest.mark.parametrize("concurrency", [1, 8])
def test_with_patience_a_batch_waits_for_its_server_and_loses_no_image(
    server: ToyServer, fault: str, concurrency: int
) -> None:
    requests = [ask(picture(shade)) for shade in range(30)]
    server.fault = first(40, TRANSPORT[fault])

    def results(patience: float) -> Sequence[Any]:
        # A pause that leaves the loop to the call that probes: eight that only yield would spin beside it.
        retries = Retries(cool_down=0.0, sleep=lambda _: asyncio.sleep(0.002), patience=patience)
        with backend(server, concurrency=concurrency, retries=retries) as guard:
            return guard.assess(requests)

    assert any(isinstance(result, Failure) for result in results(0.0)), "what patience is for"
    server.fault = first(40, TRANSPORT[fault])
    assert all(isinstance(result, Assessment) for result in results(3600.0))


def test_an_outage_that_stays_costs_a_batch_its_patience_once(server: ToyServer) -> None:
    server.fault = TRANSPORT["503"]
    waits = Waits()
    retries = Retries(cool_down=3600.0, sleep=waits, patience=0.2)
    with backend(server, concurrency=1, retries=retries) as guard:
        assert isinstance(guard.assess([ask(picture())])[0], Failure)
        waited = len(waits.seconds)
        results = guard.assess([ask(picture(shade)) for shade in range(50)])
    assert 0 < waited == len(waits.seconds), "the patience is spent"
    assert all(isinstance(result, Failure) for result in results)


def test_an_image_that_breaks_its_server_is_not_asked_about_for_as_long_as_an_outage(
    server: ToyServer,
) -> None:
    bad = picture(7)
    breaking = len(server.bodies())

    async def wait_and_answer_another(_: float) -> None:
        """Meanwhile the server answers somebody else."""
        guard._reader._servers._answers += 1

    server.fault = TRANSPORT["hangs up"]
    retries = Retries(attempts=1, sleep=wait_and_answer_another, patience=3600.0)
    with backend(server, concurrency=1, retries=retries) as guard:
        assert isinstance(guard.assess([ask(bad)])[0], Failure)
    assert breaking + 2 == len(server.bodies())


def test_patience_ends_and_is_not_spent_on_what_a_server_refuses(server: ToyServer) -> None:
    server.fault = TRANSPORT["503"]
    waits = Waits()
    with backend(server, retries=Retries(cool_down=0.0, sleep=waits, patience=0.2)) as guard:
        (result,) = guard.assess([ask(picture())])
    assert isinstance(result, Failure)
    assert result.retryable
    server.fault = TRANSPORT["400"]
    calls = len(server.bodies())
    with backend(server, retries=Retries(sleep=waits, patience=3600.0)) as guard:
        assert isinstance(guard.assess([ask(picture())])[0], Failure)
    assert calls + 1 == len(server.bodies())


@pytest.mark.parametrize("fault", ["400", "429", "413", "418"])
def test_pictures_and_load_open_no_breaker(server: ToyServer, fault: str) -> None:
    server.fault = TRANSPORT[fault]
    with backend(server, concurrency=1) as guard:
        guard.assess([ask(picture(shade)) for shade in range(3 * CONSECUTIVE)])
        server.fault = None
        assert isinstance(guard.assess([ask(picture())])[0], Assessment)


def test_callers_in_a_hurry_open_no_breaker(server: ToyServer) -> None:
    server.fault = TRANSPORT["no answer"]
    with backend(server) as guard:
        guard.warm()
        for shade in range(CONSECUTIVE + 1):
            hurried = replace(ask(picture(shade)), deadline=deadline(0.1))
            assert isinstance(guard.assess([hurried])[0], Failure)
        server.fault = None
        assert isinstance(guard.assess([ask(picture())])[0], Assessment)


def subclasses(kind: type[PolicyGuardError]) -> list[type[PolicyGuardError]]:
    return [kind, *(each for sub in kind.__subclasses__() for each in subclasses(sub))]


def test_errors_that_a_caller_may_retry_are_a_branch_of_their_own() -> None:
    import policyguard.errors

    retryable = {kind for kind in subclasses(PolicyGuardError) if kind.retryable}
    assert retryable == {UnavailableError}
    assert issubclass(UnavailableError, BackendError)
    drawn = policyguard.errors.__doc__ or ""
    assert all(name in drawn for name in policyguard.errors.__all__ if name != "Problem")


@pytest.mark.parametrize(
    ("fault", "kind"), [("503", UnavailableError), ("reset", UnavailableError), ("501", BackendError)]
)
def test_warm_tells_a_server_that_is_away_from_one_that_cannot(
    server: ToyServer, fault: str, kind: type[BackendError]
) -> None:
    server.fault, server.fault_at = TRANSPORT[fault], lambda path, body: True
    with backend(server) as guard, pytest.raises(BackendError) as caught:
        guard.warm()
    assert type(caught.value) is kind


def test_without_tenacity_the_error_names_the_extra(
    server: ToyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tenacity", None)
    with pytest.raises(ConfigurationError, match=r"\[remote\]"):
        backend(server)


def test_a_wrong_deadline_is_refused(server: ToyServer) -> None:
    wrong: list[Callable[[], object]] = [
        lambda: backend(server, deadline=0.0),
        lambda: backend(server, deadline=float("inf")),
        lambda: backend(server, cache_salt=""),
    ]
    for build in wrong:
        with pytest.raises(ConfigurationError):
            build()
