"""What keeps a guard from working well with a server, and how fast it is; each remark says what to do.

What an examination of a server found: remarks, each with what to do, and the server's speed.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import statistics
import time
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from policyguard.assessment import Assessment, FailureKind, Rating
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.remote.capabilities import (
    Capabilities,
    cached_tokens,
    connect,
    examine_server,
    picture_tokens,
)
from policyguard.backends.remote.chat import Chat, Topic, chat_messages, continuing
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.frame_encoding import data_uri, grid_for
from policyguard.backends.remote.reader import Reader
from policyguard.dialects.base import render_for
from policyguard.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from policyguard.backends.remote.servers import Servers
    from policyguard.dialects import Dialect
    from policyguard.policy import ResolvedPolicy

__all__ = [
    "Examination",
    "Level",
    "Remark",
    "Speed",
    "examine",
]


class Level(StrEnum):
    """How bad: fine, worth knowing, or in the way of sound verdicts."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that was looked at: what it is, and what to do about it."""

    check: str
    level: Level
    says: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Speed:
    """Median milliseconds of one fast reading of a new picture, and of the policy's first one."""

    first_ms: float
    cached_ms: float
    readings: int


@dataclass(slots=True)
class Examination:
    """All remarks, in the order in which things were looked at. It ends early where nothing more can work."""

    host: str
    model: str | None = None
    remarks: list[Remark] = field(default_factory=list)
    speed: Speed | None = None

    @property
    def healthy(self) -> bool:
        return all(remark.level is not Level.PROBLEM for remark in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        speed = None if self.speed is None else asdict(self.speed)
        remarks = [asdict(remark) for remark in self.remarks]
        return {
            "host": self.host,
            "model": self.model,
            "healthy": self.healthy,
            "remarks": remarks,
            "speed": speed,
        }

    def add(self, check: str, level: Level, says: str, fix: str = "") -> None:
        self.remarks.append(Remark(check, level, says, fix))


_SHORT = 256
"""Tokens of a policy below which a prefix cache need not show: it keeps whole blocks of up to 128."""

_PICTURE = 16
"""Tokens that a picture takes at least. Models make 36 (pico) to some hundreds of one; a word in its place
takes a few."""


def examine(
    base_url: str,
    *,
    model: str | None,
    policy: ResolvedPolicy | None = None,
    dialect: Dialect | None = None,
    api_key: str | None = None,
    timeout: float = 60.0,
    readings: int = 5,
) -> Examination:
    """Look at everything that a guard needs of the server, with ``policy`` (default: level 3 of the packaged
    ones) and pictures of noise.

    Raises ConfigurationError for a URL or policy that cannot be used at all. Not to be called where an event
    loop runs.
    """
    endpoint = Endpoint.parse(base_url, api_key)
    found = Examination(endpoint.host, model)

    async def look() -> None:
        servers = connect(endpoint, timeout=timeout)
        try:
            await _Doctor(servers, endpoint, found, readings).look(policy, dialect)
        finally:
            await servers.close()

    asyncio.run(look())
    return found


@dataclass(slots=True)
class _Doctor:
    servers: Servers
    endpoint: Endpoint
    found: Examination
    readings: int

    async def look(self, policy: ResolvedPolicy | None, dialect: Dialect | None) -> None:
        server = await self._server()
        if server is None or not self._model(server):
            return
        assert server.model is not None
        self._abilities(server)
        dialect = dialect or _usual_dialect(server.model)
        request = _noise(policy or _usual_policy(dialect), dialect)
        await self._picture(server.model, data_uri(request, grid_for(dialect.name, server.model)))
        reading = await self._reading(server.model, dialect, request)
        if reading is not None and reading.p_unsafe is not None:
            await self._speed(server.model, dialect, request.policy)

    async def _server(self) -> Capabilities | None:
        try:
            server = await examine_server(self.servers, self.endpoint, self.found.model)
        except CallError as error:
            fix = "look whether host and port are right and reachable from here, or start the server"
            self.found.add("reachable", Level.PROBLEM, error.failure.reason, fix)
        except ConfigurationError as error:
            message = error.message
            check = "key" if "HTTP 401" in message or "HTTP 403" in message else "address"
            check = "model" if "does not serve the model" in message else check
            self.found.add(check, Level.PROBLEM, error.message, error.hint or "")
        else:
            what = f"vLLM {server.version}" if server.version else "a server that tells no version"
            self.found.add("reachable", Level.OK, f"{self.endpoint.host} answers: {what}")
            return server
        return None

    def _model(self, server: Capabilities) -> bool:
        names = [entry.id for entry in server.served]
        self.found.model = wanted = server.model
        if wanted is not None and not names:
            says = f"the server has no list of its models; it answers to the name '{wanted}'"
            fix = "where it runs several models, look whether any other name is answered too"
            self.found.add("model", Level.NOTE, says, fix)
            return True
        if wanted is None:
            says = f"the server runs {len(names)} models: {', '.join(names)}"
            self.found.add("model", Level.PROBLEM, says, "name one with --model")
            return False
        if wanted not in names:
            near = difflib.get_close_matches(wanted.lower(), [name.lower() for name in names], 1, 0.4)
            meant = next((name for name in names if near and name.lower() == near[0]), None)
            fix = f"did you mean {meant!r}? " if meant else ""
            self.found.add(
                "model",
                Level.PROBLEM,
                f"the server does not run '{wanted}'; it runs {', '.join(names)}",
                f"{fix}the name is what vLLM's --served-model-name says",
            )
            return False
        context = next((entry.context for entry in server.served if entry.id == wanted), None)
        room = "" if context is None else f", {context} tokens at most"
        self.found.add("model", Level.OK, f"it runs '{wanted}'{room}")
        return True

    def _abilities(self, server: Capabilities) -> None:
        add = self.found.add
        if server.logprobs == "exact":
            add("log-probabilities", Level.OK, "of exactly the labels' tokens")
        elif server.logprobs == "likeliest":
            fix = "vLLM 0.32 or newer gives those of exactly the labels"
            add(
                "log-probabilities",
                Level.NOTE,
                "only of the likeliest tokens; an unlikely label may be missing",
                fix,
            )
        else:
            fix = "start vLLM with --max-logprobs 20" if server.version else "serve the model with vLLM"
            says = (
                "none, so verdicts have no score, and policies with thresholds of their own cannot be decided"
            )
            add("log-probabilities", Level.PROBLEM, says, fix)
        if server.continues is False:
            fix = "use a chat template that supports continue_final_message, as models are published with"
            says = "an answer that was begun is not continued: the rating is read in the wrong place"
            add("chat template", Level.PROBLEM, says, fix)
        elif server.continues:
            add("chat template", Level.OK, "goes on from an answer that was begun")
        if not server.tokenize:
            says = "the server does not tell token ids; labels are found by their text"
            add("tokenizer", Level.NOTE, says, "let /tokenize through, beside /v1")
        if server.constrains is False and server.response_format is False:
            says = (
                "the server ignores both ways of holding an answer to a form; explanations may be unreadable"
            )
            fix = "vLLM since 0.12 knows structured_outputs; its older guided_* fields are not used"
            add("structured output", Level.NOTE, says, fix)
        elif server.constrains or server.response_format:
            way = "structured_outputs" if server.constrains else "response_format"
            add("structured output", Level.OK, f"answers are held to their form ({way})")

    async def _picture(self, model: str, picture: str) -> None:
        """Whether the model is shown the picture at all: it makes the prompt longer then."""
        try:
            tokens = await picture_tokens(Chat(self.servers, model), picture)
        except CallError:
            tokens = None
        if tokens is None:
            says = (
                "the server does not tell how long prompts are, so whether it looks at pictures is not known"
            )
            fix = "check a few pictures whose answers you know"
            self.found.add("picture", Level.NOTE, says, fix)
        elif tokens < _PICTURE:
            says = f"a picture makes the prompt {tokens} tokens longer: the model is not shown it"
            fix = "serve a model that takes pictures, with its own chat template"
            self.found.add("picture", Level.PROBLEM, says, fix)
        else:
            self.found.add("picture", Level.OK, f"the model is shown it, in {tokens} tokens")

    async def _reading(self, model: str, dialect: Dialect, request: AssessmentRequest) -> Assessment | None:
        """One whole reading, as a guard makes it."""
        add = self.found.add
        reader = Reader(self.servers, model=model, dialect=dialect)
        try:
            (found,) = await reader.assess([request])
        except UsageError as error:
            add("reading", Level.PROBLEM, error.message, error.hint or "")
            return None
        if not isinstance(found, Assessment):
            fix = {
                FailureKind.UNSCANNABLE: "see --max-model-len and --limit-mm-per-prompt of the server",
                FailureKind.REFUSED: "use a guard model, not one that declines",
            }.get(found.kind, "look into the server's log")
            add("reading", Level.PROBLEM, found.reason, fix)
            return None
        if found.p_unsafe is None and found.rating is not Rating.UNDECIDED:
            add("reading", Level.NOTE, f"a picture of noise is rated {found.rating}, without a score")
        elif (found.label_mass or 0.0) < request.policy.min_label_mass:
            says = f"the model puts only {found.label_mass or 0.0:.3f} on its labels: all would be undecided"
            fix = f"is '{dialect.name}' this model's dialect (--dialect), and its own chat template in use?"
            add("reading", Level.PROBLEM, says, fix)
        else:
            add("reading", Level.OK, f"the model puts {found.label_mass:.2f} on the dialect's labels")
        return found

    async def _speed(self, model: str, dialect: Dialect, policy: ResolvedPolicy) -> None:
        """Times the rating alone: with a policy that is new to the server, and with one it has just seen."""
        prompt = render_for(dialect, policy)[0]
        first: list[float] = []
        cached: list[float] = []
        shares: list[int | None] = []
        for _ in range(self.readings):
            chat = Chat(self.servers, model, cache_salt=os.urandom(8).hex())
            for times in (first, cached):
                request = _noise(policy, dialect)
                picture = data_uri(request, grid_for(dialect.name, model))
                topic = Topic(policy, prompt, chat_messages(prompt, picture))
                started = time.perf_counter()
                try:
                    reply = await chat.complete(
                        continuing(topic.messages, prompt.prefill) | {"max_tokens": 1}
                    )
                except CallError:
                    return
                if reply.status != 200:  # a server without cache_salt; nothing to compare then
                    return
                times.append(1e3 * (time.perf_counter() - started))
            shares.append(cached_tokens(reply.data))
        speed = Speed(statistics.median(first), statistics.median(cached), self.readings)
        self.found.speed = replace(
            speed, first_ms=round(speed.first_ms, 1), cached_ms=round(speed.cached_ms, 1)
        )
        texts = [part for message in prompt.messages for part in message.parts if isinstance(part, str)]
        told = await Chat(self.servers, model).tokenize("".join(texts))
        self._cache(None if told is None else len(told[0]), shares[-1], dialect)

    def _cache(self, length: int | None, cached: int | None, dialect: Dialect) -> None:
        add = self.found.add
        if dialect.layout == "image-first":
            says = "the dialect puts the picture first, so no policy is reused"
            add("prefix cache", Level.NOTE, says, "where the model takes it: layout policy-first")
        elif cached is None:
            says = "the server does not tell how much of a policy it reuses"
            add("prefix cache", Level.NOTE, says, "start vLLM with --enable-prompt-tokens-details")
        elif length is not None and length < _SHORT:
            says = (
                f"{cached} tokens reused; the policy has {length}, too few for the cache's blocks to matter"
            )
            add("prefix cache", Level.OK, says)
        elif cached < (length or _SHORT) / 2:
            says = f"{cached} of the policy's {length} tokens were reused for a second picture"
            fix = "start vLLM with --enable-prefix-caching, and enough memory for its cache"
            add("prefix cache", Level.PROBLEM, says, fix)
        else:
            add(
                "prefix cache",
                Level.OK,
                f"{cached} of the policy's {length} tokens are reused for every picture",
            )


def _usual_dialect(model: str) -> Dialect:
    from policyguard.backends.registry import resolve_served
    from policyguard.dialects import get_dialect

    return get_dialect(resolve_served(model).dialect)


def _usual_policy(dialect: Dialect) -> ResolvedPolicy:
    from policyguard.policy import load_policy

    return load_policy("pictosafe/l3" if dialect.world == "pictosafe" else "safeedit/l3").resolve()


def _noise(policy: ResolvedPolicy, dialect: Dialect) -> AssessmentRequest:
    """A picture that the server has not seen."""
    from PIL import Image

    side = 96 if dialect.name == "pico" else 448
    return AssessmentRequest(Image.effect_noise((side, side), 90).convert("RGB"), policy)
