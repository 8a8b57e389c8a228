"""Which of several servers is asked: one that is well, that did not ask to be left alone and has not just
failed this very call, and of these the one with least to do.

A circuit breaker: a server that keeps failing is left alone for a while. It waits for nothing itself.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum

from policyguard.backends.remote.connection import Connection, Method
from policyguard.backends.remote.faults import CallError, Reply

__all__ = [
    "Breaker",
    "Pool",
    "Server",
    "State",
]


CONSECUTIVE = 5
"""As many failures in a row open it."""

WINDOW, ENOUGH, MOST = 30.0, 20, 0.5
"""So does this share of failures among at least ENOUGH results of the last WINDOW seconds."""


class State(StrEnum):
    """``CLOSED`` lets calls through, ``OPEN`` none, ``PROBING`` waits for the result of a single one."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"


class Breaker:
    """Opens on failures, lets one probe through after ``cool_down`` seconds, and closes when it succeeds.

    Args:
        cool_down: seconds between opening, or a failed probe, and the next probe.
        clock: tells the seconds; only differences count.

    Belongs to one event loop, or one thread. ``admit`` gives a ticket for each call that may be made, and
    ``record`` takes it back with the result; results of calls from before the last change of state say
    nothing about the server as it is now, and are ignored.
    """

    def __init__(self, *, cool_down: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State.CLOSED
        self._cool_down = cool_down
        self._clock = clock
        self._since = 0
        self._opened = 0.0
        self._in_a_row = 0
        self._results: deque[tuple[float, bool]] = deque()

    @property
    def ready(self) -> bool:
        """Whether ``admit`` would let a call through."""
        return self.state is State.CLOSED or (self.state is State.OPEN and self.probes_in <= 0.0)

    @property
    def probes_in(self) -> float:
        """Seconds until the next probe; 0 when closed, or when one is due or under way."""
        if self.state is not State.OPEN:
            return 0.0
        return max(0.0, self._opened + self._cool_down - self._clock())

    def admit(self) -> int | None:
        """A ticket for one call, or None while no call may be made."""
        if not self.ready:
            return None
        if self.state is State.OPEN:
            self._turn(State.PROBING)
        return self._since

    def record(self, ticket: int, ok: bool | None) -> None:
        """The call went well, or failed as failing servers do; None: it was given up, and tells nothing."""
        if ticket != self._since:
            return
        if self.state is State.PROBING:
            if ok is None:  # the next call may probe at once
                self._turn(State.OPEN)
            else:
                self._close() if ok else self._open()
        elif ok is not None:
            self._count(ok)

    def _count(self, ok: bool) -> None:
        now = self._clock()
        self._results.append((now, ok))
        while self._results[0][0] < now - WINDOW:
            self._results.popleft()
        self._in_a_row = 0 if ok else self._in_a_row + 1
        failed = sum(not good for _, good in self._results) if not ok else 0
        if self._in_a_row >= CONSECUTIVE or (
            len(self._results) >= ENOUGH and failed >= MOST * len(self._results) and not ok
        ):
            self._open()

    def _open(self) -> None:
        self._opened = self._clock()
        self._turn(State.OPEN)

    def _close(self) -> None:
        self._turn(State.CLOSED)

    def _turn(self, state: State) -> None:
        self.state = state
        self._since += 1
        self._in_a_row = 0
        self._results.clear()


_LONGEST_QUIET = 60.0
"""Seconds. No header keeps a server out of the pool for longer."""


class Server:
    """One server: its connections, its breaker, how many calls are on their way to it, and its last words."""

    def __init__(self, connection: Connection, breaker: Breaker) -> None:
        self.connection = connection
        self.breaker = breaker
        self.in_flight = 0
        self.words = ""
        self._quiet_until = 0.0

    @property
    def host(self) -> str:
        return self.connection.endpoint.host

    @property
    def quiet(self) -> bool:
        """Whether it said by ``Retry-After`` that it wants no calls yet."""
        return time.monotonic() < self._quiet_until

    def leave_alone(self, seconds: float) -> None:
        """It asked for that."""
        self._quiet_until = time.monotonic() + min(seconds, _LONGEST_QUIET)

    async def call(
        self, ticket: int, method: Method, path: str, content: bytes | None, *, within: float
    ) -> Reply:
        """One call, for which the breaker gave ``ticket``. Raises what ``Connection.call`` raises."""
        ok: bool | None = None
        quiet_until = self._quiet_until
        self.in_flight += 1
        try:
            reply = await self.connection.call(method, path, content, within=within)
            ok = True
            if quiet_until == self._quiet_until:  # it asked for nothing since this call began
                self._quiet_until = 0.0
            return reply
        except CallError as error:
            ok = self._judged(error)
            if error.retry_after is not None:
                self.leave_alone(error.retry_after)
            if ok is False:
                self.words = str(error)
            raise
        finally:
            self.in_flight -= 1
            self.breaker.record(ticket, ok)

    @staticmethod
    def _judged(error: CallError) -> bool | None:
        """A server that answers is well, whatever it answers; a call that had no time tells nothing."""
        return False if error.server_failed else None if error.timed_out else True


class Pool:
    """The servers that run one model."""

    def __init__(self, servers: Sequence[Server], *, chance: Callable[[], float] = random.random) -> None:
        self.servers = tuple(servers)
        self._chance = chance

    def has_other(self, tried: Collection[Server]) -> bool:
        """Whether a server outside ``tried`` may be asked now."""
        others = (server for server in self.servers if server not in tried)
        return any(server.breaker.ready and not server.quiet for server in others)

    def pick(self, tried: Collection[Server] = ()) -> tuple[Server, int]:
        """A server and its breaker's ticket; a quiet one, or one of ``tried``, only if there is no other.

        Raises CallError when all are being left alone.
        """
        ready = [server for server in self.servers if server.breaker.ready]
        if not ready:
            raise self._none_ready()
        best = min(ready, key=lambda each: (each.quiet, each in tried, each.in_flight, self._chance()))
        ticket = best.breaker.admit()
        assert ticket is not None
        return best, ticket

    def _none_ready(self) -> CallError:
        next_one = min(self.servers, key=lambda server: server.breaker.probes_in)
        soon = next_one.breaker.probes_in
        when = f"the next call probes it in {soon:.1f} s" if soon else "a call is probing it now"
        one = len(self.servers) == 1
        which = (
            f"{next_one.host} keeps" if one else f"{', '.join(each.host for each in self.servers)} all keep"
        )
        return CallError(
            f"{which} failing, so the circuit breaker is open and {when}; last: {next_one.words}",
            retryable=True,
        )
