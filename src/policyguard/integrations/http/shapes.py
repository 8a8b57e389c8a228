"""Refusals in the provider's own error shape, so that each SDK raises its own permission error at once."""

from __future__ import annotations

import json
from typing import Any

from policyguard.integrations.http.message import Provider, Synthetic
from policyguard.integrations.http.result import HttpResult
from policyguard.integrations.http.streams import Framing

__all__ = ["VERDICT_HEADER", "error_event", "refusal"]

VERDICT_HEADER = "x-policyguard-verdict"


def refusal(
    provider: Provider, code: str, message: str, result: HttpResult, *, retryable: bool = False
) -> Synthetic:
    """A 403, which no SDK retries, and which each turns into its permission error.

    Where the guard could not judge this time (``retryable``), a 503: the SDKs ask again, and so does the
    guard.
    """
    again = (("retry-after", "1"),) if retryable else ()
    headers = (
        ("content-type", "application/json"),
        (VERDICT_HEADER, result.header()),
        ("x-policyguard-blocked", result.blocked or "request"),
        ("x-should-retry", str(retryable).lower()),  # the SDKs of OpenAI and Anthropic obey it
        *again,
    )
    error = _error(provider, code, message, retryable=retryable)
    return Synthetic(503 if retryable else 403, headers, _dump(error))


def error_event(
    provider: Provider,
    framing: Framing,
    path: str,
    code: str,
    message: str,
    *,
    first: bool,
    retryable: bool = False,
) -> bytes:
    """The end of a stream that is stopped. ``first``: nothing of the stream was let through before."""
    error = _error(provider, code, message, retryable=retryable)
    if framing == "array":
        return (b"[" if first else b",") + _dump(error) + b"]"
    if framing == "lines":
        return _dump(error) + b"\n"
    if provider == "openai" and "/responses" in path:
        # Its own error event has the message on top; the SDK raises for what has an "error".
        error = {"type": "error", "code": code, "message": message, "param": None, **error}
    name = b"event: error\n" if provider != "gemini" else b""
    return name + b"data: " + _dump(error) + b"\n\n"


def _error(provider: Provider, code: str, message: str, *, retryable: bool) -> dict[str, Any]:
    if provider == "anthropic":
        kind = "overloaded_error" if retryable else "permission_error"
        return {"type": "error", "error": {"type": kind, "message": f"{message} [{code}]"}}
    if provider == "gemini":
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code, "domain": "policyguard"}
        number, status = (503, "UNAVAILABLE") if retryable else (403, "PERMISSION_DENIED")
        return {"error": {"code": number, "message": message, "status": status, "details": [info]}}
    kind = "server_error" if retryable else "permission_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
