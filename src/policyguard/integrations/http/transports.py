"""Transports that judge: between an httpx or httpx2 client and the transport that it sends with.

Timeouts, connections, HTTP/2 and proxies stay the wrapped transport's business; redirects and retries stay
the client's and the SDK's, and each of their requests is judged again (from memory, where it was judged).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, Unpack

from policyguard.integrations.http.codings import acceptable
from policyguard.integrations.http.exchange import Core, Exchange
from policyguard.integrations.http.family import family_of
from policyguard.integrations.http.flow import Flow, Source, Stream, complete, source_of
from policyguard.integrations.http.message import RequestHead, ResponseHead, Synthetic, joined
from policyguard.integrations.http.settings import Options, Settings
from policyguard.integrations.http.waysout import close_ways_out

if TYPE_CHECKING:
    from policyguard.guard import Guard

__all__ = ["AsyncGuardedTransport", "GuardedTransport"]

_COMPUTED = (b"content-length", b"content-encoding", b"transfer-encoding")


class _HttpxFlow(Flow):
    """What the two transports share: heads read, requests and responses built."""

    _kind: str

    def __init__(self, guard: Guard | Core, transport: Any, **options: Unpack[Options]) -> None:
        # A Core comes from guard_client: the transports of one client share it.
        self.core = guard if isinstance(guard, Core) else Core(Settings(guard=guard, **options))
        self._inner, self._family = transport, family_of(transport, self._kind)
        close_ways_out()

    @property
    def wrapped(self) -> Any:
        """The transport that sends."""
        return self._inner

    def request_head(self, request: Any) -> RequestHead:
        path, _, query = request.url.raw_path.decode("ascii", "replace").partition("?")
        headers = joined(request.headers.multi_items())
        return RequestHead(request.method, request.url.host, path, headers, query)

    async def read_request(self, request: Any) -> bytes | None:
        if hasattr(request, "_content"):
            return None if len(request.content) > self.held("request") else request.content
        if self.too_long("request", request.headers.get("content-length")):
            return None
        return await self.collect("request", source_of(request.stream))

    def _to_send(self, request: Any, data: bytes, changed: bytes | None) -> Any:
        module = self._family.module
        if "accept-encoding" in request.headers:
            request.headers["accept-encoding"] = acceptable(request.headers["accept-encoding"])
        if changed is None:
            request.stream = module.ByteStream(data)  # what was judged, and nothing else
            return request
        return module.Request(
            request.method,
            request.url,
            headers=_without(request.headers.raw, _COMPUTED),
            content=changed,
            extensions=request.extensions,
        )

    def declare(self, request: Any, media_type: str) -> None:
        request.headers["content-type"] = media_type

    def response_head(self, response: Any) -> ResponseHead:
        return ResponseHead(response.status_code, joined(response.headers.multi_items()))

    def response_source(self, response: Any) -> Source:
        return source_of(response.stream)

    def build(self, exchange: Exchange, request: Any, response: Any, body: Stream | bytes | None) -> Any:
        headers = _without(response.headers.raw, () if body is None else _COMPUTED)
        if (kind := exchange.media_types.get("response")) is not None:
            headers = [*_without(headers, (b"content-type",)), (b"content-type", kind.encode())]
        if (header := exchange.verdict_header()) is not None:
            headers.append((header[0].encode(), header[1].encode()))
        if body is None:
            stream = response.stream
        elif isinstance(body, Stream):
            stream = (self._family.async_stream if self.waits else self._family.sync_stream)(body)
        else:
            stream = self._family.module.ByteStream(body)
            headers.append((b"content-length", str(len(body)).encode()))
        extensions = {**response.extensions, "policyguard": exchange.result}
        return self._family.module.Response(
            response.status_code, headers=headers, stream=stream, extensions=extensions
        )

    def build_refusal(self, exchange: Exchange, request: Any, refusal: Synthetic) -> Any:
        extensions = {"policyguard": exchange.result}
        return self._family.module.Response(
            refusal.status, headers=list(refusal.headers), content=refusal.body, extensions=extensions
        )


class GuardedTransport(_HttpxFlow):
    """A transport for ``Client``. Takes the transport to send with, and the options of ``guarded_client``.

    Raises ConfigurationError for settings that cannot work, and for a transport of neither package.
    """

    _kind = "BaseTransport"

    def handle_request(self, request: Any) -> Any:
        return complete(self.handle(request))

    async def forward(self, request: Any, data: bytes, changed: bytes | None) -> Any:
        return self._inner.handle_request(self._to_send(request, data, changed))

    async def close_response(self, response: Any) -> None:
        response.close()

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._inner.__exit__(*exc)


class AsyncGuardedTransport(_HttpxFlow):
    """``GuardedTransport`` for ``AsyncClient``."""

    _kind = "AsyncBaseTransport"
    waits = True

    async def handle_async_request(self, request: Any) -> Any:
        return await self.handle(request)

    async def forward(self, request: Any, data: bytes, changed: bytes | None) -> Any:
        return await self._inner.handle_async_request(self._to_send(request, data, changed))

    async def close_response(self, response: Any) -> None:
        await response.aclose()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._inner.__aexit__(*exc)


def _without(headers: Any, dropped: tuple[bytes, ...]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in dropped]
