"""JSON over HTTP to one model server: bounded in time and size, and read strictly.

Covered: hard bounds on the seconds of a call and the bytes of an answer; no compression, no redirects; JSON
without NaN and Infinity; what httpcore raises becomes CallError or ConfigurationError; neither the API key
nor a proxy's password appears in a message. An answer belongs to its request: one that began before its
request was sent is an error (see ``connections``); each call carries an id of its own, which vLLM returns,
and once a server has, answers without it are errors; where one answer comes to two requests, no further one
is read. Not covered: a server that returns no ids, behind a proxy that mixes up answers without giving any of
them twice. Calls are not repeated here (see ``servers``), and what a refusal means is read in ``errors``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from policyguard.assessment import FailureKind
from policyguard.backends.remote.answers import tokens_paid
from policyguard.backends.remote.connections import Connections
from policyguard.backends.remote.errors import CallError, Reply, declined, takes_no_images
from policyguard.backends.stats import Counters
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.strict.jsontext import ConstantError, DuplicateKeyError, JsonError, parse_json

if TYPE_CHECKING:
    import httpcore

    from policyguard.backends.remote.endpoint import Endpoint

__all__ = [
    "MAX_BODY",
    "JsonClient",
    "Method",
    "json_bytes",
    "retry_after",
]

Method = Literal["GET", "POST"]

MAX_BODY = 8 * 2**20
"""Bytes of a list of models that are read at most."""

_MAX_ANSWER = 2**20
"""Bytes of any other answer. A real one has a few thousand."""

_LEAST_PIECE = 256
"""Bytes that each piece of an answer counts for at least: pieces take time, however small they are."""

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "policyguard"}
_CONNECT_SECONDS = 10.0
_log = logging.getLogger("policyguard.backends")
_COMPLETIONS = "/chat/completions"
"""The one path whose answers have ids."""
_UNPAID = ("/tokenize", "/detokenize", "/api/show")
"""Answered without running the model, by servers of one's own."""
_MIN_ID = 16
"""Characters from which on an answer's id is taken to be unique. Ollama's have three digits, TGI's none."""
_REMEMBERED_IDS = 4096
_HELD = secrets.token_hex(16)
"""Stands in a body for what is put there later; no text that comes from outside can hold it."""
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_BUSY = (408, 425, 429, 529)
_GATEWAY = (502, 503, 504, 520, 521, 522, 523, 524)
"""Those from 520 on are Cloudflare's, for a server behind it; 529 is Anthropic's for busy."""
_NOT_DECLINING = (401, 402, 407, 429)
_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
"""Codes of OpenAI and those who speak like it for HTTP 429 that no waiting helps."""
"""About the caller, whatever the message says."""


class JsonClient:
    """The HTTP connections to one server; belongs to one event loop.

    Args:
        endpoint: the server.
        timeout: seconds for one call from first to last byte, a hard bound.
        connections: how many calls run at the same time at most.
        max_body: bytes of an answer that are read at most; default: 1 MiB, and 8 of a list of models.
        headers: sent with each call; default: the endpoint's API key.
        counters: where what is asked of models is counted: ``requests`` and tokens.

    Raises ConfigurationError for a host, a proxy or certificates that cannot be used, and MissingExtraError
    without httpx.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float,
        connections: int,
        max_body: int | None = None,
        headers: Mapping[str, str] | None = None,
        counters: Counters | None = None,
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise MissingExtraError("httpx", "remote") from None
        self.endpoint = endpoint
        self._timeout = timeout
        self._max_body = max_body
        self._counters = counters or Counters()
        if headers is None:
            headers = endpoint.authorization()
        try:
            httpx.URL(endpoint.base).host  # noqa: B018 (decodes it, as every call will)
        except (httpx.InvalidURL, ValueError):
            raise ConfigurationError("the host of base_url is not a name that can be looked up") from None
        try:
            self._http = httpx.AsyncClient(
                # No compression: a bound on bytes received is then a bound on bytes held.
                headers=_HEADERS | dict(headers),
                # A proxy from the environment may lead to a server; no machine reaches itself through one.
                trust_env=not endpoint.loopback,
                # Reading all certificates takes 40 ms, and plain HTTP within a machine meets none. With TLS,
                # those of the environment count on this machine too.
                verify=httpx.create_ssl_context()
                if endpoint.base.startswith("https:")
                else not endpoint.loopback,
            )
        except Exception as error:
            raise _environment_error(error) from None
        self._connections = Connections(
            self._http, endpoint.base, most=connections, connect=min(timeout, _CONNECT_SECONDS)
        )
        self._targets: dict[str, bytes] = {}
        self._has_answered = False
        self._echoes_ids = False
        self._mixes_up_answers = False
        self._answer_ids: dict[str, int] = {}

    @property
    def slots(self) -> asyncio.Semaphore:
        """One for each call that may run at the same time."""
        return self._connections.slots

    async def close(self) -> None:
        await self._connections.close()
        await self._http.aclose()

    async def call(self, method: Method, path: str, content: bytes | None, *, within: float) -> Reply:
        """Send ``content``, which is JSON, and wait for ``within`` seconds at most.

        Raises CallError unless there is a whole answer below 500 (or 511) to look at, and ConfigurationError
        for a certificate that is not trusted and a proxy that wants a password.
        """
        began, request_id = time.monotonic(), secrets.token_hex(16)
        headers = {b"X-Request-Id": request_id.encode()}
        if content is not None:
            headers[b"Content-Type"] = b"application/json"
        async with self._own_errors(min(within, self._timeout)):
            most = self._max_body or (MAX_BODY if path == "/models" else _MAX_ANSWER)
            read = partial(self._body, most=most)
            if method == "POST" and path not in _UNPAID:
                self._counters.add(requests=1)
            answer = await self._connections.ask(method, self._target(path), headers, content, read)
        status, body = answer.status, answer.body
        spent, sent = time.monotonic() - began, len(content or b"")
        said = "%s %s at %s: HTTP %d in %.2f s, %d bytes sent, %d received"
        _log.debug(said, method, path, self.endpoint.host, status, spent, sent, len(body))
        if status == 200 and answer.began_early:
            await self._connections.drop(answer.connection)
            raise CallError(
                f"the answer of {self.endpoint.host} began before its request was sent",
                retryable=True,
                retry_now=True,
                server_failed=True,
            )
        if status == 200:
            data = self._object(body)
            tokens_in, tokens_out = tokens_paid(data)  # whatever becomes of the answer
            self._counters.add(tokens_in=tokens_in, tokens_out=tokens_out)
            if path == _COMPLETIONS and not self._is_answer_to(request_id, content, data.get("id")):
                await self._connections.drop(answer.connection)
                raise CallError(
                    f"the answer of {self.endpoint.host} is that to another request",
                    retryable=True,
                    retry_now=True,
                    server_failed=True,
                )
            if path == _COMPLETIONS and not _is_unique(data.get("id")):
                # Nothing else would tell a late second copy of this answer from the next request's.
                await self._connections.drop(answer.connection)
            self._has_answered |= path == _COMPLETIONS
            return Reply(status, data, self.endpoint)
        error = _error(body)
        if status not in _NOT_DECLINING and (reason := declined(error)) is not None:
            raise CallError(
                f"{self.endpoint.host} declines to judge this (HTTP {status}): {self.endpoint.quote(reason)}",
                kind=FailureKind.REFUSED,
            )
        message, parameter = map(self.endpoint.cut, _error_message(error))
        if status == 429 and isinstance(error, dict) and not _USED_UP.isdisjoint(_codes(error)):
            raise ConfigurationError(
                f"the account at {self.endpoint.host} is used up (HTTP 429): {self.endpoint.quote(message)}",
                hint="look at its plan, credit and limits; nothing is judged until it may ask again",
            )
        reply = Reply(status, {}, self.endpoint, message, parameter, self._has_answered)
        if status in _BUSY or (status >= 500 and status != 511 and not takes_no_images(reply)):
            quote = self.endpoint.quote(message)
            seconds = retry_after(answer.headers.get(b"retry-after", b"").decode("latin-1") or None)
            raise CallError(
                f"{self.endpoint.host} cannot answer now (HTTP {status})"
                + (f": {quote}" if quote else "")
                + (f"; it asks to wait {math.ceil(seconds)} s" if seconds else ""),
                retryable=status != 501,
                retry_now=status in _BUSY or status in _GATEWAY,
                server_failed=status not in _BUSY and status != 501,
                retry_after=seconds,
            )
        return reply

    def _target(self, path: str) -> bytes:
        if path not in self._targets:
            import httpx

            self._targets[path] = httpx.URL(self.endpoint.url(path)).raw_path
        return self._targets[path]

    def _is_answer_to(self, request_id: str, content: bytes | None, answer_id: object) -> bool:
        """Whether the answer with ``answer_id`` may be that to the request, as far as it shows."""
        if isinstance(answer_id, str) and request_id in answer_id:
            self._echoes_ids = True
            return True
        if isinstance(answer_id, str) and _is_unique(answer_id) and not self._echoes_ids:
            # A cache between here and the model may answer equal requests alike.
            request = hash(content)
            if self._answer_ids.setdefault(answer_id, request) != request:
                self._mixes_up_answers = True
            if len(self._answer_ids) > _REMEMBERED_IDS:
                del self._answer_ids[next(iter(self._answer_ids))]
        return not (self._echoes_ids or self._mixes_up_answers)

    @asynccontextmanager
    async def _own_errors(self, within: float) -> AsyncIterator[None]:
        """Turn what httpcore raises, and a call longer than ``within`` seconds, into our own errors."""
        import httpcore

        host, began = self.endpoint.host, time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, within)):
                yield
        except (TimeoutError, httpcore.TimeoutException) as error:
            # A server that was given next to no time has not failed.
            long_enough = time.monotonic() - began >= self._timeout / 2
            reason = "was not asked, as time is up"
            if within > 0.0:
                reason = f"did not answer within {within:.3g} s"
            if within >= self._timeout:
                reason += ", the `timeout` of a call"
            raise CallError(
                f"{host} {reason}",
                retryable=True,
                retry_now=True,
                timed_out=True,
                server_failed=long_enough or isinstance(error, httpcore.ConnectTimeout),
            ) from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.ProxyError,
            httpcore.UnsupportedProtocol,
            httpcore.ConnectionNotAvailable,
            OSError,
        ) as error:
            quote = self.endpoint.quote(error)
            if _is_certificate_error(error):
                raise ConfigurationError(
                    f"the certificate of {host} is not trusted ({quote})",
                    hint="renew it, or set SSL_CERT_FILE to the certificate of its authority",
                ) from None
            if isinstance(error, httpcore.ProxyError) and str(error).startswith("407"):
                raise ConfigurationError(
                    f"the proxy in front of {host} requires a password (HTTP 407)",
                    hint="put user and password into HTTPS_PROXY, or add the host to NO_PROXY",
                ) from None
            detail = f"{type(error).__name__}: {quote}" if quote else type(error).__name__
            raise CallError(
                f"the connection to {host} failed ({detail})",
                retryable=True,
                retry_now=not isinstance(error, httpcore.LocalProtocolError | httpcore.UnsupportedProtocol),
                server_failed=True,
            ) from None

    async def _body(self, response: httpcore.Response, most: int) -> bytes:
        codings = [value.lower() for name, value in response.headers if name.lower() == b"content-encoding"]
        if any(coding != b"identity" for coding in codings):
            raise CallError(f"{self.endpoint.host} sends a compressed answer, which was not requested")
        body, size = bytearray(), 0
        async for piece in response.aiter_stream():
            body += piece
            size += max(len(piece), _LEAST_PIECE)
            if size > most:
                small = len(body) < most / 2  # so that it is the number of its pieces that took the room
                what = "comes in too many pieces" if small else f"is longer than {most >> 20} MiB"
                raise CallError(f"the answer of {self.endpoint.host} {what}")
        return bytes(body)

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            data = parse_json(body)
        except (ConstantError, DuplicateKeyError) as error:  # it arrived whole; the next would be no better
            raise CallError(f"the answer of {self.endpoint.host} {error}") from None
        except JsonError:
            # Cut short on its way, or written by a proxy: the connection's problem.
            reason = f"the answer of {self.endpoint.host} is not JSON"
            raise CallError(reason, retryable=True, retry_now=True, server_failed=True) from None
        if not isinstance(data, dict):
            raise CallError(f"the answer of {self.endpoint.host} is not a JSON object")
        return data


def _is_certificate_error(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _environment_error(error: Exception) -> ConfigurationError:
    """For proxies or certificates that httpx cannot use. Values may be secret, so none is shown."""
    variables = _CERTIFICATES if isinstance(error, OSError) else _PROXIES
    set_ones = [name for upper in variables for name in (upper, upper.lower()) if os.environ.get(name)]
    names = " or ".join(set_ones or variables)
    if isinstance(error, ImportError):  # of socksio
        return ConfigurationError(
            f"{names} names a SOCKS proxy, which httpx does not support as it is installed",
            hint="pip install 'httpx[socks]', or use an HTTP proxy",
        )
    return ConfigurationError(
        f"{names} cannot be used ({type(error).__name__})",
        hint="fix or unset the variable, or add the host to NO_PROXY"
        if variables is _PROXIES
        else "set it to a file of PEM certificates, or unset it",
    )


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or an HTTP date; None if it is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def _is_unique(answer_id: object) -> bool:
    return isinstance(answer_id, str) and len(answer_id) >= _MIN_ID


def json_bytes(payload: object) -> bytes:
    """``payload`` as the body of a call.

    Bytes in it, such as a frame's data URI, are ASCII without quotes and become a text as they stand.
    """
    held: list[bytes] = []

    def hold(value: object) -> str:
        if not isinstance(value, bytes):
            raise TypeError(f"a request cannot hold a {type(value).__name__}")
        held.append(value)
        return _HELD

    text = json.dumps(payload, ensure_ascii=False, allow_nan=False, default=hold).encode()
    first, *others = text.split(_HELD.encode())
    return b"".join([first, *(part for pair in zip(held, others, strict=True) for part in pair)])


def _error(body: bytes) -> object:
    """The error in a body, in the shapes of OpenAI, vLLM, FastAPI and Gemini (in a list); else the text."""
    try:
        data = parse_json(body)
    except JsonError:
        return body[:2000].decode(errors="replace")
    if isinstance(data, list) and len(data) == 1:
        data = data[0]
    return data.get("error", data) if isinstance(data, dict) else str(data)[:2000]


def _codes(error: dict[str, Any]) -> list[str]:
    return [value for value in (error.get("code"), error.get("type")) if isinstance(value, str)]


def _error_message(error: object) -> tuple[str, str]:
    """Message and parameter of an error."""
    if isinstance(error, dict):
        return str(error.get("message") or error.get("detail") or ""), str(error.get("param") or "")
    return str(error), ""
