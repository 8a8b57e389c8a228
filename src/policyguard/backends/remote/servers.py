"""The servers that run one model: which one is called, when it is left alone, and how calls are repeated.

A call goes to a server whose circuit breaker is closed, that did not ask to be left alone and has not just
failed this very call; of these, to the one with the fewest calls in flight. Covered: no more calls in flight
than ``concurrency``, over all callers; a server that keeps failing is left alone; all calls about one frame
end within ``total`` seconds.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum

from policyguard.backends.remote.client import JsonClient, Method, json_bytes
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError, Reply
from policyguard.backends.remote.retry import Budget, Retries, call_with_retries, remaining, until
from policyguard.backends.stats import Counters
from policyguard.errors import MissingExtraError

__all__ = ["Breaker", "Pool", "Server", "Servers", "State"]

CONSECUTIVE = 5
"""This many failures in a row open a breaker."""

WINDOW, ENOUGH, MOST = 30.0, 20, 0.5
"""So does a share of MOST failures among at least ENOUGH results of the last WINDOW seconds."""

_AGAIN = 1.0
"""Seconds. A call that waits for servers to come back looks again after so long at most."""

_LONGEST_QUIET = 60.0
"""Seconds. No header keeps a server out of use for longer."""


class Servers:
    """Calls to the servers that run one model; belongs to one event loop.

    Args:
        endpoints: the servers.
        timeout: seconds for one HTTP call from first to last byte, a hard bound.
        total: seconds for all calls and waits about one frame.
        concurrency: how many frames are asked about at the same time at most.
        retries: when and how calls are repeated.
        counters: where what is asked of models is counted.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        timeout: float,
        total: float,
        concurrency: int,
        retries: Retries,
        counters: Counters | None = None,
    ) -> None:
        try:
            import tenacity  # noqa: F401 (raised now, not in the middle of a batch)
        except ImportError:
            raise MissingExtraError("tenacity", "remote") from None
        self._pool = Pool(
            [
                Server(
                    JsonClient(endpoint, timeout=timeout, connections=concurrency, counters=counters),
                    Breaker(cool_down=retries.cool_down),
                )
                for endpoint in endpoints
            ]
        )
        self._timeout = timeout
        self._total = total
        self._retries = retries
        self._budget = Budget()
        self._slots = asyncio.Semaphore(concurrency)
        self._answers = 0
        self._out_since: float | None = None

    def widen(self, more: int) -> None:
        """Let so many more frames be asked about at the same time."""
        for slots in (self._slots, *(server.client.slots for server in self._pool.servers)):
            for _ in range(more):
                slots.release()

    async def close(self) -> None:
        for server in self._pool.servers:
            await server.client.close()

    def quote(self, words: object) -> str:
        """Words of a server or an exception, fit for a message; see ``Endpoint.quote``."""
        # All servers share one API key.
        return self._pool.servers[0].client.endpoint.quote(words)

    @asynccontextmanager
    async def turn(self, deadline: float | None) -> AsyncIterator[None]:
        """Wait for the turn of one frame, and bound what is done about it inside.

        ``deadline`` bounds the wait too; ``total`` seconds begin with the turn. Raises CallError.
        """
        async with (
            until(deadline),
            self._slots,
            until(time.monotonic() + self._total + self._retries.patience),
        ):
            yield

    async def call(self, method: Method, path: str, payload: object = None) -> Reply:
        """Send ``payload`` as JSON to ``path`` (see ``Endpoint.url``) on one of the servers.

        While no server can be reached, waits as long as ``retries.patience`` says, counted from the begin of
        the outage, so that one which stays costs a batch this time once. Raises CallError unless there is a
        whole answer below 500 to look at, and ConfigurationError for a certificate that is not trusted.
        """
        content = None if payload is None else json_bytes(payload)
        began, answers = time.monotonic(), self._answers
        first = True
        while True:
            try:
                reply = await self._call_once(method, path, content)
            except CallError as error:
                # Where others were answered since this call failed last, it is not the servers that are out.
                failed = error.retry_now and error.server_failed and (first or answers == self._answers)
                if not (failed or self._pool.is_out):
                    raise
                self._out_since = began if self._out_since is None else self._out_since
                left = self._out_since + self._retries.patience - time.monotonic()
                if left <= 0.0:
                    raise
                first, answers = False, self._answers
            else:
                self._out_since, self._answers = None, self._answers + 1
                return reply
            # A little later than the probe is due, and not all at the same moment.
            await self._retries.sleep(min(self._pool.probes_in + random.uniform(_AGAIN / 2, _AGAIN), left))

    async def _call_once(self, method: Method, path: str, content: bytes | None) -> Reply:
        """One call with its retries."""
        tried: list[Server] = []

        async def attempt() -> Reply:
            server, ticket = self._pool.pick(tried)
            tried.append(server)
            return await server.call(ticket, method, path, content, within=min(self._timeout, remaining()))

        return await call_with_retries(
            attempt,
            retries=self._retries,
            budget=self._budget,
            other_server=lambda: self._pool.has_other(tried),
        )

    async def call_each(
        self, method: Method, path: str, payload: object = None, *, only: Endpoint | None = None
    ) -> list[Reply | CallError]:
        """The answer, or the error, of every server in order, or of ``only`` one.

        Breakers are neither asked nor taught.
        """
        content = None if payload is None else json_bytes(payload)

        async def ask(server: Server) -> Reply | CallError:
            try:
                async with until(time.monotonic() + self._total):
                    return await call_with_retries(
                        lambda: server.client.call(
                            method, path, content, within=min(self._timeout, remaining())
                        ),
                        retries=self._retries,
                        budget=self._budget,
                    )
            except CallError as error:
                return error

        servers = [it for it in self._pool.servers if only in (None, it.client.endpoint)]
        return await asyncio.gather(*map(ask, servers))


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
    ``record`` takes it back with the result. Results of calls from before the last change of state are
    ignored.
    """

    def __init__(self, *, cool_down: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = State.CLOSED
        self._cool_down = cool_down
        self._clock = clock
        self._epoch = 0
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
            self._change_to(State.PROBING)
        return self._epoch

    def record(self, ticket: int, ok: bool | None) -> None:
        """Whether the server worked; None for a call that was given up and shows nothing."""
        if ticket != self._epoch:
            return
        if self.state is State.PROBING:
            if ok is None:  # the next call may probe at once
                self._change_to(State.OPEN)
            else:
                self._change_to(State.CLOSED) if ok else self._open()
        elif ok is not None:
            self._count(ok)

    def _count(self, ok: bool) -> None:
        now = self._clock()
        self._results.append((now, ok))
        while self._results[0][0] < now - WINDOW:
            self._results.popleft()
        self._in_a_row = 0 if ok else self._in_a_row + 1
        if ok:
            return
        failures = sum(not good for _, good in self._results)
        often = len(self._results) >= ENOUGH and failures >= MOST * len(self._results)
        if self._in_a_row >= CONSECUTIVE or often:
            self._open()

    def _open(self) -> None:
        self._opened = self._clock()
        self._change_to(State.OPEN)

    def _change_to(self, state: State) -> None:
        self.state = state
        self._epoch += 1
        self._in_a_row = 0
        self._results.clear()


class Server:
    """One server: its connections, its breaker, its calls in flight, and how it failed last."""

    def __init__(self, client: JsonClient, breaker: Breaker) -> None:
        self.client = client
        self.breaker = breaker
        self.in_flight = 0
        self.last_failure = ""
        self._quiet_until = 0.0

    @property
    def host(self) -> str:
        return self.client.endpoint.host

    @property
    def quiet(self) -> bool:
        """Whether its ``Retry-After`` still asks for no calls."""
        return time.monotonic() < self._quiet_until

    def leave_alone(self, seconds: float) -> None:
        """Honour a ``Retry-After`` of ``seconds``."""
        self._quiet_until = time.monotonic() + min(seconds, _LONGEST_QUIET)

    async def call(
        self, ticket: int, method: Method, path: str, content: bytes | None, *, within: float
    ) -> Reply:
        """One call, for which the breaker gave ``ticket``. Raises what ``JsonClient.call`` raises."""
        ok: bool | None = None
        quiet_until = self._quiet_until
        self.in_flight += 1
        try:
            reply = await self.client.call(method, path, content, within=within)
            ok = True
            if quiet_until == self._quiet_until:  # unless another call's answer has just set it
                self._quiet_until = 0.0
            return reply
        except CallError as error:
            ok = self._health(error)
            if error.retry_after is not None:
                self.leave_alone(error.retry_after)
            if ok is False:
                self.last_failure = str(error)
            raise
        finally:
            self.in_flight -= 1
            self.breaker.record(ticket, ok)

    @staticmethod
    def _health(error: CallError) -> bool | None:
        """Any answer shows a working server; a call that had too little time shows nothing."""
        return False if error.server_failed else None if error.timed_out else True


class Pool:
    """Picks the server for a call."""

    def __init__(self, servers: Sequence[Server], *, chance: Callable[[], float] = random.random) -> None:
        self.servers = tuple(servers)
        self._chance = chance

    @property
    def is_out(self) -> bool:
        """Whether no breaker is closed."""
        return all(server.breaker.state is not State.CLOSED for server in self.servers)

    @property
    def probes_in(self) -> float:
        """Seconds until a server may be asked; 0 where one may be, or is being probed."""
        return min(server.breaker.probes_in for server in self.servers)

    def has_other(self, tried: Collection[Server]) -> bool:
        """Whether a server outside ``tried`` may be asked now."""
        others = (server for server in self.servers if server not in tried)
        return any(server.breaker.ready and not server.quiet for server in others)

    def pick(self, tried: Collection[Server] = ()) -> tuple[Server, int]:
        """A server and its breaker's ticket; a quiet one, or one of ``tried``, only if there is no other.

        Raises CallError when all breakers are open.
        """
        ready = [server for server in self.servers if server.breaker.ready]
        if not ready:
            raise self._all_open()
        best = min(ready, key=lambda it: (it.quiet, it in tried, it.in_flight, self._chance()))
        ticket = best.breaker.admit()
        assert ticket is not None
        return best, ticket

    def _all_open(self) -> CallError:
        first = min(self.servers, key=lambda server: server.breaker.probes_in)
        wait = self.probes_in
        when = f"the next call probes it in {wait:.1f} s" if wait else "a call is probing it now"
        hosts = ", ".join(server.host for server in self.servers)
        keep = "keeps" if len(self.servers) == 1 else "all keep"
        return CallError(
            f"{hosts} {keep} failing, so the circuit breaker is open and {when}; last: {first.last_failure}",
            retryable=True,
        )
