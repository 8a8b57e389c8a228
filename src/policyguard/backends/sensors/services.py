"""Moderation services: OpenAI's omni-moderation and Google's SafeSearch.

Covered: what ``remote`` holds any server to (time, size, strict JSON, retries, breaker, no key in a message);
an answer of another shape is an error; what a service did not look at is left out, never 0. Frames are sent
as JPEG of at most four million pixels. Not covered: a service that changes its model under one name.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from policyguard.assessment import Failure, FailureKind, ModelIdentity
from policyguard.backends.remote.backend import CLOSED, LoopOwner
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError, Reply, refusal
from policyguard.backends.remote.frame_encoding import Grid
from policyguard.backends.remote.retry import Retries
from policyguard.backends.remote.servers import Servers
from policyguard.backends.sensors.base import Sensed, Sensor, Signal
from policyguard.errors import ConfigurationError
from policyguard.strict.arguments import count, seconds

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

__all__ = ["OmniModeration", "SafeSearch"]

_GRID = Grid(1, 4_194_304)
_QUALITY = 95


class Service(LoopOwner, Sensor):
    """A moderation service behind an address.

    Args:
        model: the name of the model that the service runs, where it has several.
        base_url: where its API is; default: the makers' own.
        api_key: default: from the environment, see ``key_variable``.
        timeout: seconds for one HTTP call; all about one frame, retries included, takes at most three times
            as long.
        concurrency: how many frames are asked about at the same time.
        retries: when calls are repeated; see docs/reliability.md.

    Raises ConfigurationError without a key, MissingExtraError without the extra ``remote``.
    """

    endpoint: ClassVar[type[Endpoint]] = Endpoint
    address: ClassVar[str]
    path: ClassVar[str]
    key_variable: ClassVar[str]

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 60.0,
        concurrency: int = 8,
        retries: Retries | None = None,
    ) -> None:
        self.model_name = model or self.name
        api_key = api_key or os.environ.get(self.key_variable) or None
        self._endpoint = self.endpoint.parse(base_url or self.address, api_key)
        if api_key is None and not self._endpoint.loopback:
            raise ConfigurationError(
                f"'{self.name}' needs an API key", hint=f"set {self.key_variable} (api_key= in Python)"
            )
        self._timeout = min(seconds("timeout", timeout), 60.0)
        self._concurrency = count("concurrency", concurrency)
        self._retries = retries or Retries()
        super().__init__()

    def _open(self) -> Callable[[], Awaitable[None]]:
        self._servers = Servers(
            [self._endpoint],
            timeout=self._timeout,
            total=3.0 * self._timeout,
            concurrency=self._concurrency,
            retries=self._retries,
            counters=self._counters,
        )
        return self._servers.close

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._endpoint.base!r})"

    @property
    def model(self) -> ModelIdentity:
        return ModelIdentity(
            id=f"{self.model_name}@{self._endpoint.host}",
            backend=self.name,
            settings=f"{self._endpoint.base} max_pixels={_GRID.max_pixels} jpeg={_QUALITY}",
        )

    @property
    def preferred_workers(self) -> int:
        return self._concurrency

    @property
    def cache_scope(self) -> str:
        """A digest of the API key: a service may treat its customers differently."""
        key = self._endpoint.api_key
        return "" if key is None else hashlib.sha256(f"policyguard api key {key}".encode()).hexdigest()

    @abstractmethod
    def payload(self, jpeg: str) -> dict[str, Any]:
        """What is sent about one frame; ``jpeg`` is its file in base64."""
        ...

    @abstractmethod
    def read(self, data: Mapping[str, Any]) -> Mapping[str, float]:
        """The signals in an answer. Raises ValueError for another shape, CallError for an error inside."""
        ...

    def sense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        return self._run(lambda: self._sense(frames, deadline), closed=[CLOSED] * len(frames))

    async def asense(self, frames: Sequence[PILImage], *, deadline: float | None = None) -> list[Sensed]:
        return await self._arun(lambda: self._sense(frames, deadline), closed=[CLOSED] * len(frames))

    async def _sense(self, frames: Sequence[PILImage], deadline: float | None) -> list[Sensed]:
        return list(await asyncio.gather(*(self._sense_one(frame, deadline) for frame in frames)))

    async def _sense_one(self, frame: PILImage, deadline: float | None) -> Sensed:
        try:
            async with self._servers.turn(deadline):
                jpeg = await asyncio.get_running_loop().run_in_executor(None, _jpeg_of, frame)
                reply = await self._servers.call("POST", self.path, self.payload(jpeg))
            if reply.status != 200:
                raise self._refusal(reply)
            return self.read(reply.data)
        except CallError as error:
            return error.failure
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            return Failure(
                FailureKind.ERROR, f"the answer of {self._endpoint.host} is not that of {self.name}: {what}"
            )

    def _refusal(self, reply: Reply) -> Exception:
        host = self._endpoint.host
        if reply.status in (404, 405):
            error: Exception = ConfigurationError(
                f"{host} has no API of {self.name} at {self._endpoint.url(self.path)} (HTTP {reply.status})"
            )
        else:
            error = refusal(reply, self.model_name)
        if isinstance(error, ConfigurationError):
            error = ConfigurationError(
                error.message,
                hint=f"check the key in {self.key_variable} (api_key= in Python), and --base-url",
            )
        return error


class OmniModeration(Service):
    """OpenAI's moderation endpoint, which is free of charge. Its signals are the categories for images.

    The number is the service's own score. Where the service flags a category at a lower one, it is raised to
    0.5, so that nothing that its makers flag passes under a policy's default threshold.
    """

    name = "omni-moderation"
    address = "https://api.openai.com/v1"
    path = "/moderations"
    key_variable = "OPENAI_API_KEY"
    signals = {  # noqa: RUF012
        name: Signal(name, about)
        for name, about in {
            "sexual": "content meant to arouse",
            "violence": "death, violence or injury",
            "violence/graphic": "the same in graphic detail",
            "self-harm": "acts of self-harm shown or promoted",
            "self-harm/intent": "somebody who says that they will harm themselves",
            "self-harm/instructions": "how to harm oneself",
        }.items()
    }

    def payload(self, jpeg: str) -> dict[str, Any]:
        image = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg}"}}
        return {"model": self.model_name, "input": [image]}

    def read(self, data: Mapping[str, Any]) -> Mapping[str, float]:
        (result,) = _list(data["results"])
        scores, flags = _dict(result["category_scores"]), _dict(result["categories"])
        applied = _dict(result["category_applied_input_types"])
        signals = {}
        for name in self.signals:
            if "image" in _list(applied.get(name, [])):
                score = _number(scores[name])
                if not isinstance(flags[name], bool):
                    raise ValueError(f"categories.{name} is neither true nor false")
                signals[name] = max(score, 0.5) if flags[name] else score
        return signals


@dataclass(frozen=True, slots=True)
class _Google(Endpoint):
    def authorization(self) -> dict[str, str]:
        return {} if self.api_key is None else {"X-Goog-Api-Key": self.api_key}


class SafeSearch(Service):
    """SafeSearch of Google's Cloud Vision. It gives one of five likelihoods, and no number behind it.

    Ours are VERY_UNLIKELY 0.1, UNLIKELY 0.2, POSSIBLE 0.4, LIKELY 0.7 and VERY_LIKELY 0.9: under the default
    threshold a rule is broken from LIKELY on; a threshold of 0.4 takes POSSIBLE in too.
    """

    name = "google-safesearch"
    endpoint = _Google
    address = "https://vision.googleapis.com/v1"
    path = "/images:annotate"
    key_variable = "GOOGLE_API_KEY"
    signals = {  # noqa: RUF012
        name: Signal(name, about, "bucket")
        for name, about in {
            "adult": "nudity, pornography, sexual acts; drawings too",
            "racy": "skimpy clothing, lewd poses, strategically covered nudity",
            "violence": "violent content",
            "medical": "a medical image",
            "spoof": "an image altered to look funny or offensive",
        }.items()
    }
    scores: ClassVar = {
        "VERY_UNLIKELY": 0.1,
        "UNLIKELY": 0.2,
        "POSSIBLE": 0.4,
        "LIKELY": 0.7,
        "VERY_LIKELY": 0.9,
    }

    def payload(self, jpeg: str) -> dict[str, Any]:
        request = {"image": {"content": jpeg}, "features": [{"type": "SAFE_SEARCH_DETECTION"}]}
        return {"requests": [request]}

    def read(self, data: Mapping[str, Any]) -> Mapping[str, float]:
        (answer,) = _list(data["responses"])
        if (error := _dict(answer).get("error")) is not None:
            raise _google_error(self._endpoint, _dict(error))
        buckets = _dict(answer["safeSearchAnnotation"])
        known = {name: buckets[name] for name in self.signals if buckets.get(name, "UNKNOWN") != "UNKNOWN"}
        if wrong := [name for name, bucket in known.items() if bucket not in self.scores]:
            raise ValueError(f"'{known[wrong[0]]}' is no likelihood of {wrong[0]}")
        return {name: self.scores[bucket] for name, bucket in known.items()}


_GOOGLE_KINDS = {3: FailureKind.UNSCANNABLE}
"""Of the codes of google.rpc: INVALID_ARGUMENT, which an image that cannot be read gets."""
_GOOGLE_RETRYABLE = (4, 8, 13, 14)
"""DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE."""


def _google_error(endpoint: Endpoint, error: Mapping[str, Any]) -> CallError:
    code = error.get("code")
    quote = endpoint.quote(error.get("message", ""))
    return CallError(
        f"{endpoint.host} cannot look at this image (code {code}): {quote}",
        kind=_GOOGLE_KINDS.get(code, FailureKind.ERROR) if isinstance(code, int) else FailureKind.ERROR,
        retryable=code in _GOOGLE_RETRYABLE,
    )


def _jpeg_of(frame: PILImage) -> str:
    """The frame as a JPEG file in base64, scaled down to what is sent at most."""
    from PIL.Image import Resampling

    size = _GRID.fit(frame.size)
    clean = frame.convert("RGB")
    if size != frame.size:
        clean = clean.resize(size, Resampling.BICUBIC)
    clean.info = {}
    buffer = io.BytesIO()
    clean.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"a list is expected, not a {type(value).__name__}")
    return value


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"an object is expected, not a {type(value).__name__}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError("a score is no number in [0, 1]")
    return float(value)
