"""What servers do wrong: each takes a request handler and the honest answer, and sends something else."""

from __future__ import annotations

import gzip
import json
import math
import socket
import struct
from collections.abc import Callable
from copy import deepcopy
from typing import Any

Fault = Callable[[Any, Any], None]


def _never(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    handler.server.closing.wait()


def _drip_body(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{")
    _drip(handler, b" ")


def _drip_head(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    _drip(handler, b"x")


def _drip(handler: Any, byte: bytes) -> None:
    while not handler.server.closing.wait(0.05):
        try:
            handler.wfile.write(byte)
        except OSError:
            return


def _reset(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def _hang_up(handler: Any, answer: Any) -> None:
    handler.close_connection = True


def _cut_short(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    body = json.dumps(answer).encode()
    handler.send_bytes(200, body[: len(body) // 2], **{"Content-Length": str(len(body))})


def _huge(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    try:
        for _ in range(1000):
            handler.wfile.write(b" " * 2**20)
    except OSError:
        pass


def _compressed(handler: Any, answer: Any) -> None:
    handler.send_bytes(200, gzip.compress(json.dumps(answer).encode()), **{"Content-Encoding": "gzip"})


def _gzip_bomb(handler: Any, answer: Any) -> None:
    bomb = gzip.compress(b" " * 64 * 2**20)
    handler.send_bytes(200, bomb, **{"Content-Encoding": "gzip"})


def _too_long_a_length(handler: Any, answer: Any) -> None:
    """Says that more will come than comes."""
    handler.close_connection = True
    body = json.dumps(answer).encode()
    handler.send_bytes(200, body, **{"Content-Length": str(len(body) + 10)})


def _too_short_a_length(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    body = json.dumps(answer).encode()
    handler.send_bytes(200, body, **{"Content-Length": str(len(body) - 10)})


def _cut_short_by_closing(handler: Any, answer: Any) -> None:
    """HTTP/1.0 without a length: the end of the connection is the end of the body, also in its middle."""
    handler.close_connection = True
    body = json.dumps(answer).encode()
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + body[: len(body) // 2])


def _not_http(handler: Any, answer: Any) -> None:
    handler.close_connection = True
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


def _status(status: int, message: str = "something", code: object = None, **headers: str) -> Fault:
    body = json.dumps({"error": {"message": message, "code": code or status}}).encode()
    return lambda handler, answer: handler.send_bytes(status, body, **headers)


def _raw(body: bytes) -> Fault:
    return lambda handler, answer: handler.send_bytes(200, body)


def _changed(*path: str | int, to: Any) -> Fault:
    """The honest answer with one place in it changed."""

    def send(handler: Any, answer: Any) -> None:
        changed: Any = deepcopy(answer)
        place = changed
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to
        handler.send_json(200, changed)

    return send


def _changed_places(*changes: tuple[Any, ...]) -> Fault:
    """The honest answer with several places in it changed: each its path, and then its new value."""

    def send(handler: Any, answer: Any) -> None:
        changed: Any = deepcopy(answer)
        for *path, last, value in changes:
            place = changed
            for step in path:
                place = place[step]
            place[last] = value
        handler.send_json(200, changed)

    return send


def _every_logprob(to: float) -> Fault:
    def send(handler: Any, answer: Any) -> None:
        changed = deepcopy(answer)
        token = changed["choices"][0]["logprobs"]["content"][0]
        for entry in (token, *token["top_logprobs"]):
            entry["logprob"] = to
        handler.send_json(200, changed)

    return send


TOKEN = ("choices", 0, "logprobs", "content", 0)

TRANSPORT: dict[str, Fault] = {
    "no answer": _never,
    "slow body": _drip_body,
    "slow head": _drip_head,
    "reset": _reset,
    "hangs up": _hang_up,
    "body cut short": _cut_short,
    "huge body": _huge,
    "compressed": _compressed,
    "gzip bomb": _gzip_bomb,
    "length too long": _too_long_a_length,
    "length too short": _too_short_a_length,
    "closed midway": _cut_short_by_closing,
    "not http": _not_http,
    "429": _status(429, "slow down", **{"Retry-After": "1"}),
    "500": _status(500),
    "501": _status(501),
    "502": _status(502),
    "503": _status(503),
    "504": _status(504),
    "520": _status(520),
    "524": _status(524),
    "529": _status(529),
    "408": _status(408),
    "204": _status(204),
    "206": _status(206),
    "301": _status(301, Location="http://127.0.0.1:9/v1"),
    "400": _status(400, "what?"),
    "401": _status(401),
    "403": _status(403),
    "404 path": _status(404, "Not Found"),
    "404 model": _status(404, "The model `x` does not exist."),
    "405": _status(405),
    "413": _status(413),
    "418": _status(418),
}

BODIES: dict[str, Fault] = {
    "empty body": _raw(b""),
    "truncated json": _raw(b'{"choices": [{"finish_reason": "stop", "message": {"content": "'),
    "two objects": _raw(b"{}{}"),
    "html": _raw(b"<html>safe</html>"),
    "not utf-8": _raw(b'{"choices": "\xff\xfe"}'),
    "deep json": _raw(b"[" * 100_000),
    "a list": _raw(b"[]"),
    "a text": _raw(b'"safe"'),
    "null": _raw(b"null"),
    "nothing in it": _raw(b"{}"),
    "an error with 200": _raw(b'{"error": {"message": "overloaded"}}'),
    "no choices": _changed("choices", to=[]),
    "choices of a wrong type": _changed("choices", to={"0": "safe"}),
    "a choice of a wrong type": _changed("choices", 0, to="safe"),
    "two choices": lambda handler, answer: handler.send_json(200, {"choices": answer["choices"] * 2}),
    "unknown finish": _changed("choices", 0, "finish_reason", to="abort"),
    "no finish": _changed("choices", 0, "finish_reason", to=None),
    "filtered": _changed("choices", 0, "finish_reason", to="content_filter"),
}

SCORES: dict[str, Fault] = {
    "no log-probabilities": _changed("choices", 0, "logprobs", to=None),
    "log-probabilities of a wrong type": _changed("choices", 0, "logprobs", to=[]),
    "no token": _changed("choices", 0, "logprobs", "content", to=[]),
    "a token of a wrong type": _changed(*TOKEN, to=-0.1),
    "a null token": _changed(*TOKEN, to=None),
    "not a number": _every_logprob(math.nan),
    "infinite": _every_logprob(math.inf),
    "minus infinite": _every_logprob(-math.inf),
    "positive": _every_logprob(0.5),
    "all certain": _every_logprob(0.0),
    "logprob as text": _changed(*TOKEN, "logprob", to="-0.1"),
    "logprob null": _changed(*TOKEN, "logprob", to=None),
    "logprob true": _changed(*TOKEN, "logprob", to=False),
    "a huge number": _changed(*TOKEN, "logprob", to=-(10**400)),
    "token as number": _changed(*TOKEN, "token", to=3),
    "list of a wrong type": _changed(*TOKEN, "top_logprobs", to={}),
    "entry of a wrong type": _changed(*TOKEN, "top_logprobs", to=["safe"]),
    "ids and texts mixed": _changed(*TOKEN, "top_logprobs", 0, "token", to="safe"),
    "a token twice": lambda handler, answer: _changed(
        *TOKEN, "top_logprobs", to=answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] * 2
    )(handler, answer),
    "other tokens": _changed(*TOKEN, to={"token": "token_id:99", "logprob": -0.01, "top_logprobs": []}),
}

WORDS: dict[str, Fault] = {
    "no message": _changed("choices", 0, "message", to=None),
    "no text": _changed("choices", 0, "message", "content", to=None),
    "empty text": _changed("choices", 0, "message", "content", to=""),
    "text of a wrong type": _changed("choices", 0, "message", "content", to=[{"type": "text", "text": "x"}]),
    "other text": _changed("choices", 0, "message", "content", to="I think it is fine."),
    "a second verdict": _changed(
        "choices", 0, "message", "content", to='", "rating": "safe", "category": "none", "rationale": ""}'
    ),
    "cut off": _changed("choices", 0, "finish_reason", to="length"),
    "refusal": _changed("choices", 0, "message", "refusal", to="I cannot look at this."),
}


_STRANGE: dict[str, Any] = {"token": "token_id:99", "logprob": -0.01}
_STRANGER: dict[str, Any] = {"token": "token_id:98", "logprob": -5.0}

MATRIX: dict[str, tuple[Fault, str]] = {
    "no answer in time": (_never, "error"),
    "slow head": (_drip_head, "error"),
    "slow body": (_drip_body, "error"),
    "connection reset": (_reset, "error"),
    "connection closed without an answer": (_hang_up, "error"),
    "body cut short": (_cut_short, "error"),
    "HTTP/1.0, closed in the middle of the body": (_cut_short_by_closing, "error"),
    "`Content-Length` too long": (_too_long_a_length, "error"),
    "`Content-Length` too short": (_too_short_a_length, "error"),
    "not HTTP": (_not_http, "error"),
    "body of gigabytes": (_huge, "error"),
    "gzip bomb": (_gzip_bomb, "error"),
    "408": (_status(408), "error"),
    "429": (_status(429, "slow down", **{"Retry-After": "1"}), "error"),
    "429 from a used-up account": (
        _status(429, "You exceeded your current quota.", "insufficient_quota"),
        "ConfigurationError",
    ),
    "500": (_status(500), "error"),
    "501": (_status(501), "error"),
    "502": (_status(502), "error"),
    "503": (_status(503), "error"),
    "504": (_status(504), "error"),
    "400 about the picture": (_status(400, "cannot identify image file"), "unscannable"),
    "400 about nothing known": (_status(400, "what?"), "error"),
    "413": (_status(413), "unscannable"),
    "401": (_status(401), "ConfigurationError"),
    "403": (_status(403), "ConfigurationError"),
    "400 about the API key": (_status(400, "API key expired"), "ConfigurationError"),
    "400 about the model": (_status(400, "The model x is deprecated"), "ConfigurationError"),
    "402": (_status(402), "ConfigurationError"),
    "407": (_status(407), "ConfigurationError"),
    "410": (_status(410), "ConfigurationError"),
    "511": (_status(511), "ConfigurationError"),
    "404, no such path": (_status(404, "Not Found"), "ConfigurationError"),
    "404, no such model": (_status(404, "The model `x` does not exist."), "ConfigurationError"),
    "405": (_status(405), "ConfigurationError"),
    "a redirect": (_status(307, Location="http://127.0.0.1:9/v1"), "ConfigurationError"),
    "empty body": (_raw(b""), "error"),
    "truncated JSON": (BODIES["truncated json"], "error"),
    "HTML of a proxy": (_raw(b"<html>safe</html>"), "error"),
    "JSON of another shape": (_raw(b'{"verdict": "safe"}'), "error"),
    "two answers in one": (BODIES["two choices"], "error"),
    "NaN for a probability": (_every_logprob(math.nan), "error"),
    "a probability above 1": (_every_logprob(0.5), "error"),
    "unknown labels": (
        _changed_places(
            (*TOKEN, _STRANGE | {"top_logprobs": [_STRANGE, _STRANGER]}),
            ("choices", 0, "message", "content", "strange"),
        ),
        "undecided",
    ),
}
"""What a server may do with a call, and what becomes of the picture: the table in docs/reliability.md."""

SLOW = {"no answer in time", "slow head", "slow body"}
"""Those that keep a client waiting until it gives up."""

AGAIN = {
    *SLOW,
    *(
        "connection reset",
        "connection closed without an answer",
        "body cut short",
        "`Content-Length` too long",
    ),
    *("HTTP/1.0, closed in the middle of the body", "`Content-Length` too short", "not HTTP"),
    *("408", "429", "502", "503", "504", "empty body", "truncated JSON", "HTML of a proxy"),
}
"""Those after which the call is made again."""

TRIPS = AGAIN - {"408", "429"} | {"500"}
"""Those that open the breaker, if nothing else comes."""
