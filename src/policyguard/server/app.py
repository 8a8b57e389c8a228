"""The service as an ASGI application: images in, verdicts out, under policies that are reloaded.

What is wrong with an image is a verdict, answered with 200 and ``allowed: false`` unless the policy's
``outcomes`` say otherwise. What is wrong with a request is a ``Refusal``. What is wrong with the set-up is
503; what to mend is in the log and not in the answer. No image is stored or logged, and none is fetched.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from policyguard._version import __version__
from policyguard.backends.base import Backend
from policyguard.errors import PolicyGuardError, UsageError
from policyguard.guard import Guard
from policyguard.integrations.http.multipart import MultipartError, split
from policyguard.server.policies import Policies, Snapshot
from policyguard.server.refusals import Refusal, Room
from policyguard.verdict import Verdict

__all__ = ["Settings", "State", "create_app"]

_log = logging.getLogger("policyguard.server")
_HEAVY = 2**18  # bytes from which reading a body is no work for the event loop
_MAX_POLICIES = 8
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``policyguard serve`` was told.

    ``policies``: folders, files and packaged names. ``backend`` takes the place of ``model`` to ``cache``.
    ``images``: a folder whose images the page shows. ``write``: the page may save policies and cases.
    ``workers``: images judged at the same time; default: what the backend likes. ``queue``: requests that may
    wait. ``timeout``: seconds for one check, and for the wait before it. ``body_limit``, ``memory``: MiB that
    one body, and all that are held, may have. ``body_seconds``: in which a body must have come.
    ``reload_every``: seconds between looks at the policy files; ``None``: only when asked.
    """

    policies: tuple[str, ...]
    model: str | None = None
    base_url: str | None = None
    dialect: str | None = None
    subset: bool = False
    explain: bool = False
    cache: str | None = None
    backend: Backend | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    images: Path | None = None
    write: bool = False
    workers: int | None = None
    queue: int = 256
    timeout: float = 30.0
    body_limit: int = 32
    memory: int = 512
    body_seconds: float = 30.0
    reload_every: float | None = 1.0


@dataclass(slots=True)
class State:
    """What the parts of one service share; ``app.state.service``."""

    settings: Settings
    guard: Guard
    policies: Policies
    room: Room
    ready: Readiness = field(init=False)

    def __post_init__(self) -> None:
        self.ready = Readiness(self.guard.backend)

    @property
    def backend(self) -> Backend:
        return self.guard.backend

    def named(self, wanted: Sequence[str], snapshot: Snapshot) -> tuple[str, ...]:
        """The names of the policies that a request means; the only one there is, if it names none."""
        known = [*snapshot.live, *(name for name in snapshot.errors if name not in snapshot.live)]
        names = tuple(dict.fromkeys(wanted))
        if not names:
            if len(known) != 1:
                raise Refusal(422, "policy_missing", "name a policy: `policy` is one of GET /v1/policies")
            names = (known[0],)
        if len(names) > _MAX_POLICIES:
            raise Refusal(422, "too_many_policies", f"at most {_MAX_POLICIES} policies for one image")
        for name in names:
            if name not in known:
                close = self.policies.nearest(name, known)
                hint = f"did you mean {close!r}?" if close else "GET /v1/policies lists them"
                raise Refusal(404, "policy_unknown", f"there is no policy of this name: {hint}")
            if name not in snapshot.live:
                raise Refusal(503, "not_set_up", "this policy does not load; the log of the service says why")
        return names

    async def judge(
        self, image: bytes | str, names: Sequence[str], snapshot: Snapshot, *, explain: bool | None = None
    ) -> Verdict:
        """The verdict on an image (bytes, or a data URI) under policies of ``snapshot``, in its turn."""
        assert isinstance(image, bytes) or image[:5].lower() == "data:"  # no path is ever opened
        guard = snapshot.guard(
            names, self.backend, explain=self.settings.explain, timeout=self.settings.timeout
        )
        async with self.room.turn():
            return await guard.acheck(image, explain=explain)


class Readiness:
    """Whether the backend answers, asked at most every few seconds and by one at a time."""

    _FRESH = 5.0

    def __init__(self, backend: Backend) -> None:
        self._backend, self._lock = backend, asyncio.Lock()
        self._until = 0.0
        self.problem: str | None = "the model is not loaded yet"

    def expire(self) -> None:
        """Ask the backend at the next look."""
        self._until = 0.0

    async def look(self) -> str | None:
        """What is wrong, or ``None``. A backend that did not answer is asked again at once."""
        async with self._lock:
            if monotonic() >= self._until or self.problem is not None:
                try:
                    await asyncio.to_thread(self._backend.warm)
                except Exception as error:
                    if str(error) != self.problem:
                        _log.error("the backend does not answer: %s", error)
                    self.problem = str(error)
                else:
                    if self.problem is not None:
                        _log.info("the backend answers")
                    self.problem = None
                self._until = monotonic() + self._FRESH
            return self.problem


def create_app(settings: Settings) -> FastAPI:
    """The service. Raises UsageError for a set-up that cannot work; loads no weights."""
    guard = _guard(settings)
    policies = Policies(settings.policies, guard.backend)
    workers = settings.workers or max(1, guard.backend.preferred_workers)
    guard.backend.make_room(workers)
    room = Room(
        workers=workers,
        queue=settings.queue,
        wait=settings.timeout,
        body=settings.body_limit * _MIB,
        memory=settings.memory * _MIB,
        body_seconds=settings.body_seconds,
    )
    state = State(settings, guard, policies, room)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Decoding, and backends without an event loop of their own, run in these.
        pool = ThreadPoolExecutor(workers + 4, thread_name_prefix="policyguard-serve")
        asyncio.get_running_loop().set_default_executor(pool)
        tasks = [asyncio.create_task(state.ready.look())]
        if settings.reload_every is not None:
            tasks.append(asyncio.create_task(_watch(state, settings.reload_every)))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            guard.close()

    app = FastAPI(
        title="PolicyGuard",
        version=__version__,
        description="Judges images under policies in plain language.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = state
    _answer_errors(app)
    _add_routes(app, state)
    return app


def _guard(settings: Settings) -> Guard:
    """A guard whose backend all others share."""
    from policyguard.server.policies import sources

    given = [source for _, source in sources(settings.policies)]
    if settings.backend is not None:
        return Guard(given or "pictosafe/l3", backend=settings.backend, cache=settings.cache)
    return Guard(
        given or "pictosafe/l3",  # where there is none, ``Policies`` says so
        model=settings.model,
        base_url=settings.base_url,
        dialect=settings.dialect,
        subset=settings.subset,
        cache=settings.cache,
        timeout=settings.timeout,
    )


async def _watch(state: State, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(state.policies.poll)
        except Exception:
            _log.exception("the policy files cannot be looked at")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: None = None
    code: str


class ErrorBody(BaseModel):
    """An answer without a verdict. ``allowed`` is always false."""

    allowed: bool = False
    error: ErrorDetail


class VerdictBody(BaseModel):
    """``Verdict.to_dict()``; docs/verdict.md lists the fields."""

    source: str
    outcome: str
    action: str
    allowed: bool
    score: float | None
    findings: list[dict[str, Any]]
    rationale: str | None
    reason: str | None
    degraded: bool
    partial: bool
    cached: bool
    evidence: dict[str, Any]


class PolicyBody(BaseModel):
    """A policy in force. ``error``: why its present file does not load; the one in force is kept."""

    name: str
    id: str | None = None
    version: str | None = None
    title: str | None = None
    fingerprint: str | None = None
    decision_fingerprint: str | None = None
    error: str | None = None


class PoliciesBody(BaseModel):
    policies: list[PolicyBody]


class HealthBody(BaseModel):
    status: str


class ReadyBody(BaseModel):
    """``problem``: why no image can be judged now. ``policies``: errors of policy files, by policy."""

    ready: bool
    problem: str | None = None
    policies: dict[str, str] = Field(default_factory=dict)


_CHECK = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "policy": {"type": "array", "items": {"type": "string"}},
                        "explain": {"type": "string", "enum": ["true", "false"]},
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {"type": "string", "description": "a data URI, or base64"},
                        "policy": {
                            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
                        },
                        "explain": {"type": "boolean"},
                    },
                }
            },
        },
    }
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
}


def _add_routes(app: FastAPI, state: State) -> None:
    @app.post("/v1/check", response_model=VerdictBody, responses=_PROBLEMS, openapi_extra=_CHECK)
    async def check(request: Request) -> Response:
        """Judge one image under one policy, or under several that must all allow."""
        snapshot = state.policies.current
        asked = request.query_params.getlist("policy")
        names = state.named(asked, snapshot) if asked else None
        async with state.room.reading(request) as body:
            kind = request.headers.get("content-type", "")
            heavy = len(body) > _HEAVY
            image, more, explain = (
                await asyncio.to_thread(_question, kind, body) if heavy else _question(kind, body)
            )
            if names is None or more:
                names = state.named([*asked, *more], snapshot)
            verdict = await state.judge(image, names, snapshot, explain=explain)
        return JSONResponse(verdict.to_dict())

    @app.get("/v1/policies", response_model=PoliciesBody, responses=_PROBLEMS)
    async def policies() -> Response:
        """The policies that images can be judged under."""
        snapshot = state.policies.current
        known: dict[str, dict[str, Any]] = {name: live.to_dict() for name, live in snapshot.live.items()}
        for name, error in snapshot.errors.items():
            known.setdefault(name, {"name": name})["error"] = str(error)
        return JSONResponse({"policies": list(known.values())})

    @app.post("/v1/policies/{name:path}/reload", response_model=PolicyBody, responses=_PROBLEMS)
    async def reload(name: str) -> Response:
        """Load a policy now. One that does not load is refused, and the old one kept."""
        state.named([name], Snapshot(dict.fromkeys(state.policies.current.live, None)))  # type: ignore[arg-type]
        try:
            live = await asyncio.to_thread(state.policies.reload, name)
        except UsageError as error:
            raise Refusal(422, "policy_wrong", str(error)) from None
        return JSONResponse(live.to_dict())

    @app.get("/healthz", response_model=HealthBody)
    async def healthz() -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", response_model=ReadyBody, responses={503: {"model": ReadyBody}})
    async def readyz() -> Response:
        """Whether images can be judged: the backend answers."""
        problem = await state.ready.look()
        errors = {name: str(error) for name, error in state.policies.current.errors.items()}
        return JSONResponse(
            {"ready": problem is None, "problem": problem, "policies": errors}, 503 if problem else 200
        )


def _question(kind: str, body: bytes) -> tuple[bytes | str, list[str], bool | None]:
    """The image, the policies and ``explain`` of a body. Raises Refusal."""
    media = kind.partition(";")[0].strip().lower()
    if media == "multipart/form-data":
        return _form(kind, body)
    if media == "application/json":
        return _json(body)
    raise Refusal(415, "media_type", "send multipart/form-data with a file `image`, or application/json")


def _form(kind: str, body: bytes) -> tuple[bytes, list[str], bool | None]:
    try:
        parts = split(kind, body)
        images = [part.decoded() for part in parts if part.name == "image"]
    except MultipartError as error:
        raise Refusal(400, "body_malformed", f"the body {error}") from None
    policies, explain = [], None
    for part in parts:
        value = bytes(part.content[:1000]).decode("utf-8", "replace")
        if part.name == "policy":
            policies.append(value)
        elif part.name == "explain" and value in ("true", "false"):
            explain = value == "true"
        elif part.name != "image":
            raise Refusal(422, "field_unknown", "the fields are image, policy and explain (true or false)")
    if len(images) != 1:
        raise Refusal(422, "image_missing" if not images else "several_images", "send one file as `image`")
    return images[0], policies, explain


def _json(body: bytes) -> tuple[bytes | str, list[str], bool | None]:
    data = read_json(body)
    if not isinstance(data, dict) or data.keys() - {"image", "policy", "explain"}:
        raise Refusal(422, "field_unknown", "expected an object with image, policy and explain")
    policy, explain = data.get("policy", []), data.get("explain")
    policies = [policy] if isinstance(policy, str) else policy
    if not isinstance(policies, list) or not all(isinstance(name, str) for name in policies):
        raise Refusal(422, "field_wrong", "`policy` is a name, or a list of names")
    if not isinstance(explain, bool | None):
        raise Refusal(422, "field_wrong", "`explain` is true or false")
    return read_image(data.get("image")), policies, explain


def read_json(body: bytes) -> Any:
    """What ``body`` says, each key once. Raises Refusal."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    try:
        return json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Refusal(400, "body_malformed", "the body is not JSON, or a key stands twice") from None


_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def read_image(image: object) -> bytes | str:
    """An image in JSON: a data URI as it is, base64 as bytes. Raises Refusal for everything else."""
    if not isinstance(image, str) or not image.strip():
        raise Refusal(422, "image_missing", "`image` is a data URI, or base64")
    if image[:5].lower() == "data:":
        return image
    if _ADDRESS.match(image[:100]):
        raise Refusal(422, "image_by_address", "images are not fetched: send the image as a data URI")
    try:
        return base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(422, "image_malformed", "`image` is neither a data URI nor base64") from None


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return Refusal(422, "request_invalid", "the request does not fit /openapi.json").response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        answer = Refusal(error.status_code, "http_error", str(error.detail))
        with suppress(TypeError, AttributeError):
            answer.headers |= dict(error.headers or {})
        return answer.response()

    @app.exception_handler(PolicyGuardError)
    async def wrong(_: Request, error: PolicyGuardError) -> Response:
        _log.error("the service is not set up rightly: %s", error)
        return Refusal(503, "not_set_up", "the service is not set up; its log says what to mend").response()
