"""What a sensor is: a model or service that looks for things of its own and reads no policy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from policyguard.assessment import Failure, ModelIdentity
from policyguard.backends.stats import GuardStats
from policyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["LocalSensor", "Sensed", "Sensor", "Signal"]

Sensed: TypeAlias = Mapping[str, float] | Failure
"""The signals of one frame, each in [0, 1]. One that was not looked at is left out: it is never 0."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that a sensor looks for.

    ``kind`` says what its number is: a ``probability`` that the model was trained to give; a ``share`` of one
    that the sensor's shares make up together, so that those of a rule are added; a detector's ``confidence``;
    a ``margin`` or a ``bucket`` that the sensor maps to [0, 1] so that from 0.5 on it is what its makers call
    a hit, and that is no probability.
    """

    name: str
    about: str = ""
    kind: Literal["probability", "share", "confidence", "margin", "bucket"] = "probability"


@runtime_checkable
class Sensor(Protocol):
    """A classifier, a detector, a probe or a moderation service. Thread-safe.

    To write your own, inherit from this class and define ``name``, ``model``, ``signals`` and ``sense``.
    """

    name: str
    """What policies call it: ``NAME/SIGNAL`` under ``signals:``. It is made of a-z, 0-9, - and _."""

    @property
    @abstractmethod
    def model(self) -> ModelIdentity:
        """Which model looks, and all else that its numbers depend on: cache keys rest on it."""
        ...

    @property
    @abstractmethod
    def signals(self) -> Mapping[str, Signal]:
        """What it looks for in images, by name. Loads no weights."""
        ...

    @abstractmethod
    def sense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        """The signals of each RGB frame, in order. What is wrong with one frame is a Failure in its place.

        After ``deadline``, on ``time.monotonic``'s clock, the answer is of no more use.
        """
        ...

    async def asense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        """``sense`` without blocking the event loop. Default: in a thread."""
        import asyncio

        return await asyncio.to_thread(self.sense, frames, deadline=deadline)

    @property
    def preferred_batch(self) -> int:
        """How many frames the sensor likes to get at once. Default: 1."""
        return 1

    @property
    def preferred_workers(self) -> int:
        """How many calls the sensor likes at the same time. Default: 1."""
        return 1

    @property
    def cache_scope(self) -> str:
        """What tells askers apart who may get different answers. Default: empty."""
        return ""

    def stats(self) -> GuardStats:
        """What it did so far. Default: nothing is counted."""
        return GuardStats()

    def warm(self) -> None:
        """Load now what is loaded lazily."""
        return

    def close(self) -> None:
        """Free what the sensor holds. It cannot be used afterwards."""
        return


class LocalSensor(Sensor):
    """A sensor whose weights are loaded into this process, once, on first use."""

    def __init__(self) -> None:
        self._loading = RLock()
        self._weights: Any = None
        self._closed = False

    @abstractmethod
    def load(self) -> Any:
        """Load the weights. Raises UsageError."""
        ...

    def weights(self) -> Any:
        """What ``load`` gave. Raises ConfigurationError after ``close``."""
        with self._loading:
            if self._closed:
                raise ConfigurationError(f"the sensor '{self.name}' is closed", hint="build a new one")
            if self._weights is None:
                self._weights = self.load()
            return self._weights

    def warm(self) -> None:
        self.weights()

    def close(self) -> None:
        with self._loading:
            self._closed, self._weights = True, None
