"""The same for aiohttp: a session whose images are judged.

async with GuardedSession(guard) as session:
    reply = await session.post("https://api.openai.com/v1/chat/completions", json=...)

Not covered: ``ws_connect``, which is refused.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Unpack, cast

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.codings import acceptable
from policyguard.integrations.http.exchange import Core, Exchange
from policyguard.integrations.http.flow import Flow, Source, Stream, source_of
from policyguard.integrations.http.message import RequestHead, ResponseHead, Synthetic, joined
from policyguard.integrations.http.settings import Options, Settings
from policyguard.strict.arguments import InOneProcess

try:
    import aiohttp
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.base_protocol import BaseProtocol
    from aiohttp.client_middlewares import build_client_middlewares as _needed  # noqa: F401 (since 3.12)
    from aiohttp.helpers import TimerNoop
    from multidict import CIMultiDict, CIMultiDictProxy
except ImportError:
    raise ConfigurationError(
        "aiohttp 3.12 or newer is needed for GuardedSession", hint="pip install 'aiohttp>=3.12'"
    ) from None

if TYPE_CHECKING:
    from policyguard.guard import Guard

__all__ = ["GuardedSession"]

_COMPUTED = ("content-length", "content-encoding", "transfer-encoding")
_HIGH = 2**16


@dataclass(slots=True)
class _Call:
    """What a session is about to send."""

    request: Any
    send: Callable[[Any], Awaitable[Any]]


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp advises against subclasses

    class GuardedSession(InOneProcess, aiohttp.ClientSession):  # type: ignore[misc]
        """A ``ClientSession`` whose images ``guard`` judges, both ways.

        Takes the options of ``guarded_client``; all others are settings of the session itself (``connector``,
        ``timeout``, ``headers``, ...). The HttpResult of a response is its attribute ``policyguard``. A
        refused request has a response as any other: ``raise_for_status`` raises for it.
        Raises ConfigurationError for settings that cannot work.
        """

        ATTRS = aiohttp.ClientSession.ATTRS | {"_flow"}

        def __init__(self, guard: Guard, **options: Any) -> None:
            own = {name: options.pop(name) for name in list(options) if name in Options.__annotations__}
            self._flow = _Flow(guard, self, **cast("Options", own))
            super().__init__(**options)

        async def _request(self, method: str, url: Any, **options: Any) -> Any:
            """What all of the session's methods call. The guard is the last before the network."""
            options["auto_decompress"] = False  # the flow does it
            others = options.get("middlewares")
            others = self._middlewares if others is None else others
            options["middlewares"] = (*others, self._flow.judged)
            return await super()._request(method, url, **options)

        async def _ws_connect(self, url: Any, **_options: Any) -> Any:
            raise ConfigurationError(
                "a websocket cannot be guarded",
                hint="open it on a session without a guard, and judge with guard.check what you send",
            )


class _Flow(Flow):
    waits = True

    def __init__(self, guard: Guard, session: Any, **options: Unpack[Options]) -> None:
        self.core = Core(Settings(guard=guard, **options))
        self._session = session

    async def judged(self, request: Any, send: Callable[[Any], Awaitable[Any]]) -> Any:
        """The middleware of the session."""
        return await self.handle(_Call(request, send))

    def request_head(self, request: _Call) -> RequestHead:
        sent = request.request
        headers = joined(sent.headers.items())
        if sent.compress:  # on its way out, after it was judged
            headers.pop("content-encoding", None)
        return RequestHead(
            sent.method, sent.url.host or "", sent.url.path, headers, sent.url.raw_query_string
        )

    async def read_request(self, request: _Call) -> bytes | None:
        body = request.request.body
        if isinstance(body, bytes):
            return body
        whole = _Whole(self.held("request"))
        try:
            await body.write(whole)
        except _TooLongError:
            return None
        return bytes(whole.data)

    async def forward(self, request: _Call, data: bytes, changed: bytes | None) -> Any:
        sent = request.request
        if "accept-encoding" in sent.headers:
            sent.headers["accept-encoding"] = acceptable(sent.headers["accept-encoding"])
        if sent.body:
            await sent.update_body(data if changed is None else changed)
        return await request.send(sent)

    def declare(self, request: _Call, media_type: str) -> None:
        request.request.headers["Content-Type"] = media_type

    def response_head(self, response: Any) -> ResponseHead:
        return ResponseHead(response.status, joined(response.headers.items()))

    def response_source(self, response: Any) -> Source:
        return source_of(response.content.iter_any())

    async def close_response(self, response: Any) -> None:
        if response.connection is not None:  # response.close() would end the body that the caller reads
            response.connection.close()

    def build(self, exchange: Exchange, request: _Call, response: Any, body: Stream | bytes | None) -> Any:
        headers = [
            (name, value)
            for name, value in response.headers.items()
            if body is None or name.lower() not in _COMPUTED
        ]
        if (kind := exchange.media_types.get("response")) is not None:
            headers = [pair for pair in headers if pair[0].lower() != "content-type"]
            headers.append(("Content-Type", kind))
        if (header := exchange.verdict_header()) is not None:
            headers.append(header)
        if isinstance(body, Stream):
            response.content = _Reader(body)
            for name in ("close", "release"):  # where the caller leaves early
                vars(response)[name] = _after(exchange.finish, getattr(response, name))
        elif body is not None:
            headers.append(("Content-Length", str(len(body))))
            _fill(response, body)
        return self._headed(response, headers, exchange)

    def build_refusal(self, exchange: Exchange, request: _Call, refusal: Synthetic) -> Any:
        sent = request.request
        known = {
            "writer": None,
            "continue100": None,
            "timer": TimerNoop(),
            "request_info": sent.request_info,
            "traces": [],
            "loop": asyncio.get_running_loop(),
            "session": self._session,
            "stream_writer": SimpleNamespace(output_size=0),
        }
        taken = inspect.signature(aiohttp.ClientResponse).parameters
        response = aiohttp.ClientResponse(
            sent.method, sent.url, **{name: value for name, value in known.items() if name in taken}
        )
        response.status = refusal.status
        response.reason = HTTPStatus(refusal.status).phrase
        response.version = aiohttp.HttpVersion11
        _fill(response, refusal.body)
        headers = [*refusal.headers, ("Content-Length", str(len(refusal.body)))]
        return self._headed(response, headers, exchange)

    def _headed(self, response: Any, headers: list[tuple[str, str]], exchange: Exchange) -> Any:
        fields = vars(response)
        fields["_headers"] = CIMultiDictProxy(CIMultiDict(headers))
        fields["_raw_headers"] = tuple((name.encode(), value.encode()) for name, value in headers)
        fields["_cache"] = {}  # of what was read of the old headers
        response.policyguard = exchange.result
        return response


def _after(first: Callable[[], None], then: Callable[[], Any]) -> Callable[[], Any]:
    def both() -> Any:
        first()
        return then()

    return both


def _fill(response: Any, body: bytes) -> None:
    vars(response)["_body"] = body
    response.content = _reader()
    response.content.feed_data(body)
    response.content.feed_eof()


def _reader() -> Any:
    loop = asyncio.get_running_loop()
    return aiohttp.StreamReader(BaseProtocol(loop), _HIGH, loop=loop)


class _Reader(aiohttp.StreamReader):  # type: ignore[misc]
    """A stream as aiohttp reads it; fetches what comes next when it is asked for."""

    def __init__(self, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(BaseProtocol(loop), _HIGH, loop=loop)
        self._stream = stream

    async def _wait(self, func_name: str) -> None:
        piece = await self._stream.read()
        if piece is None:
            self.feed_eof()
        else:
            self.feed_data(piece)


class _TooLongError(Exception):
    """The body is longer than is held."""


class _Whole(AbstractStreamWriter):  # type: ignore[misc]
    """Takes what would be sent."""

    def __init__(self, limit: int) -> None:
        self.data, self._limit = bytearray(), limit

    async def write(self, chunk: Any) -> None:
        self.data += chunk
        if len(self.data) > self._limit:
            raise _TooLongError

    async def write_eof(self, chunk: bytes = b"") -> None:
        await self.write(chunk)

    async def drain(self) -> None:
        pass

    def enable_compression(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    def enable_chunking(self) -> None:
        pass

    async def write_headers(self, *_args: Any, **_kwargs: Any) -> None:
        pass
