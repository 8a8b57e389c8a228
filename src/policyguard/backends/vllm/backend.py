"""VLLMBackend: the ``Backend`` that a Guard talks to."""

from __future__ import annotations

import asyncio
import math
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Self, TypeVar

from policyguard.assessment import Assessment, AssessmentRequest, Failure, FailureKind, ModelIdentity
from policyguard.backends.vllm.client import Client
from policyguard.backends.vllm.endpoint import Endpoint
from policyguard.backends.vllm.faults import CallError
from policyguard.backends.vllm.loop import LoopThread
from policyguard.backends.vllm.messages import render
from policyguard.backends.vllm.reader import Reader
from policyguard.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from policyguard.dialects import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = ["VLLMBackend"]

Result = Assessment | Failure
T = TypeVar("T")


class VLLMBackend:
    """Asks a model on an OpenAI-compatible server that gives log-probabilities, such as vLLM.

    Args:
        base_url: where the API is, as in ``http://gpu:8000/v1``.
        model: the name under which the server runs the model.
        api_key: sent as a bearer token, and shown nowhere.
        dialect: how that model is spoken to.
        timeout: seconds for one HTTP call from first to last byte; one picture takes up to three calls.
        concurrency: how many pictures are asked about at the same time, over all threads and event loops.

    Connects on first use. Thread-safe, and usable from any number of event loops. Raises
    ConfigurationError for settings that cannot work and MissingExtraError without httpx.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key: str | None = None,
        dialect: Dialect,
        timeout: float = 60.0,
        concurrency: int = 8,
    ) -> None:
        if not model:
            raise ConfigurationError("the name of the model on the server is empty")
        if not (math.isfinite(timeout) and timeout > 0.0):
            raise ConfigurationError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        if concurrency < 1:
            raise ConfigurationError(f"concurrency must be at least 1, not {concurrency!r}")
        self.preferred_batch = concurrency
        self._endpoint = Endpoint.parse(base_url, api_key)
        self._name = model
        self._dialect = dialect
        self._timeout = timeout
        self._lock = threading.Lock()
        self._closed = False
        self._open()

    def __repr__(self) -> str:
        return f"VLLMBackend({self._endpoint.base!r}, model={self._name!r}, dialect={self._dialect.name!r})"

    @property
    def model(self) -> ModelIdentity:
        """``id`` is MODEL@HOST: two servers may run different weights under one name."""
        return ModelIdentity(
            id=f"{self._name}@{self._endpoint.host}",
            dialect=self._dialect.name,
            dialect_version=self._dialect.version,
            layout=self._dialect.layout,
            backend="vllm",
            world=self._dialect.world,
        )

    def accept(self, policy: ResolvedPolicy) -> None:
        """Raises ConfigurationError when ``policy`` cannot be put to the model. Asks no server."""
        render(self._dialect, policy)

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

        Raises ConfigurationError if it does not, and BackendError if the server cannot be asked.
        """
        try:
            self._wait(self._reader.chat.find_model)
        except CallError as error:
            raise BackendError(error.failure.reason, hint="is the server up?") from None
        except CancelledError:
            raise BackendError(_CUT_OFF) from None

    def close(self) -> None:
        """Cancel what is in flight and close all connections. The backend cannot be used afterwards."""
        with self._lock:
            self._closed = True
            stop = self._finalizer
        stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

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
        client = Client(self._endpoint, timeout=self._timeout, connections=self.preferred_batch)
        self._reader = Reader(
            client, model=self._name, dialect=self._dialect, concurrency=self.preferred_batch
        )
        self._thread = LoopThread(client.close)
        # The thread ends with the backend, or with the interpreter, also where nobody calls close().
        self._finalizer = weakref.finalize(self, self._thread.stop)


_CUT_OFF = "the backend was closed before the server answered"


def _cut_off(requests: Sequence[AssessmentRequest]) -> list[Result]:
    return [Failure(FailureKind.ERROR, _CUT_OFF)] * len(requests)
