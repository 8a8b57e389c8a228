"""The service as an ASGI application: images in, verdicts out, under policies that are reloaded.

What is wrong with an image is a verdict, answered with 200 and ``allowed: false`` unless the policy's
``outcomes`` say otherwise. What is wrong with a request is a ``Refusal``. What is wrong with the set-up is
503; what to mend is in the log and not in the answer. No image is stored or logged, and none is fetched.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from policyguard._version import __version__
from policyguard.assessment import Failure, FailureKind, Result
from policyguard.backends.base import AssessmentRequest, Backend, WrappingBackend
from policyguard.errors import ConfigurationError, PolicyGuardError, UsageError
from policyguard.guard import Guard
from policyguard.integrations.extract import find_images
from policyguard.integrations.screen import Screen
from policyguard.outcomes import Outcome
from policyguard.runs.exits import ExitCode
from policyguard.runs.reports.text import visible_line
from policyguard.server import shapes
from policyguard.server.door import CONTENT_TYPE, Door, Metrics, PatientProtocol, caller_of, require_free
from policyguard.server.keys import Caller, Keys
from policyguard.server.playground import Playground
from policyguard.server.policies import NO_POLICY, Policies, Readiness, Snapshot, sources
from policyguard.server.requests import PIXELS, Json, Refusal, Room, question, read_json, weigh
from policyguard.server.shadows import Shadows
from policyguard.verdict import Verdict

__all__ = ["Settings", "State", "configured", "create_app", "is_loopback", "serve"]

_log = logging.getLogger("policyguard.server")
_HEAVY = 2**18  # bytes from which reading a body is no work for the event loop
_MAX_POLICIES = 8
_MIB = 2**20
_MAX_CONNECTIONS = 1024
_SETUP = "the service is not set up rightly; its log says what to mend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What ``policyguard serve`` was told.

    ``policies``: folders, files and packaged names. ``backend`` takes the place of ``model`` to ``cache``.
    ``keys``: the file of those who may ask; ``None``: this machine alone, and nobody is asked for a key.
    ``images``: a folder whose images the page shows. ``write``: the page may save policies and cases.
    ``workers``: images judged at the same time; default: what the backend likes. ``queue``: requests that may
    wait. ``timeout``: seconds for one check, and for the wait before it. ``body_limit``, ``memory``: MiB that
    one body, and all that are held, may have. ``body_seconds``: in which a body must have come.
    ``reload_every``: seconds between looks at the policy files; ``None``: only when asked.
    ``shadow``: what judges beside served policies, see ``Shadows``, on ``shadow_share`` of their images.
    """

    policies: tuple[str, ...]
    model: str | None = None
    base_url: str | None = None
    dialect: str | None = None
    subset: bool = False
    explain: bool = False
    cache: str | None = None
    backend: Backend | None = None
    keys: Path | None = None
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
    shadow: tuple[str, ...] = ()
    shadow_share: float = 0.1
    shadow_model: str | None = None
    shadow_base_url: str | None = None


@dataclass(slots=True)
class State:
    """What the parts of one service share; ``app.state.service``. ``backend``: that of ``guard``, in turn."""

    settings: Settings
    guard: Guard
    backend: Backend
    policies: Policies
    room: Room
    keys: Keys | None
    shadows: Shadows
    metrics: Metrics = field(init=False)
    ready: Readiness = field(init=False)

    def __post_init__(self) -> None:
        self.ready = Readiness(self.backend, self.policies, self.settings.timeout)
        self.metrics = Metrics(self.policies, self.room, self.shadows, self.keys, self.ready)

    def named(self, wanted: Sequence[str], snapshot: Snapshot, caller: Caller) -> tuple[str, ...]:
        """The names of the policies that a request means; the only one there is, if it names none."""
        known = [*snapshot.live, *(name for name in snapshot.errors if name not in snapshot.live)]
        usable = [name for name in known if caller.may_use(name)]
        names = tuple(dict.fromkeys(wanted))
        if not names:
            if not usable and caller.policies is not None:
                raise Refusal(403, "policy_not_allowed", "no policy that this key may use is served")
            if len(usable) != 1:
                raise Refusal(422, "policy_missing", "name a policy: `policy` is one of GET /v1/policies")
            names = (usable[0],)
        if len(names) > _MAX_POLICIES:
            raise Refusal(422, "too_many_policies", f"at most {_MAX_POLICIES} policies for one image")
        for name in names:
            if name not in known:
                close = self.policies.nearest(name, usable)
                hint = f"did you mean {close!r}?" if close else "GET /v1/policies lists them"
                if not close and "moderation" in name:  # the names of OpenAI's own models
                    hint = (
                        "in POST /v1/moderations `model` is the policy; leave it out where there is only one"
                    )
                raise Refusal(404, "policy_unknown", f"there is no policy of this name: {hint}")
            if name not in usable:
                raise Refusal(403, "policy_not_allowed", "this key may not use this policy")
            if name not in snapshot.live:
                _log.error("policy %s was asked for and does not load: %s", name, snapshot.errors[name])
                raise Refusal(503, "not_set_up", _SETUP)
        return names

    def guard_for(self, names: Sequence[str], snapshot: Snapshot) -> Guard:
        """The guard that wants all of ``names`` to allow."""
        return snapshot.guard(
            names,
            self.backend,
            explain=self.settings.explain,
            timeout=self.settings.timeout,
            shadow=self.shadows.of(names, snapshot),
        )

    async def judge(
        self, image: bytes | str, names: Sequence[str], snapshot: Snapshot, *, explain: bool | None = None
    ) -> Verdict:
        """The verdict on an image (bytes, or a data URI) under policies of ``snapshot``, in its turn."""
        assert isinstance(image, bytes) or image[:5].lower() == "data:"  # no path is ever opened
        guard = self.guard_for(names, snapshot)
        pixels = weigh(image) if len(image) <= _HEAVY else await asyncio.to_thread(weigh, image)
        async with self.room.turn(pixels):
            verdict = await guard.acheck(image, explain=explain)
        self.note(names, snapshot, verdict)
        return verdict

    async def unscannable(self, names: Sequence[str], snapshot: Snapshot, why: str) -> Verdict:
        """The verdict on something that is no image we could judge."""
        guard = self.guard_for(names, snapshot)
        failure = Failure(FailureKind.UNSCANNABLE, why)
        verdict = await asyncio.to_thread(guard.judge_failure, "<input>", failure)
        self.note(names, snapshot, verdict)
        return verdict

    def note(self, names: Sequence[str], snapshot: Snapshot, verdict: Verdict) -> None:
        """Count a check; one that ended in an error is logged too, by its hash and without the image."""
        self.metrics.checked({snapshot.live[name].policy.id: name for name in names}, verdict)
        if verdict.outcome is Outcome.ERROR:
            why = visible_line((verdict.reason or "").removeprefix(f"{verdict.source}: "))
            image = (verdict.evidence.image_sha256 or "unknown")[:12]
            _log.warning("policy %s: %s on image %s: %s", ", ".join(names), verdict.outcome, image, why)


class InTurn(WrappingBackend):
    """Asks ``inner`` at most ``workers`` things at the same time, while the next images are being decoded."""

    def __init__(self, inner: Backend, workers: int) -> None:
        super().__init__(inner)
        self._turns = asyncio.Semaphore(workers)

    async def aassess(self, requests: Sequence[AssessmentRequest]) -> list[Result]:
        deadline = min((each.deadline for each in requests if each.deadline is not None), default=None)
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - monotonic())):
                await self._turns.acquire()
        except TimeoutError:
            busy = Failure(FailureKind.ERROR, "the model was busy until the deadline", retryable=True)
            return [busy] * len(requests)
        try:
            return await self.inner.aassess(requests)
        finally:
            self._turns.release()


def create_app(settings: Settings) -> FastAPI:
    """The service. Raises UsageError for a set-up that cannot work; loads no weights."""
    guard = _guard(settings)
    policies = Policies(settings.policies, guard.backend)
    workers = settings.workers or max(1, guard.backend.preferred_workers)
    guard.backend.make_room(workers)
    room = Room(
        workers=workers + min(workers, (os.cpu_count() or 1) + 2),  # some are decoded while others are judged
        queue=settings.queue,
        wait=settings.timeout,
        body=settings.body_limit * _MIB,
        memory=settings.memory * _MIB,
        body_seconds=settings.body_seconds,
    )
    keys = None if settings.keys is None else Keys(settings.keys, lambda: policies.current.live)
    shadows = Shadows(
        settings.shadow,
        policies,
        guard.backend,
        share=settings.shadow_share,
        model=settings.shadow_model,
        base_url=settings.shadow_base_url,
        timeout=settings.timeout,
    )
    state = State(settings, guard, InTurn(guard.backend, workers), policies, room, keys, shadows)

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
            await asyncio.to_thread(shadows.close)
            guard.close()

    app = FastAPI(
        title="PolicyGuard",
        version=__version__,
        description="Judges images under policies in plain language.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Its spans would hold whole addresses, and be there or not by its version: ours are the guard's.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = state
    _answer_errors(app)
    _add_routes(app, state)
    page = Playground(
        policies, guard.backend, room, images=settings.images, write=settings.write, shadows=shadows.to_dicts
    )
    app.include_router(page.router())
    app.add_middleware(Door, keys=keys, metrics=state.metrics, host=settings.host)
    return app


def _guard(settings: Settings) -> Guard:
    """A guard whose backend all others share."""
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
            await asyncio.to_thread(state.shadows.refresh)
            if state.keys is not None:
                await asyncio.to_thread(state.keys.poll)
        except Exception:
            _log.exception("the files of policies and keys cannot be looked at")


def _add_routes(app: FastAPI, state: State) -> None:
    problems = shapes.PROBLEMS

    @app.post(
        "/v1/check",
        response_model=shapes.VerdictBody,
        responses=problems,
        openapi_extra=shapes.CHECK,
    )
    async def check(request: Request) -> Response:
        """Judge one image under one policy, or under several that must all allow."""
        snapshot, caller = state.policies.current, caller_of(request.scope)
        asked = request.query_params.getlist("policy")
        names = state.named(asked, snapshot, caller) if asked else None
        async with state.room.reading(request) as body:
            kind = request.headers.get("content-type", "")
            image, more, explain = await _read(question, kind, body)
            if names is None or more:
                names = state.named([*asked, *more], snapshot, caller)
            verdict = await state.judge(image, names, snapshot, explain=explain)
        return Json(verdict.to_dict())

    @app.post(
        "/v1/moderations",
        response_model=shapes.ModerationBody,
        responses=problems,
        openapi_extra=shapes.MODERATIONS,
    )
    async def moderate(request: Request) -> Response:
        """The same in the shape of OpenAI's moderations: `model` is the policy, categories are its rules.

        Texts are answered as not checked, which counts as flagged.
        """
        snapshot, caller = state.policies.current, caller_of(request.scope)
        async with state.room.reading(request) as body:
            model, groups = shapes.moderated(await _read(_json, request, body))
            names = state.named([] if model is None else [model], snapshot, caller)
            policies = [snapshot.live[name].policy for name in names]
            results = []
            for items in groups:
                urls = [item.url for item in items if item.kind == "image"]
                verdicts = [
                    await state.judge(url, names, snapshot)
                    if url[:5].lower() == "data:"
                    else await state.unscannable(names, snapshot, "not fetched: send a data URI")
                    for url in urls
                ]
                results.append(shapes.moderation(len(items) - len(urls), verdicts, policies))
        return Json(shapes.moderations(names[0], results))

    @app.post(
        shapes.LITELLM,
        response_model=shapes.GuardrailBody,
        responses=problems,
        openapi_extra=shapes.GUARDRAIL,
    )
    async def guardrail(request: Request) -> Response:
        """LiteLLM's generic guardrail. `additional_provider_specific_params` names the `policy`."""
        snapshot, caller = state.policies.current, caller_of(request.scope)
        async with state.room.reading(request) as body:
            payload = shapes.litellm_payload(await _read(_json, request, body))
            wanted, pass_on = shapes.litellm_settings(payload)
            names = state.named(wanted, snapshot, caller)
            screen = Screen(state.guard_for(names, snapshot), pass_on=pass_on)
            sites = await asyncio.to_thread(find_images, payload)
            pixels = await asyncio.to_thread(lambda: sum(weigh(site.data) for site in sites if site.data))
            async with state.room.turn(min(pixels, PIXELS)):
                result = await screen.ascreen(sites)
            for item in result.items:
                state.note(names, snapshot, item.verdict)
            return Json(await asyncio.to_thread(shapes.litellm_answer, result, payload))

    @app.get("/v1/policies", response_model=shapes.PoliciesBody, responses=problems)
    async def policies(request: Request) -> Response:
        """The policies that this key may use."""
        snapshot, caller = state.policies.current, caller_of(request.scope)
        known: dict[str, dict[str, Any]] = {name: live.to_dict() for name, live in snapshot.live.items()}
        for name, error in snapshot.errors.items():
            known.setdefault(name, {"name": name})["error"] = _said(error, caller)
        return Json({"policies": [each for name, each in known.items() if caller.may_use(name)]})

    @app.post("/v1/policies/{name:path}/reload", response_model=shapes.PolicyBody, responses=problems)
    async def reload(name: str, request: Request) -> Response:
        """Load a policy now; for operators. One that does not load is refused, and the old one kept."""
        caller = caller_of(request.scope)
        if not caller.operator:
            raise Refusal(403, "not_operator", "this is for keys with `operator: true`")
        snapshot = state.policies.current
        if not caller.may_use(name) or name not in snapshot.errors:
            state.named([name], snapshot, caller)
        try:
            live = await asyncio.to_thread(state.policies.reload, name)
        except UsageError as error:
            raise Refusal(422, "policy_wrong", str(error)) from None
        except KeyError:
            raise Refusal(404, "policy_unknown", "there is no policy of this name") from None
        return Json(live.to_dict())

    @app.get("/healthz", response_model=shapes.HealthBody)
    async def healthz() -> Response:
        """Whether the process answers."""
        return Json({"status": "ok"})

    @app.get("/readyz", response_model=shapes.ReadyBody, responses={503: {"model": shapes.ReadyBody}})
    async def readyz(request: Request) -> Response:
        """Whether images can be judged: the backend answers, and gives what a policy needs."""
        caller = caller_of(request.scope)
        problem = await state.ready.look()
        errors = {
            name: _said(error, caller)
            for name, error in state.policies.current.errors.items()
            if caller.may_use(name)
        }
        refused = state.ready.refused
        for name, why in refused.items():
            if caller.may_use(name):
                errors.setdefault(name, why if caller.operator else "it judges no image now")
        for name, (beside, error) in state.shadows.states().items():
            if error is not None and caller.operator and caller.may_use(beside):
                errors[name] = f"the shadow of {beside} stays as it was: {error}"
        hidden = _SETUP if refused or problem == NO_POLICY else "the backend does not answer"
        said = problem if problem is None or caller.operator else hidden
        body = {"ready": problem is None, "problem": said, "policies": errors}
        if caller.operator and state.keys is not None:
            body["keys"] = state.keys.problem
        return Json(body, 503 if problem else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        state.ready.glance()  # a backend that does not answer must not hold up what tells of it
        return Response(state.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(shapes.page(app.openapi()), headers={"Content-Security-Policy": policy})


async def _read(reader: Any, about: Any, body: bytes) -> Any:
    """``reader(about, body)``, beside the event loop where that takes long."""
    if len(body) > _HEAVY:
        return await asyncio.to_thread(reader, about, body)
    return reader(about, body)


def _json(request: Request, body: bytes) -> Any:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "media_type", "send application/json")
    return read_json(body)


def _said(error: Exception, caller: Caller) -> str:
    return str(error) if caller.operator else "its present file does not load"


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
        answer.headers |= dict(error.headers or {})
        return answer.response()

    @app.exception_handler(PolicyGuardError)
    async def wrong(_: Request, error: PolicyGuardError) -> Response:
        _log.error("the service is not set up rightly: %s", error)
        return Refusal(503, "not_set_up", _SETUP).response()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def configured(app: Any, settings: Settings) -> uvicorn.Config:
    """How uvicorn runs ``app``: h11 alone, whatever is installed, and no log of what was asked."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=75,  # longer than clients and proxies keep a connection: they end it, not we
        h11_max_incomplete_event_size=2**15,
        timeout_graceful_shutdown=round(settings.timeout + settings.body_seconds),
    )


def serve(settings: Settings) -> ExitCode:
    """Serve until a signal ends it. Requests that run are answered before it ends."""
    if settings.keys is None and not is_loopback(settings.host):
        raise ConfigurationError(
            f"{settings.host} can be reached from other machines, and nobody is asked for a key",
            hint="leave out --host, or give --keys with a file that `policyguard serve key new` makes",
        )
    require_free(settings.host, settings.port)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    app = create_app(settings)
    if settings.keys is None:
        _log.info("without --keys, this machine alone is answered")
    server = uvicorn.Server(configured(app, settings))
    with suppress(SystemExit):  # what uvicorn ends with where it cannot listen; its log has said so
        server.run()
    return ExitCode.OK if server.started else ExitCode.USAGE
