"""Ctrl-C falls between images; a log gets plain lines."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from policyguard.cli.progress import uninterrupted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as on POSIX")


@pytest.fixture(autouse=True)
def _pythons_own_handler() -> Iterator[None]:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def interrupted(times: int, done: list[bool]) -> None:
    with uninterrupted():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        done.append(True)


def test_a_log_gets_plain_lines_while_a_long_run_goes_on() -> None:
    from policyguard.cli.progress import log_lines

    log = io.StringIO()
    tell = log_lines(log, 3, every=0.0)
    for done in (1, 2, 3):
        tell(done, "0 blocked, 0 not judged")
    assert ["1 of 3 images: 0 blocked, 0 not judged", "2 of 3 images: 0 blocked, 0 not judged"] == (
        log.getvalue().splitlines()
    )


def test_one_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(1, done)
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_gets_through() -> None:
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(2, done)
    assert not done


def test_a_handler_that_somebody_else_installed_stays_in_charge() -> None:
    seen = []
    signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert [signal.SIGINT] == seen


def test_it_does_nothing_outside_the_main_thread() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
