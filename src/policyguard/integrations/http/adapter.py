"""The same for requests: an adapter to mount on a session.

session = requests.Session()
session.mount("https://", GuardedAdapter(guard))
session.mount("http://", GuardedAdapter(guard))
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import urlsplit

from policyguard.errors import ConfigurationError
from policyguard.integrations.http.codings import CodingError, Decoder, decoder
from policyguard.integrations.http.exchange import Blocked, Core, Exchange, Step, T, drive
from policyguard.integrations.http.message import RequestHead, ResponseHead, joined
from policyguard.integrations.http.settings import settings
from policyguard.integrations.http.streams import Events, Framing, StreamProblem

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
    from policyguard.integrations.http.result import Direction
    from policyguard.integrations.http.settings import Options

__all__ = ["GuardedAdapter"]

_CHUNK = 64 * 1024
_COMPUTED = ("content-length", "content-encoding", "transfer-encoding")


class GuardedAdapter(BaseAdapter):
    """Judges what a ``requests.Session`` sends and gets.

    Args:
        guard: judges.
        adapter: the adapter to send with, which keeps its settings; default: ``HTTPAdapter()``.
        options: the settings of ``guarded_client``.

    The HttpResult of a response is its attribute ``policyguard``. Raises ConfigurationError.
    """

    def __init__(
        self, guard: Guard, *, adapter: BaseAdapter | None = None, **options: Unpack[Options]
    ) -> None:
        super().__init__()
        self._core = Core(settings(guard, **options))
        self.wrapped = HTTPAdapter() if adapter is None else adapter

    def close(self) -> None:
        self.wrapped.close()

    def send(self, request: Any, stream: bool = False, *args: Any, **kwargs: Any) -> Any:
        exchange = self._begin(request)
        try:
            data = self._read(request)
            changed = self._drive(exchange.request(data))
        except Blocked as blocked:
            return self._refused(exchange, request, "request", blocked)
        if changed is not None:
            request = request.copy()
            request.body = changed
            for name in _COMPUTED:
                request.headers.pop(name, None)
            request.headers["Content-Length"] = str(len(changed))
        elif data is not None and not isinstance(request.body, bytes | str | None):
            request.body = data  # its stream is used up
            vars(request)["_body_position"] = None  # and not to be wound back
        response = self.wrapped.send(request, True, *args, **kwargs)
        try:
            return self._respond(exchange, request, response, stream=stream)
        except Blocked as blocked:
            response.close()
            return self._refused(exchange, request, "response", blocked)
        except BaseException:
            response.close()
            raise

    def _drive(self, step: Step[T]) -> T:
        return drive(step, self._core.settings)

    def _begin(self, request: Any) -> Exchange:
        parts = urlsplit(request.url)
        headers = joined((str(_text(name)), str(_text(value))) for name, value in request.headers.items())
        return self._core.begin(
            RequestHead(request.method, parts.hostname or "", parts.path, headers, parts.query)
        )

    def _read(self, request: Any) -> bytes | None:
        body = request.body
        if body is None:
            return b""
        if isinstance(body, str):
            body = body.encode()
        if isinstance(body, bytes | bytearray):
            return None if len(body) > self._core.settings.max_body else bytes(body)
        return self._collect(_encoded(_read(body) if hasattr(body, "read") else iter(body)))

    def _collect(self, pieces: Iterable[bytes]) -> bytes | None:
        whole = io.BytesIO()
        for piece in pieces:
            whole.write(piece)
            if whole.tell() > self._core.settings.max_body:
                return None
        return whole.getvalue()

    def _respond(self, exchange: Exchange, request: Any, response: Any, *, stream: bool) -> Any:
        head = ResponseHead(response.status_code, joined(response.headers.items()))
        if head.status == 101:
            self._drive(exchange.switched())
        if exchange.without_body(head):
            exchange.finish()
            return self._marked(exchange, response)
        try:
            codings = decoder(head.headers.get("content-encoding"))
            raw = response.raw.stream(_CHUNK, decode_content=False)
            framing = exchange.framing(head)
            if framing is not None:
                return self._made(
                    exchange, request, response, self._pieces(exchange, response, framing, codings)
                )
            data = self._collect(out for piece in raw for out in codings.feed(piece))
            if data is not None:
                codings.finish()
        except CodingError as error:
            self._drive(exchange.unreadable("response", str(error)))
            raise  # not reached: unreadable blocks
        changed = self._drive(exchange.response(head, data))
        response.close()
        content = (data or b"") if changed is None else changed
        made = self._made(exchange, request, response, iter((content,)), length=len(content))
        exchange.finish()
        if not stream:
            made.content  # noqa: B018 (reads it, as the adapter that sends would)
        return made

    def _pieces(
        self, exchange: Exchange, response: Any, framing: Framing, codings: Decoder
    ) -> Iterator[bytes]:
        events, first = Events(framing, codings, limit=self._core.settings.max_event), True
        try:
            try:
                for chunk in response.raw.stream(_CHUNK, decode_content=False):
                    for raw, body in events.feed(chunk):
                        yield self._drive(exchange.event(raw, body))
                        first = False
                for raw, body in events.finish():
                    yield self._drive(exchange.event(raw, body))
            except StreamProblem as problem:
                self._drive(exchange.unreadable("response", str(problem)))
        except Blocked as blocked:
            exchange.stopped("response", blocked)
            if exchange.settings.mode("response") == "raise":
                raise blocked.error from None
            yield exchange.error_event(blocked, framing, first=first)
        finally:
            response.close()
            exchange.finish()

    def _made(
        self,
        exchange: Exchange,
        request: Any,
        original: Any,
        pieces: Iterator[bytes],
        *,
        length: int | None = None,
    ) -> Any:
        headers = {name: value for name, value in original.headers.items() if name.lower() not in _COMPUTED}
        if length is not None:
            headers["Content-Length"] = str(length)
        made = _response(original.status_code, headers, pieces, request, reason=original.reason)
        made.connection = self
        made.cookies = original.cookies
        # Where the session reads cookies from.
        vars(made.raw)["_original_response"] = getattr(original.raw, "_original_response", None)
        return self._marked(exchange, made)

    def _marked(self, exchange: Exchange, response: Any) -> Any:
        if (header := exchange.verdict_header()) is not None:
            response.headers[header[0]] = header[1]
        response.policyguard = exchange.result
        return response

    def _refused(self, exchange: Exchange, request: Any, direction: Direction, blocked: Blocked) -> Any:
        exchange.stopped(direction, blocked)
        exchange.finish()
        if exchange.settings.mode(direction) == "raise":
            raise blocked.error from None
        refusal = exchange.refusal(blocked)
        headers = {**dict(refusal.headers), "Content-Length": str(len(refusal.body))}
        made = _response(refusal.status, headers, iter((refusal.body,)), request, reason="Forbidden")
        made.connection = self
        made.policyguard = exchange.result
        return made


def _response(
    status: int, headers: dict[str, str], pieces: Iterator[bytes], request: Any, *, reason: str
) -> Any:
    response: Any = requests.Response()
    response.status_code = status
    response.headers = CaseInsensitiveDict(headers)
    response.encoding = get_encoding_from_headers(response.headers)
    response.raw = HTTPResponse(
        io.BufferedReader(_Pieces(pieces)),
        headers=headers,
        status=status,
        reason=reason,
        preload_content=False,
    )
    response.reason = reason
    response.url = request.url
    response.request = request
    return response


class _Pieces(io.RawIOBase):
    """An iterator of bytes, to be read from; gives each piece as it comes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            try:
                self._left = memoryview(next(self._pieces))
            except StopIteration:
                return 0
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        super().close()


def _read(file: Any) -> Iterator[Any]:
    while piece := file.read(_CHUNK):  # of bytes, or of text
        yield piece


def _encoded(pieces: Iterable[Any]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece.encode() if isinstance(piece, str) else piece


def _text(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value
