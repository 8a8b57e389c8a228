"""What every request passes before anything else looks at it: whose it is, and whether it is well formed.
What the service counts is here too, since this is where every answer goes out; no label holds what a caller
can make up without end.

Covered: without keys, what a web page in a browser on this machine could send (a foreign ``Origin``, a name
that an attacker's DNS points here); with keys, whoever has none, or asks too often; bodies whose length two
servers could read differently; keys in addresses, which end up in logs. Not covered: the bytes of HTTP
itself, which uvicorn and h11 read, and encryption: a proxy in front has to.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import h11
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from policyguard.errors import ConfigurationError
from policyguard.server.keys import LOCAL, PREFIX, Caller, Keys
from policyguard.server.requests import Refusal

if TYPE_CHECKING:
    from policyguard.server.policies import Policies, Readiness
    from policyguard.server.requests import Room
    from policyguard.server.shadows import Shadows
    from policyguard.verdict import Verdict

__all__ = ["CONTENT_TYPE", "Door", "Metrics", "PatientProtocol", "caller_of"]

_log = logging.getLogger("policyguard.server")

OPEN = ("/healthz", "/readyz", "/", "/docs", "/openapi.json")
"""Paths that need no key. What they show is public, or says less to whoever has none."""
OPEN_FOLDERS = ("/page/",)
FOR_ALL_KEYS = ("/v1/", "/beta/")
"""Below these any key will do; everything else is for operators."""

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_SECRETS = re.compile(r"(?:^|[?&;])(?:x[-_])?(?:api[-_]?key|key|(?:access[-_])?token|authorization)=")
_MAX_HEADERS = 100
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def caller_of(scope: MutableMapping[str, Any]) -> Caller:
    """Who sent a request that came through the door."""
    caller: Caller = scope["policyguard.caller"]
    return caller


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but a request whose headers take too long ends its connection, and so does one that
    was answered and goes on sending its body."""

    header_seconds = 10.0
    _begun: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        answering = self.cycle is not None and not self.cycle.response_complete
        between = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if answering or between:
            self._disarm()
        elif self._begun is None and not self.transport.is_closing():
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._begun = self.loop.call_later(self.header_seconds, self.transport.close)

    def _disarm(self) -> None:
        if self._begun is not None:
            self._begun.cancel()
            self._begun = None


class Door:
    """ASGI middleware: lets requests in, or answers them itself. ``host``: the address it listens on."""

    def __init__(self, app: ASGIApp, *, keys: Keys | None, metrics: Metrics, host: str) -> None:
        self.app, self._keys, self._metrics, self._host = app, keys, metrics, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, answered = perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            scope["policyguard.caller"] = self.admitted(scope)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send_on)
        else:
            try:
                with _continuing(scope):
                    await self.app(scope, receive, send_on)
            except Exception:
                _log.exception("this is a bug in policyguard")
                if answered:
                    raise
                await Refusal(500, "bug", "the service failed").response()(scope, receive, send_on)
        finally:
            self._metrics.answered(scope["path"], answered, perf_counter() - began)

    def admitted(self, scope: Scope) -> Caller:
        """Who sends this. Raises Refusal."""
        headers, path = Headers(scope=scope), scope["path"]
        if scope["http_version"] not in ("1.0", "1.1"):
            raise Refusal(400, "version", "this is no HTTP/1.1", close=True)
        if len(scope["headers"]) > _MAX_HEADERS:
            raise Refusal(431, "too_many_headers", f"at most {_MAX_HEADERS} headers", close=True)
        if "transfer-encoding" in headers and "content-length" in headers:
            raise Refusal(400, "two_lengths", "the body has two lengths", close=True)
        query = unquote_plus(scope["query_string"].decode("latin-1")).lower()
        if _SECRETS.search(query) or PREFIX in query or PREFIX in path:
            raise Refusal(
                400,
                "key_in_url",
                "a key stood in the address, where logs keep it: replace that key, and send the new one in "
                "the header Authorization",
            )
        keys = self._keys
        if path in ("/healthz", "/readyz"):
            return LOCAL if keys is None else self._known(headers) or _NOBODY
        if keys is None:
            self._from_here(headers, scope["scheme"])
            return LOCAL
        caller = self._known(headers)
        if path in OPEN or path.startswith(OPEN_FOLDERS):
            return caller or _NOBODY
        if caller is None:
            raise Refusal(401, "key_wrong", "the key is missing or wrong: Authorization: Bearer KEY")
        if not caller.operator and not path.startswith(FOR_ALL_KEYS):
            raise Refusal(403, "not_operator", "this is for keys with `operator: true`")
        if seconds := caller.wait():
            raise Refusal(
                429, "rate", f"this key may ask {caller.rate:g} times a second", retry_after=seconds
            )
        return caller

    def _known(self, headers: Headers) -> Caller | None:
        """Whose key the headers hold. Raises Refusal for keys that contradict each other."""
        assert self._keys is not None
        sent = {
            (value[7:] if value[:7].lower() == "bearer " else value).strip()
            for name in ("authorization", "x-api-key")
            for value in headers.getlist(name)
        }
        if len(sent) > 1:
            raise Refusal(401, "key_wrong", "the request holds several keys: send one")
        return self._keys.find(sent.pop()) if sent else None

    def _from_here(self, headers: Headers, scheme: str) -> None:
        """Raise Refusal for what a page of another site could have had a browser send."""
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if name not in (*_LOOPBACK, self._host):
            raise Refusal(421, "host_wrong", "without keys this service answers to localhost alone")
        origin = headers.get("origin")
        if origin is not None and origin.lower() != f"{scheme}://{host}":
            raise Refusal(403, "origin_wrong", "a page of another site sent this")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refusal(403, "origin_wrong", "a page of another site sent this")


_NOBODY = Caller("nobody", frozenset())


class _continuing:  # noqa: N801 (used as a function)
    """Inside, spans belong to the trace that the caller began, where OpenTelemetry is in use."""

    def __init__(self, scope: Scope) -> None:
        self._token: Any = None
        if "opentelemetry.trace" in sys.modules:
            from opentelemetry import context, propagate

            carrier = {
                name: value for name, value in Headers(scope=scope).items() if name.startswith("trace")
            }
            if carrier:
                self._token = context.attach(propagate.extract(carrier))

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            from opentelemetry import context

            context.detach(self._token)


CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ENDPOINTS = ("/v1/check", "/v1/moderations", "/v1/policies", "/beta/litellm_basic_guardrail_api")


def require_free(host: str, port: int) -> None:
    """Raises ConfigurationError where somebody else listens, or this user may not."""
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return  # uvicorn says what is wrong with the name
    for family, kind, protocol, _, address in addresses:
        try:
            with socket.socket(family, kind, protocol) as trial:
                if os.name == "posix":  # a port left a moment ago is free; elsewhere it would be shared
                    trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                trial.bind(address)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                what = "end what listens there, or " if error.errno == errno.EADDRINUSE else ""
                raise ConfigurationError(
                    f"cannot listen on port {port} of {host}: {os.strerror(error.errno)}",
                    hint=f"{what}choose another with --port (0: any free one)",
                ) from None


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(
        self, policies: Policies, room: Room, shadows: Shadows, keys: Keys | None, ready: Readiness
    ) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "policyguard_requests",
            "Requests that were answered.",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "policyguard_request_seconds",
            "From the headers of a request to the end of its answer.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.checks = Counter(
            "policyguard_checks",
            "Images that got a verdict, by the name a policy is served by; several: under more than one.",
            ["policy", "outcome", "action", "cached"],
            registry=self.registry,
        )
        self.violations = Counter(
            "policyguard_violations",
            "Rules that images broke; `policy` is the one of the rule.",
            ["policy", "rule", "action"],
            registry=self.registry,
        )
        for name, about, read in (
            ("judging", "Images that are being judged.", lambda: room.judging),
            ("waiting", "Requests that wait for their turn.", lambda: room.waiting),
            ("body_bytes", "Bytes of bodies that are held.", lambda: room.held),
            ("ready", "1: images can be judged, as /readyz says.", lambda: float(ready.problem is None)),
        ):
            Gauge(f"policyguard_{name}", about, registry=self.registry).set_function(read)
        if keys is not None:
            about = "1: the present file of keys does not load, and the former keys are in force."
            gauge = Gauge("policyguard_keys_broken", about, registry=self.registry)
            gauge.set_function(lambda: float(keys.problem is not None))
        self.registry.register(_InForce(policies, ready))
        self.registry.register(shadows)

    def checked(self, names: Mapping[str, str], verdict: Verdict) -> None:
        """Count a verdict under policies, given as id -> the name by which each is served."""
        policy = next(iter(names.values())) if len(names) == 1 else "several"
        cached = "true" if verdict.cached else "false"
        self.checks.labels(policy, verdict.outcome.value, verdict.action.value, cached).inc()
        for finding in verdict.findings:
            if finding.violates:
                self.violations.labels(names[finding.policy], finding.rule, finding.action.value).inc()

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one answer. ``status`` 0: the client was gone."""
        endpoint = path if path in _ENDPOINTS else "other"
        self.requests.labels(endpoint, str(status)).inc()
        if endpoint != "other":
            self.seconds.labels(endpoint).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _InForce:
    """Which policies are in force now, read when somebody looks."""

    def __init__(self, policies: Policies, ready: Readiness) -> None:
        self._policies, self._ready = policies, ready

    def collect(self) -> Iterator[GaugeMetricFamily]:
        snapshot = self._policies.current
        labels = ["policy", "id", "version", "fingerprint", "decision_fingerprint"]
        info = GaugeMetricFamily("policyguard_policy_info", "Policies in force; 1 each.", labels=labels)
        for live in snapshot.live.values():
            policy = live.policy
            info.add_metric(
                [live.name, policy.id, policy.version, policy.fingerprint, policy.decision_fingerprint], 1
            )
        broken = GaugeMetricFamily(
            "policyguard_policy_broken", "1: the present file does not load.", labels=["policy"]
        )
        for name in sorted({*snapshot.live, *snapshot.errors}):
            broken.add_metric([name], float(name in snapshot.errors))
        judging = GaugeMetricFamily(
            "policyguard_policy_ready", "1: it judges images, as /readyz says.", labels=["policy"]
        )
        for name in snapshot.live:
            judging.add_metric([name], float(self._ready.problem is None and name not in self._ready.refused))
        yield info
        yield broken
        yield judging
