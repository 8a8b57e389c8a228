"""Policies, pictures and requests for these tests."""

from __future__ import annotations

from typing import Any

from PIL import Image

from backends.remote.server import ToyServer
from policyguard.assessment import Reading
from policyguard.backends.base import AssessmentRequest
from policyguard.backends.remote import RemoteBackend, Retries
from policyguard.dialects import PicoDialect, SafeguardDialect
from policyguard.policy import Policy, parse_policy


def policy(*, rules: list[dict[str, Any]] | None = None, **changes: Any) -> Policy:
    """Two rules, arms (A) and drinks (B)."""
    default = [
        {"id": "arms", "title": "Arms", "unsafe": ["weapons"]},
        {"id": "drinks", "title": "Drinks", "unsafe": ["alcohol"]},
    ]
    fields = {"id": "house", "version": "1.0.0", "title": "House", "rules": rules or default}
    return parse_policy(fields | changes)


def picture(shade: int = 0, size: tuple[int, int] = (24, 24)) -> Image.Image:
    """A picture of one colour; equal shades are equal pictures."""
    return Image.new("RGB", size, (shade % 256, shade // 256, 7))


def backend(server: ToyServer, **options: Any) -> RemoteBackend:
    return backend_on([server.url], **{"model": server.model} | options)


def backend_on(urls: list[str], **options: Any) -> RemoteBackend:
    settings: dict[str, Any] = {"model": "toy-guard", "dialect": SafeguardDialect(), "timeout": 100.0}
    return RemoteBackend(urls, **settings | {"retries": Retries.without_waits()} | options)


def pico(server: ToyServer, **options: Any) -> RemoteBackend:
    return backend(server, dialect=PicoDialect(), **options)


def ask(frame: Image.Image, under: Policy | None = None, *, explain: bool = False) -> AssessmentRequest:
    reading = Reading.EXPLAIN if explain else Reading.FAST
    return AssessmentRequest(frame, _USUAL if under is None else under.resolve(), reading)


_USUAL = policy().resolve()
