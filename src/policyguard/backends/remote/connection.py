"""One HTTP call to one server: bounded in time and size, and read strictly."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from policyguard.backends.remote.faults import CallError, Reply
from policyguard.backends.remote.retry import retry_after
from policyguard.errors import ConfigurationError, MissingExtraError
from policyguard.strict.jsontext import ConstantError, DuplicateKeyError, JsonError, parse_json

if TYPE_CHECKING:
    import httpx

    from policyguard.backends.remote.endpoint import Endpoint

__all__ = [
    "MAX_BODY",
    "Connection",
    "Method",
]


Method = Literal["GET", "POST"]

MAX_BODY = 8 * 2**20
"""Bytes of an answer that are read at most. A real one has a few thousand."""
_CONNECT_SECONDS = 10.0
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_BUSY = (408, 425, 429)
_GATEWAY = (502, 503, 504)


class Connection:
    """The HTTP connections to one server; belongs to one event loop.

    Args:
        endpoint: the server.
        timeout: seconds for one call from first to last byte, a hard bound.
        connections: how many calls run at the same time at most.
    """

    def __init__(self, endpoint: Endpoint, *, timeout: float, connections: int) -> None:
        try:
            import httpx
        except ImportError:
            raise MissingExtraError("httpx", "remote") from None
        self.endpoint = endpoint
        self._timeout = timeout
        # No compression: a bound on bytes received is then a bound on bytes held.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "policyguard"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        try:
            httpx.URL(endpoint.base).host  # noqa: B018 (decodes it, as every call will)
        except (httpx.InvalidURL, ValueError):
            raise ConfigurationError("the host of base_url is not a name that can be looked up") from None
        try:
            self._http = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
                follow_redirects=False,
                # A proxy from the environment may lead to a server; no machine reaches itself through one.
                trust_env=not endpoint.loopback,
                # Reading all certificates takes 40 ms, and plain HTTP within a machine meets none.
                verify=endpoint.base.startswith("https:") or not endpoint.loopback,
            )
        except Exception as error:
            raise _unusable_environment(error) from None

    async def close(self) -> None:
        await self._http.aclose()

    async def call(self, method: Method, path: str, content: bytes | None, *, within: float) -> Reply:
        """Send ``content``, which is JSON, and wait for ``within`` seconds at most.

        Raises CallError unless there is a whole answer below 500 (or 511) to look at, and ConfigurationError
        for a certificate that is not to be trusted and a proxy that lets nobody through.
        """
        headers = {"Content-Type": "application/json"} if content is not None else {}
        url = self.endpoint.url(path)
        async with (
            self._edge(min(within, self._timeout)),
            self._http.stream(method, url, content=content, headers=headers) as response,
        ):
            body = await self._body(response)
        status = response.status_code
        if status == 200:
            return Reply(status, self._object(body), self.endpoint)
        message, parameter = map(self.endpoint.cut, _complaint(body))
        if status in _BUSY or (status >= 500 and status != 511):
            said = self.endpoint.quote(message)
            raise CallError(
                f"{self.endpoint.host} cannot answer now (HTTP {status})" + (f": {said}" if said else ""),
                retryable=status != 501,
                again=status in _BUSY or status in _GATEWAY,
                server_failed=status not in _BUSY and status != 501,
                retry_after=retry_after(response.headers.get("Retry-After")),
            )
        return Reply(status, {}, self.endpoint, message, parameter)

    @asynccontextmanager
    async def _edge(self, within: float) -> AsyncIterator[None]:
        """Turns everything that httpx raises, and the end of ``within`` seconds, into our own exceptions."""
        import httpx

        host, began = self.endpoint.host, time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, within)):
                yield
        except (TimeoutError, httpx.TimeoutException) as error:
            # Who gives a server next to no time learns nothing about it.
            long_enough = time.monotonic() - began >= self._timeout / 2
            late = f"did not answer within {within:.3g} s" if within > 0.0 else "was not asked, as time is up"
            raise CallError(
                f"{host} {late}",
                retryable=True,
                again=True,
                timed_out=True,
                server_failed=long_enough or isinstance(error, httpx.ConnectTimeout),
            ) from None
        except (httpx.HTTPError, httpx.StreamError, httpx.InvalidURL, httpx.CookieConflict, OSError) as error:
            words = self.endpoint.quote(error)
            if _is_about_the_certificate(error):
                raise ConfigurationError(
                    f"the certificate of {host} is not to be trusted ({words})",
                    hint="mend it, or name its authority's certificate in SSL_CERT_FILE",
                ) from None
            if isinstance(error, httpx.ProxyError) and str(error).startswith("407"):
                raise ConfigurationError(
                    f"the proxy before {host} wants to know who asks (HTTP 407)",
                    hint="put user and password into HTTPS_PROXY, or name the host in NO_PROXY",
                ) from None
            said = f"{type(error).__name__}: {words}" if words else type(error).__name__
            raise CallError(
                f"the connection to {host} failed ({said})",
                retryable=isinstance(error, httpx.TransportError | OSError),
                again=isinstance(
                    error, httpx.NetworkError | httpx.RemoteProtocolError | httpx.ProxyError | OSError
                ),
                server_failed=True,
            ) from None

    async def _body(self, response: httpx.Response) -> bytes:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise CallError(f"{self.endpoint.host} sends a compressed answer, which was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BODY:
                raise CallError(f"the answer of {self.endpoint.host} is longer than {MAX_BODY // 2**20} MiB")
        return bytes(body)

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            data = parse_json(body)
        except (ConstantError, DuplicateKeyError) as error:  # it arrived whole; the next would be no better
            raise CallError(f"the answer of {self.endpoint.host} {error}") from None
        except JsonError:
            # Cut short on its way, or the words of a proxy: trouble of the connection.
            reason = f"the answer of {self.endpoint.host} is not JSON"
            raise CallError(reason, retryable=True, again=True, server_failed=True) from None
        if not isinstance(data, dict):
            raise CallError(f"the answer of {self.endpoint.host} is not a JSON object")
        return data


def _is_about_the_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _unusable_environment(error: Exception) -> ConfigurationError:
    """What httpx makes of the environment's proxies and certificates. No value is shown: it may be secret."""
    about = _CERTIFICATES if isinstance(error, OSError) else _PROXIES
    named = [name for upper in about for name in (upper, upper.lower()) if os.environ.get(name)]
    blamed = " or ".join(named or about)
    if isinstance(error, ImportError):  # of socksio
        return ConfigurationError(
            f"{blamed} names a SOCKS proxy, which httpx cannot speak to as it is installed",
            hint="pip install 'httpx[socks]', or name a proxy that speaks HTTP",
        )
    return ConfigurationError(
        f"{blamed} cannot be used ({type(error).__name__})",
        hint="mend the variable, unset it, or name the host in NO_PROXY"
        if about is _PROXIES
        else "name a file of PEM certificates, or unset it",
    )


def _complaint(body: bytes) -> tuple[str, str]:
    """Message and parameter of an error body, in the shapes of OpenAI, vLLM and FastAPI; else its text."""
    try:
        data = parse_json(body)
    except JsonError:
        return body[:2000].decode(errors="replace"), ""
    if isinstance(data, dict):
        error = data.get("error", data)
        if isinstance(error, dict):
            message = error.get("message") or error.get("detail") or ""
            return str(message), str(error.get("param") or "")
        return str(error), ""
    return str(data)[:2000], ""
