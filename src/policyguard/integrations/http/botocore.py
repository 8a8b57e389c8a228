"""Clients of boto3 and botocore, guarded by their event hooks.

Covered: what every operation sends, before it is signed; its answer, streamed bodies (``InvokeModel``) and
event streams (``ConverseStream``, ``InvokeModelWithResponseStream``) included. What was judged is what is
sent and handed on. Not covered: what other handlers put into a request after ``before-call``, presigned
addresses, and aiobotocore, which is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast
from urllib.parse import urlencode, urlsplit

from policyguard.errors import ConfigurationError
from policyguard.integrations.extract import Replacement, find_images, replace_images
from policyguard.integrations.http.bodies import Body, watched_over
from policyguard.integrations.http.exchange import Blocked, Core, Exchange, begin, drive
from policyguard.integrations.http.flow import in_thread
from policyguard.integrations.http.message import RequestHead, ResponseHead, joined
from policyguard.integrations.http.settings import Options, Settings
from policyguard.integrations.http.watch import Watch
from policyguard.strict.jsontext import JsonError, read_json

if TYPE_CHECKING:
    from policyguard.guard import Guard
    from policyguard.integrations.http.result import Direction

__all__ = ["guard_botocore"]

C = TypeVar("C")
_KEY = "policyguard"


def guard_botocore(client: C, guard: Guard, **options: Unpack[Options]) -> C:
    """Make a client of boto3 or botocore (``boto3.client("bedrock-runtime")``) judge its images from now on;
    returns the same client.

    Takes the options of ``guarded_client``. A refusal is a ``ClientError`` whose code is that of the refusal
    and whose status is 403, or 503 while the guard is out of reach; ``on_block="raise"`` raises
    PolicyViolation.
    Raises ConfigurationError for anything else, and for a client that is guarded already.
    """
    try:
        from botocore.client import BaseClient
    except ImportError:
        raise ConfigurationError("botocore is not installed", hint="pip install boto3") from None
    if not isinstance(client, BaseClient) or type(client).__module__.startswith("aiobotocore"):
        raise ConfigurationError(
            f"a client of boto3 or botocore is expected, not a {type(client).__name__}",
            hint="of a boto3 resource, guard its .meta.client; aiobotocore cannot be guarded",
        )
    hooks = _Hooks(Core(Settings(guard=guard, **options)))
    if vars(client).setdefault("_policyguard", hooks) is not hooks:
        raise ConfigurationError("this client is guarded already")
    client.meta.events.register_last("before-call", hooks.before_call)
    client.meta.events.register_first("after-call", hooks.after_call)
    return client


class _Hooks:
    def __init__(self, core: Core) -> None:
        self.core = core

    def before_call(self, model: Any, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        """``params`` is the request, which is not signed yet."""
        address = urlsplit(params["url"])
        headers = joined((str(name), _text(value)) for name, value in params["headers"].items())
        head = RequestHead(params["method"], address.hostname or "", address.path, headers, address.query)
        exchange, settings, changed, judging = self.core.begin(head), self.core.settings, None, None
        try:
            data = self._body(params)
            step = exchange.request(data)
            if settings.when == "before":
                changed = drive(step, settings)
            elif (asked := begin(step, settings)) is not None:
                exchange.result.sent_unjudged = True
                judging = in_thread(drive, step, settings, asked)
        except Blocked as blocked:
            raise _refused(exchange, "request", blocked, model.name) from None
        context[_KEY] = exchange, judging
        if changed is not None:
            params["body"] = changed
            if (kind := exchange.media_types.get("request")) is not None:
                params["headers"]["Content-Type"] = kind
        elif hasattr(params["body"], "read"):
            params["body"] = data

    def _body(self, params: dict[str, Any]) -> bytes | None:
        """The body to be judged; None if it is longer than is held."""
        body, limit = params["body"], self.core.settings.held("request")
        if isinstance(body, Mapping):  # of the services that take forms
            body = urlencode(body, doseq=True)
        elif hasattr(body, "read"):
            body = body.read(limit + 1)
        data = body.encode() if isinstance(body, str) else bytes(body)
        return None if len(data) > limit else data

    def after_call(
        self, http_response: Any, parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: Any
    ) -> None:
        """``parsed`` is what the caller gets."""
        from botocore.eventstream import EventStream
        from botocore.response import StreamingBody

        if _KEY not in context:  # another handler has answered, and nothing was sent
            context[_KEY] = self.core.begin(RequestHead("", "", "", {})), None
        exchange: Exchange
        exchange, judging = context[_KEY]
        head = ResponseHead(http_response.status_code, joined(http_response.headers.items()))
        streams = {name: value for name, value in parsed.items() if isinstance(value, EventStream)}
        bodies = {name: value for name, value in parsed.items() if isinstance(value, StreamingBody)}
        others = parsed.keys() - streams.keys() - bodies.keys() - {"ResponseMetadata"}
        direction: Direction = "request"
        try:
            if judging is not None:
                judging.result()
            direction = "response"
            if head.status >= 300:
                content = b"" if http_response.raw is None else http_response.content
                drive(exchange.response(head, content), self.core.settings)
            else:
                for name, body in bodies.items():
                    whole = self._read(exchange, head, body)
                    parsed[name] = StreamingBody(io.BytesIO(whole), len(whole))
                answer = _Answer({name: parsed[name] for name in others})
                drive(exchange.event(b"", answer.body), self.core.settings)
                parsed.update(answer.changed)
        except Blocked as blocked:
            for body in (*streams.values(), *bodies.values()):
                body.close()
            raise _refused(exchange, direction, blocked, model.name) from None
        if (header := exchange.verdict_header()) is not None:
            parsed.setdefault("ResponseMetadata", {}).setdefault("HTTPHeaders", {})[header[0]] = header[1]
        for name, stream in streams.items():
            parsed[name] = _Events(exchange, stream, model.name)
        if not streams:
            exchange.finish()

    def _read(self, exchange: Exchange, head: ResponseHead, body: Any) -> bytes:
        limit = self.core.settings.held("response")
        data: bytes = body.read(limit + 1)
        changed = drive(exchange.response(head, None if len(data) > limit else data), self.core.settings)
        return data if changed is None else changed


class _Answer:
    """An answer, or an event, as botocore has read it. ``changed`` is what replaces its values."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.changed: dict[str, Any] = {}
        self._value = value
        read = _opened(value)
        self.body = Body(tuple(find_images(read, answer=True)), (read,), self._rebuild)

    def _rebuild(self, new: Mapping[str, Replacement]) -> bytes:
        self.changed = cast("dict[str, Any]", replace_images(self._value, new))
        return b""


class _Events:
    """An event stream whose events are judged, each before it is handed on."""

    def __init__(self, exchange: Exchange, stream: Any, operation: str) -> None:
        self._exchange, self._stream, self._operation = exchange, stream, operation
        self._watch = Watch(links=exchange.settings.links == "block")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            for event in self._stream:
                answer = _Answer(event)
                body = watched_over(self._watch, answer.body)
                drive(self._exchange.event(b"", body), self._exchange.settings)
                yield answer.changed or event
        except Blocked as blocked:
            self.close()
            raise _refused(self._exchange, "response", blocked, self._operation) from None
        finally:
            self._exchange.finish()

    def close(self) -> None:
        self._stream.close()
        self._exchange.finish()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _opened(value: Any) -> Any:
    """``value`` with the JSON that stands in bytes read, as in the chunks of ``InvokeModel``'s streams."""
    if isinstance(value, Mapping):
        return {name: _opened(child) for name, child in value.items()}
    if isinstance(value, bytes) and value[:1] in (b"{", b"["):
        try:
            return read_json(value.decode())
        except (JsonError, ValueError):
            return value
    return value


def _refused(exchange: Exchange, direction: Direction, blocked: Blocked, operation: str) -> Exception:
    from botocore.exceptions import ClientError

    exchange.stopped(direction, blocked)
    exchange.finish()
    if exchange.settings.mode(direction) == "raise":
        return blocked.error
    refusal = exchange.refusal(blocked)
    metadata = {"HTTPStatusCode": refusal.status, "HTTPHeaders": dict(refusal.headers), "RetryAttempts": 0}
    error = {"Code": blocked.code, "Message": blocked.message}
    refused: Exception = ClientError({"Error": error, "ResponseMetadata": metadata}, operation)
    return refused


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
