"""A loopback server that speaks the part of the chat completions API which guards use.

It is honest by default: a small language model whose next token follows from the picture (by the SHA-256
of its pixels) and from what the assistant has said, with probabilities over a whole vocabulary that add up
to one. Features can be taken away from it, and it misbehaves on command (``faults``).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import math
import re
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import ascii_uppercase
from typing import Any, Self

from PIL import Image

RATINGS = ("safe", "unsafe", "undecided")
FIELDS = {
    "token-ids": "logprob_token_ids",
    "ids-as-tokens": "return_tokens_as_token_ids",
    "logprobs": "logprobs",
    "structured": "structured_outputs",
    "response-format": "response_format",
    "continuing": "continue_final_message",
    "template": "chat_template_kwargs",
}
FILLERS = tuple(f"filler{number}" for number in range(40))
_LABELS = (*RATINGS, *ascii_uppercase)
VOCABULARY = (
    *_LABELS,
    *(f" {label}" for label in _LABELS),
    *FILLERS,
    ' "',
    '{"',
    '":',
    "rating",
    "category",
    ",",
    " ",
)
"""Longer tokens win; any other character is a token of its own, 1000 and more."""


_LONGEST_FIRST = sorted(VOCABULARY, key=len, reverse=True)
_TOKEN = re.compile("|".join(map(re.escape, _LONGEST_FIRST)) + "|.", re.DOTALL)
_IDS = {word: token for token, word in enumerate(VOCABULARY)}


def tokenize(text: str) -> list[int]:
    return [_IDS[word] if word in _IDS else 1000 + ord(word) for word in _TOKEN.findall(text)]


@dataclass
class Scene:
    """What the model thinks of one picture. ``mass`` is the probability of all its labels together."""

    unsafe: float = 0.02
    undecided: float = 0.0
    rules: dict[str, float] = field(default_factory=lambda: {"A": 0.75, "B": 0.25})
    mass: float = 0.98
    rationale: str = "There is a dagger on the table."

    def next_tokens(self, said: str) -> dict[str, float]:
        if said.endswith('"category": "') or said == " unsafe":
            labels = self.rules
        else:
            unsafe = (1.0 - self.undecided) * self.unsafe
            labels = {"safe": 1.0 - self.undecided - unsafe, "unsafe": unsafe, "undecided": self.undecided}
        space = "" if said.startswith(("{", "\n")) else " "
        weights = {f"{space}{label}": self.mass * share for label, share in labels.items()}
        rest = 1.0 - sum(weights.values())
        return weights | {word: rest * 0.5 ** min(i + 1, len(FILLERS) - 1) for i, word in enumerate(FILLERS)}

    def rest_of_answer(self, said: str) -> str:
        if not said.startswith("{"):
            return " dagger" if said.startswith(" unsafe") else ""
        answer: dict[str, str] = {"rationale": self.rationale}
        if '"category"' not in said:
            answer = {"category": "none"} | answer
        return '", ' + json.dumps(answer)[1:]


def pixel_hash(picture: Image.Image) -> str:
    return hashlib.sha256(f"{picture.size}".encode() + picture.convert("RGB").tobytes()).hexdigest()


class ToyServer(ThreadingHTTPServer):
    """Serves ``model`` on 127.0.0.1. ``calls`` holds (path, body) of every request so far.

    ``features``: "tokenize" and the keys of FIELDS; a server without one ignores the field, or refuses it if
    ``strict``. ``delay`` says how many seconds an answer takes, or None for one that waits for ``closing``.
    ``told`` holds what it answers at further paths, ``entry`` what it adds to its list of models.
    ``fault`` is called with handler and answer instead of sending the answer, where ``fault_at`` says so of
    the request's path and body: by default, where an image is shown. ``handler.body`` is the request's. An
    answer whose ``usage`` leaves out the prompt's length gets it added, unless ``counts_prompts`` is false.
    A ``blind`` server drops images from requests, and judges as if it had seen them. One with ``early`` sends
    that as soon as it has read the head of a request of a megabyte or more, and takes the body afterwards.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.closing = threading.Event()
        self.reset()

    def reset(self) -> None:
        """Be honest and able again, and let go of clients that were kept waiting."""
        self.closing.set()
        self.closing = threading.Event()
        self.model = "toy-guard"
        self.api_key: str | None = None
        self.context = 4096
        self.top_limit = 20
        self.features = {"tokenize", *FIELDS}
        self.strict = False
        self.told: dict[str, dict[str, Any]] = {}
        self.entry: dict[str, Any] = {}
        self.scenes: dict[str, Scene] = {}
        self.default = Scene()
        self.delay: Callable[[Scene], float | None] = lambda scene: 0.0
        self.fault: Callable[[Any, Any], None] | None = None
        self.fault_at: Callable[[str, dict[str, Any]], bool] = shows_image
        self.counts_prompts = True
        self.blind = False
        self.early = b""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.active = self.most_active = 0
        self.lock = threading.Lock()

    def die(self) -> None:
        """As after kill -9: connections break off, and new ones are refused."""
        self.shutdown()
        self.socket.close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def show(self, picture: Image.Image, **scene: Any) -> Image.Image:
        """Say what the model thinks of ``picture``."""
        self.scenes[pixel_hash(picture)] = Scene(**scene)
        return picture

    def bodies(self, path: str = "/v1/chat/completions") -> list[dict[str, Any]]:
        """Of all requests to ``path``; of chat completions, of those with an image."""
        return [
            body
            for called, body in self.calls
            if called == path and ("completions" not in path or shows_image(path, body))
        ]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class RefusalError(Exception):
    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        self.status = status
        self.body = {"error": {"message": message, "type": "BadRequestError", "param": param, "code": status}}


def shows_image(path: str, body: dict[str, Any]) -> bool:
    """Whether this is a chat completion with an image: others only find out what a server can do."""
    parts = [part for message in body.get("messages", ()) for part in message["content"]]
    return "completions" in path and any(isinstance(part, dict) and "image_url" in part for part in parts)


def _limit(body: dict[str, Any]) -> int:
    return int(body.get("max_tokens", body.get("max_completion_tokens", 16)))


_COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "orange": (255, 140, 0),
    "purple": (128, 0, 128),
}


def _nearest(picture: Image.Image) -> str:
    """The colour of a picture's first pixel, in a word."""
    seen: Any = picture.getpixel((0, 0))
    return min(
        _COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(seen, _COLOURS[name], strict=True))
    )


def _opened(uri: str) -> Image.Image:
    head, data = uri.split(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))  # noqa: TID251 (its own decoder)
    assert picture.mode == "RGB"
    assert picture.info.keys() <= {
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "adobe",
        "adobe_transform",
    }
    return picture


class _Handler(BaseHTTPRequestHandler):
    server: ToyServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 100

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve({})

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        if self.server.early and length >= 1 << 20:
            self.wfile.write(self.server.early)
            self.server.calls.append((self.path, json.loads(self.rfile.read(length))))
        else:
            self._serve(json.loads(self.rfile.read(length)))

    def _serve(self, body: dict[str, Any]) -> None:
        self.body = body
        self.length: int | None = None
        with self.server.lock:
            self.server.calls.append((self.path, body))
            self.server.active += 1
            self.server.most_active = max(self.server.most_active, self.server.active)
        try:
            try:
                status, answer = 200, self._answer(body)
            except RefusalError as refusal:
                status, answer = refusal.status, refusal.body
        finally:
            with self.server.lock:
                self.server.active -= 1
        if self.server.fault is not None and self.server.fault_at(self.path, body):
            self.server.fault(self, answer)
        else:
            self.send_json(status, answer)

    def send_json(self, status: int, answer: Any) -> None:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(usage, dict) and self.length is not None and self.server.counts_prompts:
            answer = answer | {"usage": {"prompt_tokens": self.length} | usage}
        self.send_bytes(status, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def send_bytes(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        authorised = server.api_key is None or self.headers["Authorization"] == f"Bearer {server.api_key}"
        if self.path.startswith("/v1") and not authorised:
            raise RefusalError(401, f"Incorrect API key provided: {self.headers['Authorization']}")
        if self.path == "/v1/models":
            return {"object": "list", "data": [{"id": server.model, **server.entry}]}
        if self.path in server.told and (self.path != "/tokenize" or "messages" in body):
            return server.told[self.path]
        known = {"/v1/chat/completions"} | ({"/tokenize"} if "tokenize" in server.features else set())
        if self.path not in known:
            raise RefusalError(404, "Not Found")
        if body["model"] != server.model:
            raise RefusalError(404, f"The model `{body['model']}` does not exist.")
        if self.path == "/tokenize":
            if "prompt" not in body:
                raise RefusalError(400, "Field required", "prompt")
            assert body["add_special_tokens"] is False
            tokens = tokenize(body["prompt"])
            return {"count": len(tokens), "max_model_len": server.context, "tokens": tokens}
        return self._complete(body)

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        server = self.server
        self._check_fields(body)
        *before, last = body["messages"]
        said = last["content"] if body.get("continue_final_message") else ""
        before = before if body.get("continue_final_message") else body["messages"]
        parts = [part for message in before for part in self._parts(message)]
        texts = "".join(part["text"] for part in parts if part["type"] == "text") + said
        texts += json.dumps(body.get("chat_template_kwargs", ""))
        pictures = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        assert len(pictures) <= 1, "the picture is sent once"
        picture = _opened(pictures[0]) if pictures else Image.new("RGB", (1, 1))
        if server.blind:
            pictures = []
        length = len(tokenize(texts))
        length += 64 + picture.width * picture.height // 256 if pictures else 0
        if length + _limit(body) > server.context:
            raise RefusalError(
                400,
                f"This model's maximum context length is {server.context} tokens; you asked for {length}.",
            )
        self.length = length
        if "Which colour" in texts:
            return self._text(_nearest(picture) if pictures else "I see no image.", body)
        scene = server.scenes.get(pixel_hash(picture), server.default)
        server.closing.wait(server.delay(scene))
        if _limit(body) > 1:
            return self._text(scene.rest_of_answer(said), body)
        return self._token(scene.next_tokens(said), body)

    def _check_fields(self, body: dict[str, Any]) -> None:
        assert body.get("temperature", 0) == 0
        if body.get("continue_final_message") and body.get("add_generation_prompt", True):
            raise RefusalError(
                400, "`continue_final_message` and `add_generation_prompt` exclude each other."
            )
        if body.get("logprob_token_ids") and "top_logprobs" in body:
            raise RefusalError(400, "`logprob_token_ids` and `top_logprobs` exclude each other.")
        if body.get("top_logprobs", 0) > self.server.top_limit and self.server.strict:
            raise RefusalError(400, "top_logprobs is greater than the maximum allowed", "top_logprobs")
        for feature, name in FIELDS.items():
            if name in body and feature not in self.server.features:
                if self.server.strict:
                    raise RefusalError(400, f"Unrecognized request argument supplied: {name}", name)
                del body[name]

    @staticmethod
    def _parts(message: dict[str, Any]) -> list[dict[str, Any]]:
        content = message["content"]
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    def _text(self, text: str, body: dict[str, Any]) -> dict[str, Any]:
        tokens = tokenize(text)
        finish = "stop" if len(tokens) <= _limit(body) else "length"
        text = text if finish == "stop" else text[: _limit(body)]
        return self._whole(text, None, finish, len(tokens))

    def _whole(self, text: str, logprobs: dict[str, Any] | None, finish: str, tokens: int) -> dict[str, Any]:
        """An answer with every field that vLLM gives."""
        message = {"role": "assistant", "content": text, "refusal": None, "reasoning": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": None,
        }
        return {
            "id": f"chatcmpl-{secrets.token_hex(16)}",
            "object": "chat.completion",
            "created": 1,
            "model": self.server.model,
            "choices": [choice],
            "service_tier": None,
            "prompt_logprobs": None,
            "usage": {"completion_tokens": tokens}
            | ({"prompt_tokens": self.length} if self.server.counts_prompts else {}),
        }

    def _token(self, weights: dict[str, float], body: dict[str, Any]) -> dict[str, Any]:
        def entry(word: str) -> dict[str, Any]:
            shown = f"token_id:{VOCABULARY.index(word)}" if body.get("return_tokens_as_token_ids") else word
            weight = weights.get(word, 0.0)
            return {
                "token": shown,
                "logprob": math.log(weight) if weight > 0.0 else -9999.0,
                "bytes": list(shown.encode()),
            }

        ranked = sorted(weights, key=lambda word: -weights[word])
        logprobs = None
        if body.get("logprobs"):
            wanted = [VOCABULARY[token] for token in body.get("logprob_token_ids", [])]
            top = ranked[: min(body.get("top_logprobs", 0), self.server.top_limit)]
            listed = list(dict.fromkeys([ranked[0], *wanted])) if wanted else top
            logprobs = {
                "content": [
                    {
                        **entry(ranked[0]),
                        "bytes": list(ranked[0].encode()),
                        "top_logprobs": [entry(word) for word in listed],
                    }
                ]
            }
        return self._whole(ranked[0], logprobs, "length", 1)
