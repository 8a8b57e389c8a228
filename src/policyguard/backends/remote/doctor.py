"""What keeps a guard from working well with a server, and how fast it is; each remark says what to do."""

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
from policyguard.backends.remote.answers import is_same_model
from policyguard.backends.remote.capabilities import (
    Capabilities,
    cached_tokens,
    connect,
    examine_server,
    look,
)
from policyguard.backends.remote.chat import Chat, chat_messages, continuing, template_fields
from policyguard.backends.remote.endpoint import Endpoint
from policyguard.backends.remote.errors import CallError
from policyguard.backends.remote.frame_encoding import data_uri, grid_for
from policyguard.backends.remote.reader import Reader
from policyguard.backends.remote.sight import Look
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
    """Fine, worth knowing, or in the way of sound verdicts."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Remark:
    """The result of one check, and what to do about it."""

    check: str
    level: Level
    says: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Speed:
    """Median milliseconds of one fast reading of a new image: the policy's first one, and later ones."""

    first_ms: float
    cached_ms: float
    readings: int


@dataclass(slots=True)
class Examination:
    """All remarks, in the order of the checks. It ends early where no later check can work."""

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
"""Tokens of a policy below which a prefix cache may not show: it keeps whole blocks of up to 128."""


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
    """Check everything that a guard needs of the server, with ``policy`` (default: level 3 of the packaged
    ones) and images of noise.

    Raises ConfigurationError for a URL or policy that cannot be used at all. Not to be called where an event
    loop runs.
    """
    endpoint = Endpoint.parse(base_url, api_key)
    examination = Examination(endpoint.host, model)

    async def run_checks() -> None:
        servers = connect(endpoint, timeout=timeout)
        try:
            await _Doctor(servers, endpoint, examination, readings).run_checks(policy, dialect)
        finally:
            await servers.close()

    asyncio.run(run_checks())
    return examination


@dataclass(slots=True)
class _Doctor:
    servers: Servers
    endpoint: Endpoint
    examination: Examination
    readings: int

    async def run_checks(self, policy: ResolvedPolicy | None, dialect: Dialect | None) -> None:
        server = await self._check_server()
        if server is None or not self._check_model(server):
            return
        assert server.model is not None
        dialect = dialect or _usual_dialect(server.model)
        request = _noise(policy or _usual_policy(dialect), dialect)
        self._check_capabilities(server, request.policy)
        uri = data_uri(request, grid_for(dialect.name, server.model))
        free = render_for(dialect, request.policy)[0].schema is not None
        await self._check_image(server.model, uri, free=free)
        reading = await self._check_reading(server.model, dialect, request)
        if reading is not None and reading.p_unsafe is not None:
            await self._measure_speed(server.model, dialect, request.policy)

    async def _check_server(self) -> Capabilities | None:
        try:
            server = await examine_server(self.servers, self.endpoint, self.examination.model)
        except CallError as error:
            fix = "check that host and port are right and can be reached from here, or start the server"
            self.examination.add("reachable", Level.PROBLEM, error.failure.reason, fix)
        except ConfigurationError as error:
            message = error.message
            check = "key" if "HTTP 401" in message or "HTTP 403" in message else "address"
            check = "model" if "does not serve the model" in message else check
            self.examination.add(check, Level.PROBLEM, error.message, error.hint or "")
        else:
            what = f"vLLM {server.version}" if server.version else "a server that gives no version"
            self.examination.add("reachable", Level.OK, f"{self.endpoint.host} answers: {what}")
            return server
        return None

    def _check_model(self, server: Capabilities) -> bool:
        names = [entry.id for entry in server.served]
        self.examination.model = model = server.model
        if model is not None and not names:
            says = f"the server has no list of its models; it answers to the name '{model}'"
            fix = "if it runs several models, check that it does not answer to any name"
            self.examination.add("model", Level.NOTE, says, fix)
            return True
        if model is None:
            says = f"the server runs {len(names)} models: {', '.join(names)}"
            self.examination.add("model", Level.PROBLEM, says, "name one with --model")
            return False
        listed = next((entry for entry in server.served if is_same_model(model, entry.id)), None)
        if listed is None:
            near = difflib.get_close_matches(model.lower(), [name.lower() for name in names], 1, 0.4)
            match = next((name for name in names if near and name.lower() == near[0]), None)
            fix = f"did you mean {match!r}? " if match else ""
            self.examination.add(
                "model",
                Level.PROBLEM,
                f"the server does not run '{model}'; it runs {', '.join(names)}",
                f"{fix}the name is what vLLM's --served-model-name sets",
            )
            return False
        room = "" if listed.context is None else f", {listed.context} tokens at most"
        self.examination.add("model", Level.OK, f"it runs '{model}'{room}")
        return True

    def _check_capabilities(self, server: Capabilities, policy: ResolvedPolicy) -> None:
        add = self.examination.add
        if server.logprobs == "exact":
            add("log-probabilities", Level.OK, "of exactly the labels' tokens")
        elif server.logprobs == "likeliest":
            fix = "vLLM 0.32 or newer gives those of exactly the labels"
            add(
                "log-probabilities",
                Level.NOTE,
                "only of the most likely tokens; an unlikely label may be missing",
                fix,
            )
        else:
            fix = "nothing to do; for scores, serve a model with vLLM"
            if server.version or policy.needs_scores:
                fix = "start vLLM with --max-logprobs 20" if server.version else "serve the model with vLLM"
            says = "none, so verdicts have no score: the model's ratings alone decide"
            if policy.needs_scores:
                says = f"none, and policy '{policy.id}' decides from a score of {policy.decisive_score:g}"
                fix += ", or put `without_scores: ratings` under the policy's `defaults:`"
            add("log-probabilities", Level.PROBLEM if policy.needs_scores else Level.NOTE, says, fix)
        if server.continues is False:
            fix = "use a chat template that supports continue_final_message, such as the model's own"
            says = "a prefilled answer is not continued: the rating is read in the wrong place"
            add("chat template", Level.PROBLEM, says, fix)
        elif server.continues:
            add("chat template", Level.OK, "continues a prefilled answer")
        if not server.tokenize and server.logprobs not in (None, "none"):
            says = "the server gives no token ids; labels are matched by their text"
            add("tokenizer", Level.NOTE, says, "expose /tokenize, beside /v1")
        if server.constrains is False and server.response_format is False:
            says = "the server ignores both ways to constrain an answer; one in another form is an error"
            fix = "see with --explain on a few images how often; a larger model keeps to the form more often"
            if server.version:
                fix = "vLLM since 0.12 supports structured_outputs; its older guided_* fields are not used"
            add("structured output", Level.NOTE, says, fix)
        elif server.constrains or server.response_format:
            way = "structured_outputs" if server.constrains else "response_format"
            add("structured output", Level.OK, f"answers are constrained to their form ({way})")

    async def _check_image(self, model: str, frame_uri: bytes, *, free: bool) -> None:
        """Whether the model gets the image at all, as a guard finds out."""
        add = self.examination.add
        try:
            seen = await look(Chat(self.servers, model), frame_uri, free=free)
        except CallError as error:
            seen = Look(None, f"whether the model sees images is unknown: {error}")
        if seen.seen is None:
            add("image", Level.NOTE, seen.how, "try a few images whose answers you know")
        elif seen.seen:
            add("image", Level.OK, f"the model sees it: {seen.how}")
        else:
            fix = "serve a model that takes images, with its own chat template"
            add("image", Level.PROBLEM, f"{seen.how}: the model does not see it", fix)

    async def _check_reading(
        self, model: str, dialect: Dialect, request: AssessmentRequest
    ) -> Assessment | None:
        """One whole reading, as a guard makes it."""
        add = self.examination.add
        reader = Reader(self.servers, model=model, dialect=dialect)
        try:
            (result,) = await reader.assess([request])
        except UsageError as error:
            add("reading", Level.PROBLEM, error.message, error.hint or "")
            return None
        if not isinstance(result, Assessment):
            fix = {
                FailureKind.UNSCANNABLE: "see --max-model-len and --limit-mm-per-prompt of the server",
                FailureKind.REFUSED: "use a guard model, not one that declines",
            }.get(result.kind, "look at the server's log")
            add("reading", Level.PROBLEM, result.reason, fix)
            return None
        if result.p_unsafe is None and result.rating is not Rating.UNDECIDED:
            add("reading", Level.NOTE, f"an image of noise is rated {result.rating}, without a score")
        elif (result.label_mass or 0.0) < request.policy.min_label_mass:
            mass = f"{result.label_mass or 0.0:.3f}"
            says = f"the model puts only {mass} on its labels: every image would be undecided"
            fix = f"check that the model's dialect is '{dialect.name}' (--dialect); use its own chat template"
            add("reading", Level.PROBLEM, says, fix)
        else:
            add("reading", Level.OK, f"the model puts {result.label_mass:.2f} on the dialect's labels")
        return result

    async def _measure_speed(self, model: str, dialect: Dialect, policy: ResolvedPolicy) -> None:
        """Time the rating alone: with a policy that is new to the server, and with one it has just seen."""
        prompt = render_for(dialect, policy)[0]
        first: list[float] = []
        cached: list[float] = []
        shares: list[int | None] = []
        for _ in range(self.readings):
            chat = Chat(self.servers, model, cache_salt=os.urandom(8).hex())
            for times in (first, cached):
                request = _noise(policy, dialect)
                messages = chat_messages(prompt, data_uri(request, grid_for(dialect.name, model)))
                fields = continuing(messages, prompt.prefill) | template_fields(prompt) | {"max_tokens": 1}
                started = time.perf_counter()
                try:
                    reply = await chat.complete(fields)
                except CallError:
                    return
                if reply.status != 200:  # a server without cache_salt; nothing to compare then
                    return
                times.append(1e3 * (time.perf_counter() - started))
            shares.append(cached_tokens(reply.data))
        speed = Speed(statistics.median(first), statistics.median(cached), self.readings)
        self.examination.speed = replace(
            speed, first_ms=round(speed.first_ms, 1), cached_ms=round(speed.cached_ms, 1)
        )
        texts = [part for message in prompt.messages for part in message.parts if isinstance(part, str)]
        tokens = await Chat(self.servers, model).tokenize("".join(texts))
        self._check_prefix_cache(None if tokens is None else len(tokens[0]), shares[-1], dialect)

    def _check_prefix_cache(self, length: int | None, cached: int | None, dialect: Dialect) -> None:
        add = self.examination.add
        if dialect.layout == "image-first":
            says = "the dialect puts the image first, so no policy is reused"
            add("prefix cache", Level.NOTE, says, "if the model allows it, use the layout policy-first")
        elif cached is None:
            says = "the server does not report how much of a policy it reuses"
            add("prefix cache", Level.NOTE, says, "start vLLM with --enable-prompt-tokens-details")
        elif length is not None and length < _SHORT:
            says = (
                f"{cached} tokens reused; the policy has {length}, too few for the cache's blocks to matter"
            )
            add("prefix cache", Level.OK, says)
        elif length is None:
            add(
                "prefix cache",
                Level.OK if cached else Level.NOTE,
                f"{cached} tokens were reused for a second image",
            )
        elif cached < length / 2:
            says = f"{cached} of the policy's {length} tokens were reused for a second image"
            fix = "start vLLM with --enable-prefix-caching and enough memory for its cache"
            add("prefix cache", Level.PROBLEM, says, fix)
        else:
            add(
                "prefix cache",
                Level.OK,
                f"{cached} of the policy's {length} tokens are reused for every image",
            )


def _usual_dialect(model: str) -> Dialect:
    from policyguard.backends.registry import resolve_served
    from policyguard.dialects import get_dialect

    return get_dialect(resolve_served(model).dialect)


def _usual_policy(dialect: Dialect) -> ResolvedPolicy:
    from policyguard.policy import load_policy

    return load_policy("pictosafe/l3" if dialect.world == "pictosafe" else "safeedit/l3").resolve()


def _noise(policy: ResolvedPolicy, dialect: Dialect) -> AssessmentRequest:
    """An image that the server has not seen."""
    from PIL import Image

    side = 96 if dialect.name == "pico" else 448
    return AssessmentRequest(Image.effect_noise((side, side), 90).convert("RGB"), policy)
