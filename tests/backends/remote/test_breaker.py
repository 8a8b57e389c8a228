"""The parts that decide without asking anybody: breaker, retry budget, Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from policyguard.backends.remote.client import retry_after
from policyguard.backends.remote.retry import FLOOR, SHARE, Budget, Retries
from policyguard.backends.remote.retry import WINDOW as BUDGET_WINDOW
from policyguard.backends.remote.servers import CONSECUTIVE, ENOUGH, WINDOW, Breaker, State
from policyguard.errors import ConfigurationError
from support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(cool_down=5.0, clock=clock)


def call(breaker: Breaker, ok: bool | None) -> None:
    ticket = breaker.admit()
    assert ticket is not None
    breaker.record(ticket, ok)


def open_up(breaker: Breaker) -> None:
    for _ in range(CONSECUTIVE):
        call(breaker, False)


def test_a_breaker_opens_after_failures_in_a_row(breaker: Breaker) -> None:
    for _ in range(CONSECUTIVE - 1):
        call(breaker, False)
    assert breaker.state is State.CLOSED
    call(breaker, False)
    assert breaker.state is State.OPEN
    assert breaker.admit() is None
    assert not breaker.ready


def test_a_success_between_failures_starts_the_row_again(breaker: Breaker) -> None:
    for ok in [False] * (CONSECUTIVE - 1) + [True] + [False] * (CONSECUTIVE - 1):
        call(breaker, ok)
    assert breaker.state is State.CLOSED


def test_a_breaker_opens_when_half_of_many_calls_fail(breaker: Breaker) -> None:
    for number in range(ENOUGH):
        assert breaker.state is State.CLOSED
        call(breaker, number % 2 == 0)
    assert breaker.state is State.OPEN


def test_failures_of_long_ago_do_not_count(breaker: Breaker, clock: Clock) -> None:
    for _ in range(ENOUGH // 2):
        call(breaker, False)
        call(breaker, True)
        clock.now += WINDOW
    call(breaker, False)
    assert breaker.state is State.CLOSED


def test_calls_that_were_given_up_tell_nothing(breaker: Breaker) -> None:
    for _ in range(3 * CONSECUTIVE):
        call(breaker, None)
    assert breaker.state is State.CLOSED


def test_one_probe_is_let_through_after_the_cool_down(breaker: Breaker, clock: Clock) -> None:
    open_up(breaker)
    clock.now += 4.0
    assert breaker.probes_in == pytest.approx(1.0)
    assert breaker.admit() is None
    clock.now += 1.0
    assert breaker.admit() is not None
    assert breaker.state is State.PROBING
    assert breaker.admit() is None


def test_a_good_probe_closes_and_a_bad_one_opens_for_another_cool_down(
    breaker: Breaker, clock: Clock
) -> None:
    open_up(breaker)
    clock.now += 5.0
    call(breaker, False)
    assert breaker.state is State.OPEN
    assert breaker.probes_in == pytest.approx(5.0)
    clock.now += 5.0
    call(breaker, True)
    assert breaker.state is State.CLOSED
    for _ in range(CONSECUTIVE - 1):  # nothing of before is remembered
        call(breaker, False)
    assert breaker.state is State.CLOSED


def test_a_probe_that_is_given_up_makes_room_for_the_next(breaker: Breaker, clock: Clock) -> None:
    open_up(breaker)
    clock.now += 5.0
    call(breaker, None)
    assert breaker.admit() is not None


def test_late_results_of_earlier_calls_neither_close_nor_open(breaker: Breaker, clock: Clock) -> None:
    early = [breaker.admit() for _ in range(4)]
    open_up(breaker)
    clock.now += 5.0
    probe = breaker.admit()
    assert probe is not None
    for ticket, ok in zip(early, (True, False, None, True), strict=True):
        assert ticket is not None
        breaker.record(ticket, ok)
        assert breaker.state is State.PROBING
    breaker.record(probe, True)
    breaker.record(probe, False)  # used up
    assert breaker.state is State.CLOSED


def test_retries_stay_under_their_share_in_every_window(clock: Clock) -> None:
    budget = Budget(clock)
    calls: list[float] = []
    retries: list[float] = []
    for step in range(3000):
        clock.now += 0.02 if step % 500 < 400 else 0.2
        budget.call()
        calls.append(clock.now)
        while budget.take():
            retries.append(clock.now)
            recent = clock.now - BUDGET_WINDOW
            made, repeated = sum(t > recent for t in calls), sum(t > recent for t in retries)
            assert repeated <= FLOOR + SHARE * made
    assert len(retries) > SHARE * len(calls) * 0.9


def test_a_quiet_process_may_retry_and_a_spent_budget_comes_back(clock: Clock) -> None:
    budget = Budget(clock)
    assert [budget.take() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    clock.now += BUDGET_WINDOW
    assert budget.take()


NOW = datetime(2026, 11, 21, 17, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 12 ", 12.0),
        ("9" * 400, 999_999_999.0),
        ("Sat, 21 Nov 2026 17:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 16:00:00 GMT", 0.0),
        ("Saturday, 21-Nov-26 17:01:00 GMT", 60.0),
        *[(wrong, None) for wrong in ("", "-1", "1.5", "nan", "inf", "soon", "٣", "1 s", "0x10")],
        ("Sat, 99 Nov 2026 17:00:30 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"cool_down": -1.0}, {"cool_down": float("nan")}, {"cool_down": float("inf")}],
)
def test_retries_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Retries(**options)  # type: ignore[arg-type]
