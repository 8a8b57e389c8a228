"""Which of several servers is asked: one that is well, that did not ask to be left alone and has not just
failed this very call, and of these the one with least to do.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence

from policyguard.backends.vllm.breaker import Breaker
from policyguard.backends.vllm.connection import Connection, Method, Reply
from policyguard.backends.vllm.faults import CallError

__all__ = ["Pool", "Server"]


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

    async def call(
        self, ticket: int, method: Method, path: str, content: bytes | None, *, within: float
    ) -> Reply:
        """One call, for which the breaker gave ``ticket``. Raises what ``Connection.call`` raises."""
        ok: bool | None = None
        self.in_flight += 1
        try:
            reply = await self.connection.call(method, path, content, within=within)
            ok = True
            return reply
        except CallError as error:
            ok = self._judged(error)
            if error.retry_after is not None:
                self._quiet_until = time.monotonic() + error.retry_after
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
