"""Refusals in the provider's own error shape, so that each SDK raises its own permission error at once."""

from __future__ import annotations

import json
from typing import Any

from policyguard.integrations.http.message import Provider, Synthetic
from policyguard.integrations.http.result import HttpResult
from policyguard.integrations.http.streams import Framing

__all__ = ["VERDICT_HEADER", "error_event", "refusal"]

VERDICT_HEADER = "x-policyguard-verdict"


def refusal(provider: Provider, code: str, message: str, result: HttpResult) -> Synthetic:
    """A 403: no SDK retries it, and each turns it into its permission error."""
    headers = (
        ("content-type", "application/json"),
        (VERDICT_HEADER, result.header()),
        ("x-policyguard-blocked", result.blocked or "request"),
        ("x-should-retry", "false"),  # the SDKs of OpenAI and Anthropic obey it
    )
    return Synthetic(403, headers, _dump(_error(provider, code, message)))


def error_event(
    provider: Provider, framing: Framing, path: str, code: str, message: str, *, first: bool
) -> bytes:
    """The end of a stream that is stopped. ``first``: nothing of the stream was let through before."""
    error = _error(provider, code, message)
    if framing == "array":
        return (b"[" if first else b",") + _dump(error) + b"]"
    if framing == "lines":
        return _dump(error) + b"\n"
    if provider == "openai" and "/responses" in path:
        # Its own error event has the message on top; the SDK raises for what has an "error".
        error = {"type": "error", "code": code, "message": message, "param": None, **error}
    name = b"event: error\n" if provider != "gemini" else b""
    return name + b"data: " + _dump(error) + b"\n\n"


def _error(provider: Provider, code: str, message: str) -> dict[str, Any]:
    if provider == "anthropic":
        return {"type": "error", "error": {"type": "permission_error", "message": f"{message} [{code}]"}}
    if provider == "gemini":
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code, "domain": "policyguard"}
        return {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED", "details": [info]}}
    return {"error": {"message": message, "type": "permission_error", "param": None, "code": code}}


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
