"""The door to the servers: calls are spread over them, repeated where that helps, and bounded in time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from policyguard.backends.remote.connection import Connection, Method
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.faults import CallError, Reply
from policyguard.backends.remote.retry import Budget, Retries, persist, remaining, until
from policyguard.backends.remote.servers import Breaker, Pool, Server
from policyguard.errors import MissingExtraError

__all__ = ["Client", "Reply"]


class Client:
    """Calls to the servers that run one model; belongs to one event loop.

    Args:
        endpoints: the servers.
        timeout: seconds for one HTTP call from first to last byte, a hard bound.
        total: seconds for all calls and waits about one picture.
        concurrency: how many pictures are asked about at the same time at most.
        retries: when and how calls are repeated.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        timeout: float,
        total: float,
        concurrency: int,
        retries: Retries,
    ) -> None:
        try:
            import tenacity  # noqa: F401 (said now, and not in the middle of a batch)
        except ImportError:
            raise MissingExtraError("tenacity", "remote") from None
        self._pool = Pool(
            [
                Server(
                    Connection(endpoint, timeout=timeout, connections=concurrency),
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

    async def close(self) -> None:
        for server in self._pool.servers:
            await server.connection.close()

    def quote(self, words: object) -> str:
        """A server's own words, fit for a message: see ``Endpoint.quote``. All servers share one API key."""
        return self._pool.servers[0].connection.endpoint.quote(words)

    @asynccontextmanager
    async def turn(self, deadline: float | None) -> AsyncIterator[None]:
        """Wait until it is one picture's turn, and bound what is done about it inside.

        ``deadline`` bounds the wait too; ``total`` seconds begin with the turn. Raises CallError.
        """
        async with until(deadline), self._slots, until(time.monotonic() + self._total):
            yield

    async def call(self, method: Method, path: str, payload: object = None) -> Reply:
        """Send ``payload`` as JSON to ``path`` (see ``Endpoint.url``) on one of the servers.

        Raises CallError unless there is a whole answer below 500 to look at, and ConfigurationError for a
        certificate that is not to be trusted.
        """
        content = await _dumped(payload)
        tried: list[Server] = []

        async def attempt() -> Reply:
            server, ticket = self._pool.pick(tried)
            tried.append(server)
            return await server.call(ticket, method, path, content, within=min(self._timeout, remaining()))

        return await persist(
            attempt,
            retries=self._retries,
            budget=self._budget,
            elsewhere=lambda: self._pool.has_other(tried),
        )

    async def call_each(self, method: Method, path: str, payload: object = None) -> list[Reply | CallError]:
        """Ask every server the same; what one of them fails at is in its place. Breakers are passed by."""
        content = await _dumped(payload)

        async def ask(server: Server) -> Reply | CallError:
            try:
                async with until(time.monotonic() + self._total):
                    return await persist(
                        lambda: server.connection.call(
                            method, path, content, within=min(self._timeout, remaining())
                        ),
                        retries=self._retries,
                        budget=self._budget,
                    )
            except CallError as error:
                return error

        return await asyncio.gather(*map(ask, self._pool.servers))


async def _dumped(payload: object) -> bytes | None:
    if payload is None:
        return None
    return await asyncio.get_running_loop().run_in_executor(None, _dump, payload)


def _dump(payload: object) -> bytes:
    return json.dumps(payload, ensure_ascii=False, allow_nan=False).encode()
