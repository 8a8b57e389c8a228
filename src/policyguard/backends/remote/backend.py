"""RemoteBackend: the ``Backend`` that a Guard talks to, and the thread in which its calls run."""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from copy import copy
from typing import TYPE_CHECKING, Any, TypeVar

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity
from policyguard.backends.base import AssessmentRequest, Backend
from policyguard.backends.registry import DEFAULT_DIALECT, resolve_served
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.reader import Reader
from policyguard.backends.remote.retry import Retries
from policyguard.backends.remote.servers import Servers
from policyguard.backends.stats import Counters, GuardStats
from policyguard.dialects import get_dialect
from policyguard.dialects.base import render_for
from policyguard.errors import BackendError, ConfigurationError, UnavailableError
from policyguard.strict.arguments import InOneProcess, count, seconds, text, texts

if TYPE_CHECKING:
    from policyguard.dialects import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = ["RemoteBackend"]

Result = Assessment | Failure
T = TypeVar("T")

_CLOSED = "the backend was closed before the server answered"
CLOSED = Failure(FailureKind.ERROR, _CLOSED)

_CALL_SECONDS = 60.0
_CALL_SECONDS_OF_OWN = 300.0
_CONCURRENCY = 8
_log = logging.getLogger("policyguard.backends")

_PATIENCE = 2.0
"""Seconds for cancelled work to end, and again for connections to close."""


class LoopOwner(InOneProcess, ABC):
    """What asks servers on an event loop of its own, from any number of threads and event loops."""

    def __init__(self, counters: Counters | None = None) -> None:
        self._counters = counters or Counters()
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def stats(self) -> GuardStats:
        """How often servers were asked."""
        return self._counters.snapshot()

    @abstractmethod
    def _open(self) -> Callable[[], Awaitable[None]]:
        """Set up the connections, which belong to the loop to come; returns what closes them."""
        ...

    def close(self) -> None:
        """Cancel what is in flight and close all connections. The backend cannot be used afterwards."""
        with self._lock:
            self._closed = True
            thread = self._thread
        thread.stop()

    def _run(self, work: Callable[[], Coroutine[object, object, T]], *, closed: T) -> T:
        """What ``work()`` gives, or ``closed`` if it is closed meanwhile. Raises ConfigurationError after."""
        try:
            return self._wait(work)
        except CancelledError:
            return closed

    async def _arun(self, work: Callable[[], Coroutine[object, object, T]], *, closed: T) -> T:
        """``_run`` without blocking the caller's event loop; cancelling it cancels the work."""
        future = self._submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return closed

    def _wait(self, work: Callable[[], Coroutine[object, object, T]]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        finally:
            future.cancel()  # an interrupted caller leaves no work behind

    def _submit(self, work: Callable[[], Coroutine[object, object, T]]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise ConfigurationError(f"the backend is closed: {self!r}", hint="create a new one")
            if self._thread.forked:
                self._start()
            return self._thread.submit(work)

    def _start(self) -> None:
        self._thread = LoopThread(self._open())
        # The thread ends with its owner even if nobody calls close().
        weakref.finalize(self, self._thread.let_go).atexit = False


class RemoteBackend(LoopOwner, Backend):
    """Asks a model on an OpenAI-compatible server that gives log-probabilities, such as vLLM.

    Args:
        base_url: where the API is, as in ``http://gpu:8000/v1``; several for servers that run the same
            model, which share the work and replace each other. All of them get the API key.
        model: the name under which the server runs the model.
        api_key: sent as a bearer token, never shown.
        dialect: how that model is prompted and read; default: the one the registry knows for its name, held
            against what the server tells of the model before the first image.
        timeout: seconds for one HTTP call from first to last byte. Default: 60, and 300 where all servers are
            on this machine or in a private network, as they may run on a CPU.
        deadline: seconds for all that is done about one frame once its turn has come: up to three calls,
            their retries and the waits between them. Default: three times ``timeout``. A request's own
            ``deadline`` holds as well.
        concurrency: how many frames are asked about at the same time, over all threads and event loops.
            Default: 8, and more where ``check_many`` is given more workers.
        retries: when calls are repeated; see docs/reliability.md.
        cache_salt: keeps what the server caches of policies and images apart from other clients'.
        max_pixels: larger frames are scaled down to it before they are sent; default: the model family's
            own limit, above which the server would do the same.

    Connects on first use. Thread-safe, and usable from any number of event loops. Raises
    ConfigurationError for settings that cannot work and MissingExtraError without httpx and tenacity.
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        model: str,
        api_key: str | None = None,
        dialect: Dialect | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        concurrency: int | None = None,
        retries: Retries | None = None,
        cache_salt: str | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self._name = text("model", model)
        self._cache_salt = None if cache_salt is None else text("cache_salt", cache_salt)
        self._max_pixels = None if max_pixels is None else count("max_pixels", max_pixels)
        self._bounded = concurrency is not None
        self._concurrency = _CONCURRENCY if concurrency is None else count("concurrency", concurrency)
        self._endpoints = _endpoints(base_url, api_key)
        if timeout is None:
            own = all(endpoint.private for endpoint in self._endpoints)
            self._timeout = _CALL_SECONDS_OF_OWN if own else _CALL_SECONDS
        else:
            self._timeout = seconds("timeout", timeout)
        self._total = 3.0 * self._timeout if deadline is None else seconds("deadline", deadline)
        self._by_hand = dialect is not None
        self._dialect = dialect or get_dialect(resolve_served(self._name).dialect or DEFAULT_DIALECT)
        self._retries = retries or Retries()
        super().__init__()

    def __repr__(self) -> str:
        urls = [endpoint.base for endpoint in self._endpoints]
        base_url = urls[0] if len(urls) == 1 else urls
        return f"RemoteBackend({base_url!r}, model={self._name!r}, dialect={self._dialect.name!r})"

    @property
    def model(self) -> ModelIdentity:
        """``id`` is MODEL@HOST, or MODEL@HOST1,HOST2: others may run different weights under that name."""
        hosts = sorted({endpoint.host for endpoint in self._endpoints})
        # What else answers depend on: the whole addresses, as one host may serve several, and the scale.
        settings = sorted({endpoint.base for endpoint in self._endpoints})
        if self._max_pixels is not None:
            settings.append(f"max_pixels={self._max_pixels}")
        if self._dialect.wording:
            settings.append(f"wording={self._dialect.wording}")
        return ModelIdentity(
            id=f"{self._name}@{','.join(hosts)}",
            dialect=self._dialect.name,
            dialect_version=self._dialect.version,
            layout=self._dialect.layout,
            backend="openai-compatible",
            world=self._dialect.world,
            settings=" ".join(settings),
        )

    @property
    def preferred_workers(self) -> int:
        """``concurrency``."""
        return self._concurrency

    def make_room(self, workers: int) -> None:
        """Ask about ``workers`` frames at the same time from now on, unless ``concurrency`` was given."""
        if workers > self._concurrency and self._bounded:
            _log.warning(
                "%d workers, and at most %d frames are with the server at the same time, as concurrency says",
                workers,
                self._concurrency,
            )
        elif workers > self._concurrency:

            async def widen() -> None:
                self._servers.widen(workers - before)

            before, self._concurrency = self._concurrency, workers
            self._wait(widen)

    def aside(self) -> RemoteBackend:
        """One that asks the same servers, with connections, retries and circuit breakers of its own."""
        twin = copy(self)
        LoopOwner.__init__(twin, self._counters)  # what is paid for is counted in one place
        return twin

    @property
    def cache_scope(self) -> str:
        """A digest of the API key: under one name, a server may give two customers different models."""
        key = self._endpoints[0].api_key
        return "" if key is None else hashlib.sha256(f"policyguard api key {key}".encode()).hexdigest()

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raises ConfigurationError when the model cannot judge by ``policy``. Asks no server.

        A server that has shown that it gives no scores is refused by policies that need them.
        """
        render_for(self._dialect, policy)
        self._reader.accept(policy)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request, in order. Raises ConfigurationError also after ``close``."""
        return self._run(lambda: self._reader.assess(requests), closed=_closed_failures(requests))

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """``assess`` without blocking the caller's event loop; cancelling it cancels the calls."""
        return await self._arun(lambda: self._reader.assess(requests), closed=_closed_failures(requests))

    def warm(self) -> None:
        """Connect, and check that every server runs the model.

        Raises ConfigurationError if one does not, and BackendError if none can be asked (UnavailableError,
        where that may pass).
        """
        try:
            self._wait(self._reader.warm)
        except CallError as error:
            kind = UnavailableError if error.failure.retryable else BackendError
            raise kind(error.failure.reason, hint="is the server up?") from None
        except CancelledError:
            raise BackendError(_CLOSED) from None

    def _open(self) -> Callable[[], Awaitable[None]]:
        self._servers = servers = Servers(
            self._endpoints,
            timeout=self._timeout,
            total=self._total,
            concurrency=self._concurrency,
            retries=self._retries,
            counters=self._counters,
        )
        self._reader = Reader(
            servers,
            model=self._name,
            dialect=self._dialect,
            by_hand=self._by_hand,
            cache_salt=self._cache_salt,
            max_pixels=self._max_pixels,
        )
        return servers.close


def _endpoints(base_url: str | Sequence[str], api_key: str | None) -> tuple[Endpoint, ...]:
    endpoints = tuple(Endpoint.parse(url, api_key) for url in texts("base_url", base_url))
    for number, endpoint in enumerate(endpoints):
        if endpoint in endpoints[:number]:
            raise ConfigurationError(f"base_url names {endpoint.base} twice")
    return endpoints


def _closed_failures(requests: Sequence[AssessmentRequest]) -> list[Result]:
    return [CLOSED] * len(requests)


_running: set[LoopThread] = set()


@atexit.register
def _stop_all() -> None:
    """At the interpreter's end, close what is still open, as far as that is quick."""
    for thread in list(_running):
        thread.stop()


class LoopThread:
    """An event loop in a thread of its own: runs coroutines until ``stop``, which cancels those still running
    and then awaits ``closing``.

    Callers are threads and event loops of any number, and connections belong to one loop. So one loop of
    ours serves them all: the bound on concurrent calls holds across all callers, deadlines are hard, a
    cancelled caller cancels its calls, and ``check`` works where an event loop already runs. Nobody waits for
    this thread without a bound, or for an answer that it will no longer give.

    Must not hold a reference to whatever stops it when collected.
    """

    def __init__(self, closing: Callable[[], Awaitable[None]]) -> None:
        self._closing = closing
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._stopped = False
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="policyguard-remote", daemon=True)
        self._thread.start()
        _running.add(self)

    @property
    def forked(self) -> bool:
        """Whether this is a forked child process, which does not have the thread."""
        return os.getpid() != self._pid

    def submit(self, work: Callable[[], Coroutine[object, object, T]]) -> Future[T]:
        """Start ``work()`` on the loop. Raises RuntimeError after ``stop``."""
        with self._lock:
            if self._stopped:
                raise RuntimeError("the loop is stopped")
            future = asyncio.run_coroutine_threadsafe(work(), self._loop)
            self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def let_go(self) -> None:
        """Begin to stop, without waiting: for the garbage collector.

        It may run in any thread and under any lock, so waiting for this thread could deadlock. Our own lock
        is not needed: no method of an object that is being collected is running.
        """
        if not self._stopped and not self.forked:
            self._stopped = True
            with suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stopping.set)

    def stop(self) -> None:
        """Cancel all work, close, and end the thread. May be called twice, and from any thread."""
        if self.forked:
            return
        with self._lock:
            self.let_go()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=3 * _PATIENCE)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._stopped = True
            self._loop.close()
            for future in list(self._waiting):
                future.cancel()
            _running.discard(self)

    async def _main(self) -> None:
        await self._stopping.wait()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_PATIENCE)
        with suppress(Exception):
            async with asyncio.timeout(_PATIENCE):
                await self._closing()
