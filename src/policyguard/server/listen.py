"""Runs the service with uvicorn: slow headers are cut off, and it ends without dropping a request."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from policyguard.errors import ConfigurationError
from policyguard.runs.exits import ExitCode
from policyguard.server.app import Settings, create_app

__all__ = ["PatientProtocol", "configured", "is_loopback", "serve"]

_HEADER_SECONDS = 10.0
_MAX_HEADERS = 32 * 2**10
_MAX_CONNECTIONS = 1024


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but a request whose headers take too long ends its connection."""

    header_seconds = _HEADER_SECONDS
    _begun: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
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
        h11_max_incomplete_event_size=_MAX_HEADERS,
        timeout_graceful_shutdown=round(settings.timeout + settings.body_seconds),
    )


def serve(settings: Settings) -> ExitCode:
    """Serve until a signal ends it. Requests that run are answered before it ends."""
    if not is_loopback(settings.host):
        raise ConfigurationError(
            f"{settings.host} can be reached from other machines, and nobody is asked for a key",
            hint="leave out --host, and let a proxy on this machine ask who calls",
        )
    app = create_app(settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    server = uvicorn.Server(configured(app, settings))
    server.run()
    return ExitCode.OK if server.started else ExitCode.USAGE
