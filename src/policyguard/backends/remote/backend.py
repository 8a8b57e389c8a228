"""RemoteBackend: the ``Backend`` that a Guard talks to."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, TypeVar

from policyguard.assessment import Assessment, Failure, FailureKind, ModelIdentity
from policyguard.backends.base import AssessmentRequest, Backend
from policyguard.backends.remote.client import Client
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.faults import CallError
from policyguard.backends.remote.loop import LoopThread
from policyguard.backends.remote.reader import Reader
from policyguard.backends.remote.retry import Retries
from policyguard.dialects.base import render_for
from policyguard.errors import BackendError, ConfigurationError, UnavailableError
from policyguard.strict.arguments import count, seconds, text, texts

if TYPE_CHECKING:
    from policyguard.dialects import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = ["RemoteBackend"]

Result = Assessment | Failure
T = TypeVar("T")


class RemoteBackend(Backend):
    """Asks a model on an OpenAI-compatible server that gives log-probabilities, such as vLLM.

    Args:
        base_url: where the API is, as in ``http://gpu:8000/v1``; several for servers that run the same
            model, which share the work and stand in for each other. All of them get the API key.
        model: the name under which the server runs the model.
        api_key: sent as a bearer token, and shown nowhere.
        dialect: how that model is spoken to.
        timeout: seconds for one HTTP call from first to last byte.
        deadline: seconds for all that is done about one picture from its turn on: up to three calls, their
            retries and the waits between them. Default: three times ``timeout``. A request's own
            ``deadline`` holds as well.
        concurrency: how many pictures are asked about at the same time, over all threads and event loops.
        retries: how failing servers are met; see docs/reliability.md.
        cache_salt: keeps what the server caches of policies and pictures apart from other clients'.
        max_pixels: larger pictures are scaled down to it before they are sent; default: the model family's
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
        dialect: Dialect,
        timeout: float = 60.0,
        deadline: float | None = None,
        concurrency: int = 8,
        retries: Retries | None = None,
        cache_salt: str | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self._name = text("model", model)
        self._timeout = seconds("timeout", timeout)
        self._total = 3.0 * self._timeout if deadline is None else seconds("deadline", deadline)
        self._cache_salt = None if cache_salt is None else text("cache_salt", cache_salt)
        self._max_pixels = None if max_pixels is None else count("max_pixels", max_pixels)
        self._concurrency = count("concurrency", concurrency)
        self._endpoints = _endpoints(base_url, api_key)
        self._dialect = dialect
        self._retries = retries or Retries()
        self._lock = threading.Lock()
        self._closed = False
        self._open()

    def __repr__(self) -> str:
        urls = [endpoint.base for endpoint in self._endpoints]
        shown = urls[0] if len(urls) == 1 else urls
        return f"RemoteBackend({shown!r}, model={self._name!r}, dialect={self._dialect.name!r})"

    @property
    def model(self) -> ModelIdentity:
        """``id`` is MODEL@HOST, or MODEL@HOST1,HOST2: others may run different weights under that name."""
        hosts = sorted({endpoint.host for endpoint in self._endpoints})
        return ModelIdentity(
            id=f"{self._name}@{','.join(hosts)}",
            dialect=self._dialect.name,
            dialect_version=self._dialect.version,
            layout=self._dialect.layout,
            backend="vllm",
            world=self._dialect.world,
            settings=" ".join(self._told_apart_by()),
        )

    @property
    def preferred_workers(self) -> int:
        """``concurrency``."""
        return self._concurrency

    @property
    def cache_scope(self) -> str:
        """A digest of the API key: behind one name, a server may answer one customer by another model."""
        key = self._endpoints[0].api_key
        return "" if key is None else hashlib.sha256(f"policyguard api key {key}".encode()).hexdigest()

    def _told_apart_by(self) -> Iterator[str]:
        """What else answers depend on: the whole addresses, as one host may serve several, and the scale."""
        yield from sorted({endpoint.base for endpoint in self._endpoints})
        if self._max_pixels is not None:
            yield f"max_pixels={self._max_pixels}"

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raises ConfigurationError when ``policy`` cannot be put to the model. Asks no server."""
        render_for(self._dialect, policy)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """One result per request, in order. Raises ConfigurationError also after ``close``."""
        try:
            return self._wait(lambda: self._reader.assess(requests))
        except CancelledError:
            return _cut_off(requests)

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """``assess`` without blocking the caller's event loop; cancelling it cancels the calls."""
        future = self._submit(lambda: self._reader.assess(requests))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return _cut_off(requests)

    def warm(self) -> None:
        """Connect, and look whether the server runs the model.

        With several servers, each of them. Raises ConfigurationError if one does not run it, and BackendError
        if none can be asked (UnavailableError, where that may change by itself).
        """
        try:
            self._wait(self._reader.chat.find_model)
        except CallError as error:
            kind = UnavailableError if error.failure.retryable else BackendError
            raise kind(error.failure.reason, hint="is the server up?") from None
        except CancelledError:
            raise BackendError(_CUT_OFF) from None

    def close(self) -> None:
        """Cancel what is in flight and close all connections. The backend cannot be used afterwards."""
        with self._lock:
            self._closed = True
            thread = self._thread
        thread.stop()

    def _wait(self, work: Callable[[], Coroutine[object, object, T]]) -> T:
        future = self._submit(work)
        try:
            return future.result()
        finally:
            future.cancel()  # nothing goes on when the caller is interrupted

    def _submit(self, work: Callable[[], Coroutine[object, object, T]]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise ConfigurationError(f"the backend is closed: {self!r}", hint="build a new one")
            if self._thread.forked:
                self._open()
            return self._thread.submit(work)

    def _open(self) -> None:
        client = Client(
            self._endpoints,
            timeout=self._timeout,
            total=self._total,
            concurrency=self._concurrency,
            retries=self._retries,
        )
        self._reader = Reader(
            client,
            model=self._name,
            dialect=self._dialect,
            cache_salt=self._cache_salt,
            max_pixels=self._max_pixels,
        )
        self._thread = LoopThread(client.close)
        # The thread ends with the backend also where nobody calls close(). The garbage collector may come at
        # any moment and under any lock, so it waits for nothing; the interpreter's end does (see LoopThread).
        weakref.finalize(self, self._thread.let_go).atexit = False


def _endpoints(base_url: str | Sequence[str], api_key: str | None) -> tuple[Endpoint, ...]:
    found = tuple(Endpoint.parse(url, api_key) for url in texts("base_url", base_url))
    for number, endpoint in enumerate(found):
        if endpoint in found[:number]:
            raise ConfigurationError(f"base_url names {endpoint.base} twice")
    return found


_CUT_OFF = "the backend was closed before the server answered"


def _cut_off(requests: Sequence[AssessmentRequest]) -> list[Result]:
    return [Failure(FailureKind.ERROR, _CUT_OFF)] * len(requests)
