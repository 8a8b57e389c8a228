"""The same for requests: an adapter to mount on a session.

session = requests.Session()
session.mount("https://", GuardedAdapter(guard))
session.mount("http://", GuardedAdapter(guard))
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlsplit

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.codings import acceptable
from policyguard.integrations.http.exchange import Core, Exchange
from policyguard.integrations.http.flow import Flow, Source, Stream, complete, source_of
from policyguard.integrations.http.message import RequestHead, ResponseHead, Synthetic, joined
from policyguard.integrations.http.settings import Options, Settings

try:
    import requests
    from requests.adapters import BaseAdapter, HTTPAdapter
    from requests.structures import CaseInsensitiveDict
    from requests.utils import get_encoding_from_headers
    from urllib3 import HTTPResponse
except ImportError:
    raise ConfigurationError(
        "requests is needed for GuardedAdapter and is not installed", hint="pip install requests"
    ) from None

if TYPE_CHECKING:
    from policyguard.guard import Guard

__all__ = ["GuardedAdapter"]

_CHUNK = 64 * 1024
_COMPUTED = ("content-length", "content-encoding", "transfer-encoding")


@dataclass(slots=True)
class _Call:
    """What a session asks the adapter for."""

    request: Any
    stream: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class GuardedAdapter(Flow, BaseAdapter):
    """Judges what a ``requests.Session`` sends and gets.

    Args:
        guard: judges.
        adapter: the adapter to send with, which keeps its settings; default: ``HTTPAdapter()``.
        options: the options of ``guarded_client``.

    The HttpResult of a response is its attribute ``policyguard``. Raises ConfigurationError.
    """

    def __init__(
        self, guard: Guard, *, adapter: BaseAdapter | None = None, **options: Unpack[Options]
    ) -> None:
        super().__init__()
        self.core = Core(Settings(guard=guard, **options))
        self.wrapped = HTTPAdapter() if adapter is None else adapter

    def close(self) -> None:
        self.wrapped.close()

    def send(self, request: Any, stream: bool = False, *args: Any, **kwargs: Any) -> Any:
        return complete(self.handle(_Call(request, stream, args, kwargs)))

    def request_head(self, request: _Call) -> RequestHead:
        prepared = request.request
        parts = urlsplit(prepared.url)
        headers = joined((str(_text(name)), str(_text(value))) for name, value in prepared.headers.items())
        return RequestHead(prepared.method, parts.hostname or "", parts.path, headers, parts.query)

    async def read_request(self, request: _Call) -> bytes | None:
        body = request.request.body
        if body is None:
            return b""
        if isinstance(body, str):
            body = body.encode()
        if isinstance(body, bytes | bytearray):
            return None if len(body) > self.held("request") else bytes(body)
        pieces = _encoded(_read(body) if hasattr(body, "read") else iter(body))
        return await self.collect("request", source_of(pieces))

    async def forward(self, request: _Call, data: bytes, changed: bytes | None) -> Any:
        prepared = request.request
        if "accept-encoding" in prepared.headers:
            prepared.headers["accept-encoding"] = acceptable(str(_text(prepared.headers["accept-encoding"])))
        if changed is not None:
            request.request = prepared = prepared.copy()
            prepared.body = changed
            for name in _COMPUTED:
                prepared.headers.pop(name, None)
            prepared.headers["Content-Length"] = str(len(changed))
        elif not isinstance(prepared.body, bytes | str | None):
            prepared.body = data  # its stream is used up
            vars(prepared)["_body_position"] = None  # and not to be wound back
        return self.wrapped.send(prepared, True, *request.args, **request.kwargs)

    def declare(self, request: _Call, media_type: str) -> None:
        request.request = request.request.copy()
        request.request.headers["Content-Type"] = media_type

    def response_head(self, response: Any) -> ResponseHead:
        return ResponseHead(response.status_code, joined(response.headers.items()))

    def response_source(self, response: Any) -> Source:
        return source_of(response.raw.stream(_CHUNK, decode_content=False))

    async def close_response(self, response: Any) -> None:
        response.close()

    def build(self, exchange: Exchange, request: _Call, response: Any, body: Stream | bytes | None) -> Any:
        built = response
        if body is not None:
            headers = {
                name: value for name, value in response.headers.items() if name.lower() not in _COMPUTED
            }
            if not isinstance(body, Stream):
                headers["Content-Length"] = str(len(body))
            if (kind := exchange.media_types.get("response")) is not None:
                headers = {name: text for name, text in headers.items() if name.lower() != "content-type"}
                headers["Content-Type"] = kind
            built = self._response(request, response.status_code, headers, body, reason=response.reason)
            built.cookies = response.cookies
            # Where the session reads cookies from.
            vars(built.raw)["_original_response"] = getattr(response.raw, "_original_response", None)
        if (header := exchange.verdict_header()) is not None:
            built.headers[header[0]] = header[1]
        built.policyguard = exchange.result
        if not (request.stream or body is None or isinstance(body, Stream)):
            built.content  # noqa: B018 (reads it, as the adapter that sends would)
        return built

    def build_refusal(self, exchange: Exchange, request: _Call, refusal: Synthetic) -> Any:
        headers = {**dict(refusal.headers), "Content-Length": str(len(refusal.body))}
        built = self._response(
            request, refusal.status, headers, refusal.body, reason=HTTPStatus(refusal.status).phrase
        )
        built.policyguard = exchange.result
        return built

    def _response(
        self, request: _Call, status: int, headers: dict[str, str], body: Stream | bytes, *, reason: str
    ) -> Any:
        raw: Any = io.BufferedReader(_StreamFile(body)) if isinstance(body, Stream) else io.BytesIO(body)
        response: Any = requests.Response()
        response.status_code = status
        response.headers = CaseInsensitiveDict(headers)
        response.encoding = get_encoding_from_headers(response.headers)
        response.raw = HTTPResponse(raw, headers=headers, status=status, reason=reason, preload_content=False)
        response.reason = reason
        response.url = request.request.url
        response.request = request.request
        response.connection = self
        return response


class _StreamFile(io.RawIOBase):
    """A stream as a file; gives each piece as it comes."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self._left = stream, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = complete(self._stream.read())
            if piece is None:
                return 0
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def close(self) -> None:
        complete(self._stream.close())
        super().close()


def _read(file: Any) -> Iterator[Any]:
    while piece := file.read(_CHUNK):  # of bytes, or of text
        yield piece


def _encoded(pieces: Iterable[Any]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece.encode() if isinstance(piece, str) else piece


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value
