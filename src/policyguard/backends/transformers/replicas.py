"""One model in several processes: a replica for each GPU, or several on the cores of a large machine.

A replica is a program of its own that answers over a socket. Covered: it ends when this process does, however
that ends, as its socket closes; Ctrl-C reaches only this process. When a replica dies, what it was asked is
asked again of another one, image by image, so that an image that kills replicas fails alone, and no image is
lost or passes. Replicas that died are started anew a few times. What goes over the socket are pickles between
processes of one program; nothing is read from elsewhere.
Not covered: systems without POSIX sockets (Windows), which get a ConfigurationError.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import (
    ALL_COMPLETED,
    FIRST_COMPLETED,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
    wait,
)
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Literal

from policyguard.assessment import Failure, FailureKind, Result
from policyguard.backends.base import AssessmentRequest, WrappingBackend, checked, failures
from policyguard.backends.stats import Counters, GuardStats
from policyguard.backends.transformers.backend import TransformersBackend
from policyguard.errors import ConfigurationError, ModelLoadError, UsageError
from policyguard.strict.arguments import InOneProcess, count, texts

__all__ = ["ReplicatedBackend"]

RESTARTS = 2
"""How often, on the average, a replica that died is started anew, before its place stays empty."""

CALLS = 2
"""Calls that a replica is asked at once: while the model runs for one, the other is prepared."""

_PATIENCE = 5.0
"""Seconds that a replica whose socket was closed gets to end by itself."""

_CHILD = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from policyguard.backends.transformers.replicas import serve
serve(int(sys.argv[1]))
"""


class _DiedError(Exception):
    """A replica ended before it answered; the text says how."""


class ReplicatedBackend(InOneProcess, WrappingBackend):
    """Runs the model of ``inner`` in several processes, which share the images of a run between them.

    Args:
        inner: says which model, and with which settings; it is not loaded itself.
        replicas: how many processes; ``"auto"`` is one for each GPU, and one where there is none.
        devices: a device for each replica, such as ``["cuda:0", "cuda:1"]``; default: all GPUs in turn,
            or the CPU, whose cores the replicas share.

    Verdicts are those of one process, in order. Each replica has the weights in memory of its own. Raises
    ConfigurationError, and ModelLoadError for a model that cannot be loaded.
    """

    def __init__(
        self,
        inner: TransformersBackend,
        replicas: int | Literal["auto"] = "auto",
        *,
        devices: Sequence[str] | None = None,
    ) -> None:
        if os.name != "posix":
            raise ConfigurationError("replicas need a POSIX system", hint="run one process for each GPU")
        self._devices = _devices(replicas, devices, inner.given)
        self._given = inner.given | {"device": self._devices[0]}
        super().__init__(TransformersBackend(**self._given))  # says what the replicas are, and is not loaded
        self._starting = threading.RLock()
        self._places: list[_Replica | None] = [None] * len(self._devices)
        self._left = RESTARTS * len(self._devices)
        self._began = False
        self._closed = False
        self._process = os.getpid()
        self._counters = Counters(self._given["model"])
        weakref.finalize(self, _end, self._places)

    def __repr__(self) -> str:
        return f"ReplicatedBackend({self._given['model']!r} on {', '.join(self._devices)})"

    @property
    def preferred_workers(self) -> int:
        return CALLS * len(self._devices)

    def assess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        sent = [replace(request, encoded=None) for request in requests]
        try:
            return self._ask(sent)
        except _DiedError as error:
            self._counters.say(f"a replica of '{self._given['model']}' {error}; another one does its work")
        results: list[Result] = []
        for request in sent:
            try:
                results += self._ask([request])
            except _DiedError as error:
                reason = f"the process that runs the model {error}"
                results.append(Failure(FailureKind.ERROR, reason))
        return results

    def warm(self) -> None:
        """Start all replicas and wait until each has loaded the model."""
        try:
            self._idlest()
        except _DiedError as error:
            raise ModelLoadError(
                f"no replica of model '{self._given['model']}' could be started: the last {error}",
                hint="its own message is on the standard error stream; try one replica",
            ) from error

    def stats(self) -> GuardStats:
        """The numbers of all replicas together, also of those that died."""
        alive = sum(one is not None and one.alive for one in self._places)
        devices = ", ".join(dict.fromkeys(self._devices))
        return replace(self._counters.snapshot(), device=devices, replicas=alive)

    def close(self) -> None:
        """End all replicas, once the calls that run are done."""
        with self._starting:
            self._closed = True
            places = list(self._places)
        for one in places:
            if one is not None:
                one.close()
        self.inner.close()

    def _ask(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        """Raises _DiedError where the replica that was asked dies, and a UsageError that it raised."""
        return checked(self._idlest().ask(requests), len(requests))

    def _idlest(self) -> _Replica:
        """The replica with the fewest calls. The first time all are waited for, later only if none is ready.

        Raises _DiedError where none is left, and a UsageError.
        """
        with self._starting:
            self._require_open()
            first = not self._began
            for place, one in enumerate(self._places):
                if (one is None or not one.alive) and (first or self._left):
                    self._left -= not first
                    self._places[place] = _Replica(
                        self._given | {"device": self._devices[place]}, len(self._devices), self._counters
                    )
            self._began = True
            while alive := [one for one in self._places if one is not None and one.alive]:
                ready = [one for one in alive if one.ready.done()]
                if ready and not (first and len(ready) < len(alive)):
                    for one in ready:
                        self._check(one)
                    return min(ready, key=lambda one: one.calls)
                wait([one.ready for one in alive], return_when=ALL_COMPLETED if first else FIRST_COMPLETED)
            last = next((one.ended for one in self._places if one is not None), "ended")
            raise _DiedError(f"{last} too often, and is not started again")

    def _check(self, one: _Replica) -> None:
        """Raises the UsageError that ``one`` ended with, or if it runs another model."""
        try:
            if (identity := one.ready.result()) == replace(self.inner.model, dtype=identity.dtype):
                return
            raise ModelLoadError(
                f"the files of model '{self._given['model']}' changed while its replicas were loaded",
                hint="try again once nothing writes to them",
            )
        except _DiedError:
            return
        except UsageError:
            _end(self._places)
            self._began = False
            raise

    def _require_open(self) -> None:
        name = self._given["model"]
        if self._closed:
            raise ConfigurationError(f"the backend of model '{name}' is closed", hint="build a new one")
        if self._process != os.getpid():
            raise ConfigurationError(
                f"the replicas of model '{name}' belong to another process",
                hint="build the guard in the child process",
            )


def _end(places: list[_Replica | None]) -> None:
    for place, one in enumerate(places):
        if one is not None:
            one.kill()
        places[place] = None


def _devices(replicas: object, devices: Sequence[str] | None, given: dict[str, Any]) -> list[str]:
    if devices is not None:
        named = texts("devices", devices)
        if replicas not in ("auto", len(named)):
            raise ConfigurationError(f"{len(named)} devices for replicas={replicas!r}", hint="leave one out")
        return named
    if replicas != "auto":
        count("replicas", replicas)
    if given["device"] is not None:
        return [given["device"]] * (1 if replicas == "auto" else int(str(replicas)))
    from policyguard.backends.transformers.placement import gpus

    found = [f"cuda:{number}" for number in range(gpus())] or ["cpu"]
    wanted = len(found) if replicas == "auto" else int(str(replicas))
    return [found[number % len(found)] for number in range(wanted)]


class _Replica:
    """A process that runs the model. ``ready`` is the identity of the model once it has loaded."""

    def __init__(self, given: dict[str, Any], among: int, counters: Counters) -> None:
        self.ended = ""
        self._stats, self._counters = GuardStats(), counters
        self.ready: Future[Any] = Future()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[list[Result]]] = {}
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        here, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this, with code from here
                [sys.executable, "-c", _CHILD, str(there.fileno()), json.dumps(sys.path)],
                stdin=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            )
        self._connection = Connection(here.detach())
        threading.Thread(target=self._listen, name="policyguard-replica", daemon=True).start()
        try:
            with self._sending:
                self._connection.send((given, among))
        except OSError:
            pass  # it has ended already, and whoever waits is told by the thread that listens
        except Exception as error:  # a dialect that cannot be sent, such as one written in a function
            unsent = ConfigurationError(
                f"the model's settings cannot be sent to another process: {error}",
                hint="put a dialect of your own into a module that can be imported",
            )
            with contextlib.suppress(InvalidStateError):
                self.ready.set_exception(unsent)
            self.kill()

    @property
    def alive(self) -> bool:
        return not self.ended

    @property
    def calls(self) -> int:
        return len(self._waiting)

    def ask(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        answer: Future[list[Result]] = Future()
        with self._lock:
            if self.ended:
                raise _DiedError(self.ended)
            number = next(self._numbers)
            self._waiting[number] = answer
        try:
            with self._sending:  # in which nobody closes it
                self._connection.send((number, list(requests)))
        except OSError:
            pass  # it is closed, and the thread that listens says how the process ended
        except Exception as error:
            with self._lock:
                self._waiting.pop(number, None)
            return failures(error, len(requests))
        return answer.result()

    def close(self) -> None:
        for answer in list(self._waiting.values()):
            with contextlib.suppress(Exception):
                answer.exception()
        self.kill(_PATIENCE)

    def kill(self, patience: float = 0.0) -> None:
        """End the process, by force unless it does so within ``patience`` seconds."""
        with (
            contextlib.suppress(OSError),
            socket.socket(fileno=os.dup(self._connection.fileno())) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that reads from it
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listen(self) -> None:
        try:
            while True:
                number, answer, stats = self._connection.recv()
                self._counters.absorb(stats.since(self._stats))
                self._stats = stats
                if number is None:
                    waiting: Future[Any] | None = self.ready
                else:
                    with self._lock:
                        waiting = self._waiting.pop(number, None)
                if waiting is not None:
                    if isinstance(answer, BaseException):
                        waiting.set_exception(answer)
                    else:
                        waiting.set_result(answer)
        except Exception as error:
            self._over(error)

    def _over(self, error: Exception) -> None:
        """Nothing more comes: tell everybody who waits how the process ended."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.close()
        if not isinstance(error, EOFError | OSError):  # an answer that cannot be read
            self._process.kill()
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._lock:
            self.ended = f"ended (signal {-code})" if code < 0 else f"ended (exit code {code})"
            waiting = [*self._waiting.values(), self.ready]
            self._waiting.clear()
        for answer in waiting:
            with contextlib.suppress(InvalidStateError):
                answer.set_exception(_DiedError(self.ended))


class _Sharing(TransformersBackend):
    """A backend that shares the machine's cores with others like it."""

    def __init__(self, among: int, **given: Any) -> None:
        super().__init__(**given)
        self._among = among


def serve(descriptor: int) -> None:
    """The work of a replica: load the model that is named first, then answer until the socket closes."""
    connection = Connection(descriptor)
    sending = threading.Lock()
    given, among = connection.recv()

    def send(number: int | None, answer: Any, stats: GuardStats) -> None:
        with sending, contextlib.suppress(OSError):
            connection.send((number, answer, _plain(stats)))

    try:
        backend = _Sharing(among, **given)
        backend.warm()
    except Exception as error:
        usage = error if isinstance(error, UsageError) else ModelLoadError(f"{type(error).__name__}: {error}")
        send(None, usage, GuardStats())
        return
    send(None, backend.model, backend.stats())

    def work(number: int, requests: list[AssessmentRequest]) -> None:
        answer: Any
        try:
            answer = backend.assess(requests)
        except UsageError as error:
            answer = error
        except Exception as error:
            answer = failures(error, len(requests))
        send(number, answer, backend.stats())

    pool = ThreadPoolExecutor(CALLS)
    try:
        while True:
            number, requests = connection.recv()
            pool.submit(work, number, requests)
    except (EOFError, OSError):
        os._exit(0)  # without waiting for a forward pass whose answer nobody reads


def _plain(stats: GuardStats) -> GuardStats:
    """``stats`` without views of dictionaries, which cannot be sent."""
    return replace(stats, seconds=dict(stats.seconds), batch_sizes=dict(stats.batch_sizes), stages={})
