# ruff: noqa: E501 (a table: one case per line)
"""Traffic without images that apps send and get every day: none of it may be stopped or changed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from integrations.http.pictures import GREEN, b64, picture

JSX = 'export const Card = () => <div className="card">\n  <img src="/static/logo.png" alt={name} />\n  <img src={user.photo} width="40"/>\n</div>;'
PAGE = '<!doctype html><html><head><link rel="icon" href="/favicon.ico"><style>body{background:url(bg.png)}</style></head><body><img class="hero" src="https://cdn.shop.example/hero.jpg" srcset="https://cdn.shop.example/hero@2x.jpg 2x"><p>Sale!</p><img src="//cdn.shop.example/pixel.gif" width=1></body></html>'
README = "# Tool\n\n[![CI](https://ci.example/badge.svg)](https://ci.example) ![Screenshot](https://raw.example/docs/shot.png)\n\n![logo][1]\n\n[1]: https://raw.example/logo.png\n"
MAIL = 'From: a@example.com\r\nTo: b@example.com\r\nSubject: Photos\r\nContent-Type: text/html\r\n\r\n<p>Hi, see <img src="cid:part1.06@example.com"> and <img src="https://mail.example/open.gif?id=9"></p>\r\n'
LOG = (
    "2026-01-01T00:00:00Z GET /img/cat.png 200 12ms\n2026-01-01T00:00:01Z ERROR decode failed: data:image/png;base64,<redacted>\n"
    * 8
)
SVG_CODE = 'Here is the icon:\n```svg\n<svg viewBox="0 0 9 9"><image href="https://e.example/x.png"/><path d="M0 0h9v9"/></svg>\n```'
PYTHON = 'import base64\nuri = f"data:image/png;base64,{base64.b64encode(data).decode()}"\nassert uri.startswith("data:image/png;base64,iVBORw0KGgo")\n'
CSS = ".icon { background: url('https://cdn.example/i.svg') } .x::before { content: url(/a.png) }"
WORDS = "I have drawn a picture of a cat; the file is plot.png, see image_url."
CUT_URI = (
    "Invalid value: data:image/png;base64,"
    + b64(picture(GREEN, size=(300, 200), seed=7))[:120]
    + "... (truncated)"
)
JWT = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0" * 6 + ".c2lnbmF0dXJl" * 3
ERROR_PAGE = '<html><head><title>502 Bad Gateway</title></head><body><img src="https://cdn.edge.example/logo.png" alt="edge"><h1>502</h1></body></html>'
JPEG_WORDS = "日本語のテキスト。画像はありません。" * 12
GERMAN = "Größe, Maße, Übergröße: süß – naïve façade. " * 12


@dataclass(frozen=True)
class Harmless:
    """One exchange. ``request`` and ``answer`` are values that become JSON, or bytes."""

    name: str
    path: str
    request: Any = field(default_factory=dict)
    answer: Any = field(default_factory=lambda: {"ok": True})
    status: int = 200
    content_type: str = "application/json"
    sent_type: str = "application/json"


def chat_request(*messages: Any, **rest: Any) -> Any:
    return {"model": "m", "messages": list(messages), **rest}


def user(text: Any) -> Any:
    return {"role": "user", "content": text}


def chat_answer(**message: Any) -> Any:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}],
    }


def sse(events: list[Any], *, names: bool = False) -> bytes:
    lines = [
        (f"event: {event['type']}\n" if names else "") + f"data: {json.dumps(event)}\n\n" for event in events
    ]
    return ("".join(lines) + ("" if names else "data: [DONE]\n\n")).encode()


def cut(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def chat_stream(text: str) -> bytes:
    return sse(
        [
            {
                "id": "c",
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {"content": piece}}],
            }
            for piece in cut(text)
        ]
    )


def chat_tool_stream(text: str) -> bytes:
    return sse(
        [
            {
                "id": "c",
                "choices": [
                    {"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}}
                ],
            }
            for piece in cut(json.dumps({"path": "a.tsx", "content": text}))
        ]
    )


def responses_stream(text: str, kind: str = "response.output_text.delta") -> bytes:
    done = {
        "type": "response.output_text.done",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
        "text": text,
    }
    return sse(
        [
            *(
                {"type": kind, "item_id": "m", "output_index": 0, "content_index": 0, "delta": piece}
                for piece in cut(text)
            ),
            done,
        ],
        names=True,
    )


def anthropic_stream(text: str, kind: str = "text_delta", key: str = "text") -> bytes:
    return sse(
        [
            {"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: piece}}
            for piece in cut(text)
        ],
        names=True,
    )


def gemini_stream(text: str) -> bytes:
    return sse(
        [{"candidates": [{"content": {"role": "model", "parts": [{"text": piece}]}}]} for piece in cut(text)]
    )


def tool(text: str) -> Any:
    return {"role": "tool", "tool_call_id": "c", "content": text}


def multipart(*parts: tuple[str, str, bytes]) -> tuple[bytes, str]:
    """(disposition, media type, content)"""
    body = b"".join(
        f"--xx\r\nContent-Disposition: form-data; {head}\r\n".encode()
        + (f"Content-Type: {kind}\r\n".encode() if kind else b"")
        + b"\r\n"
        + data
        + b"\r\n"
        for head, kind, data in parts
    )
    return body + b"--xx--\r\n", "multipart/form-data; boundary=xx"


def upload(filename: str, kind: str, data: bytes, path: str = "/v1/files", **rest: Any) -> Harmless:
    body, sent_type = multipart(
        ('name="purpose"', "", b"assistants"), (f'name="file"; filename="{filename}"', kind, data)
    )
    return Harmless(
        f"upload of {filename} {kind}",
        path,
        body,
        {"id": "file-1", "object": "file", "filename": filename},
        sent_type=sent_type,
        **rest,
    )


WEBM_SOUND = (
    b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webm\x18S\x80g\x16T\xaek\xae\xd7\x81\x01\x83\x81\x02\x86\x86A_OPUS"
    + bytes(range(256)) * 9
)
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI, GEMINI_STREAM = "/v1beta/models/gemini:generateContent", "/v1beta/models/gemini:streamGenerateContent"
TEXTS = {
    "JSX": JSX,
    "a page": PAGE,
    "a README": README,
    "an SVG": SVG_CODE,
    "Python": PYTHON,
    "CSS": CSS,
    "words": WORDS,
    "a log": LOG,
    "a mail": MAIL,
}

ANSWERS = [
    *(Harmless(f"chat, {name} whole", CHAT, answer=chat_answer(content=text)) for name, text in TEXTS.items()),
    *(Harmless(f"chat, {name} streamed", CHAT, answer=chat_stream(text), content_type="text/event-stream") for name, text in TEXTS.items()),
    *(Harmless(f"Responses, {name} streamed", RESPONSES, answer=responses_stream(text), content_type="text/event-stream") for name, text in TEXTS.items()),
    *(Harmless(f"Anthropic, {name} streamed", MESSAGES, answer=anthropic_stream(text), content_type="text/event-stream") for name, text in TEXTS.items()),
    *(Harmless(f"Gemini, {name} streamed", GEMINI_STREAM, answer=gemini_stream(text), content_type="text/event-stream") for name, text in TEXTS.items()),
    Harmless("chat, a tool's arguments streamed", CHAT, answer=chat_tool_stream(JSX), content_type="text/event-stream"),
    Harmless("Responses, a tool's arguments streamed", RESPONSES, answer=responses_stream(json.dumps({"content": PAGE}), "response.function_call_arguments.delta"), content_type="text/event-stream"),
    Harmless("Anthropic, a tool's arguments streamed", MESSAGES, answer=anthropic_stream(json.dumps({"content": JSX}), "input_json_delta", "partial_json"), content_type="text/event-stream"),
    Harmless("Anthropic, thinking streamed", MESSAGES, answer=anthropic_stream(PAGE, "thinking_delta", "thinking"), content_type="text/event-stream"),
    Harmless("Gemini, as an array", GEMINI_STREAM, answer=json.dumps([{"candidates": [{"content": {"parts": [{"text": piece}]}}]} for piece in cut(JSX)]).encode()),
    Harmless("Gemini, JSX whole", GEMINI, answer={"candidates": [{"content": {"parts": [{"text": JSX}, {"functionCall": {"name": "write", "args": {"content": PAGE}}}]}}]}),
    Harmless("Ollama, JSON lines", "/api/chat", answer="".join(json.dumps({"message": {"content": piece}}) + "\n" for piece in cut(PAGE)).encode(), content_type="application/x-ndjson"),
    Harmless("citations of a search with logos", RESPONSES, answer={"output": [{"type": "message", "content": [{"type": "output_text", "text": WORDS, "annotations": [{"type": "url_citation", "url": "https://e.example/x.png", "title": "t"}]}]}]}),
    Harmless("a search's results with favicons", "/v1/search", answer={"results": [{"title": "t", "url": "https://e.example/a", "favicon": "https://e.example/favicon.png", "logo": "https://e.example/logo.svg"}]}),
    Harmless("a model list with icons", "/v1/models", answer={"data": [{"id": "m", "object": "model", "icon": "https://e.example/m.png", "modalities": ["text", "image"]}]}),
    Harmless("a profile", "/v1/me", answer={"id": "user-1", "email": "a@example.com", "avatar": "https://e.example/me.jpg"}),
    Harmless("a key twice", CHAT, answer=b'{"id": "a", "id": "b", "choices": [{"message": {"content": "hi"}}]}'),
    Harmless("a key twice in an event", CHAT, answer=b'data: {"id": "a", "id": "b", "choices": [{"delta": {"content": "hi"}}]}\n\ndata: [DONE]\n\n', content_type="text/event-stream"),
    Harmless("a key twice in a line", "/api/chat", answer=b'{"a": 1, "a": 2}\n{"a": 3}\n', content_type="application/x-ndjson"),
    Harmless("an answer in Latin-1", "/page", answer=GERMAN.encode("latin-1", "replace"), content_type="text/plain; charset=iso-8859-1"),
    Harmless("an answer in Shift-JIS", "/page", answer=JPEG_WORDS.encode("shift_jis"), content_type="text/html; charset=shift_jis"),
    Harmless("CSS with a drawing as a data URI", CHAT, answer=chat_answer(content="a { background: url(\"data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg' width='9'></svg>\") }")),
    Harmless("a token and its bytes", CHAT, answer=chat_answer(content="hi", logprobs={"content": [{"token": "h", "bytes": [104]}]})),
]  # fmt: skip

RECORDS = [
    Harmless("upload answer of Mistral", "/v1/files", b"{}", {"id": "00edaf84-95b0-45db-8f83-f71138491f2f", "object": "file", "bytes": 13000, "created_at": 1716963433, "filename": "cat.png", "purpose": "ocr", "sample_type": "ocr_input", "source": "upload", "mimetype": "image/png", "num_lines": None}),
    Harmless("upload answer of Replicate", "/v1/files", b"{}", {"id": "cneqzikepnug6xezperrr4z55o", "name": "cat.png", "content_type": "image/png", "size": 1024, "etag": "f211779f", "checksums": {"sha256": "a" * 64}, "metadata": {}, "created_at": "2026-01-01", "urls": {"get": "https://api.replicate.com/v1/files/cneqzikepnug6xezperrr4z55o"}}),
    Harmless("upload answer of OpenAI", "/v1/files", b"{}", {"id": "file-1", "object": "file", "bytes": 99, "filename": "cat.png", "purpose": "vision", "status": "processed"}),
    Harmless("upload answer of Anthropic", "/v1/files", b"{}", {"id": "file_1", "type": "file", "filename": "a.png", "mime_type": "image/png", "size_bytes": 9, "created_at": "2026-01-01T00:00:00Z", "downloadable": False}),
    Harmless("upload answer of Gemini", "/upload/v1beta/files", b"{}", {"file": {"name": "files/abc", "displayName": "cat.png", "mimeType": "image/png", "sizeBytes": "9", "uri": "https://generativelanguage.googleapis.com/v1beta/files/abc", "state": "ACTIVE"}}),
    Harmless("file list of OpenAI", "/v1/files", answer={"object": "list", "data": [{"id": "file-1", "object": "file", "bytes": 9, "filename": "a.png"}, {"id": "file-2", "object": "file", "filename": "b.pdf"}]}),
    Harmless("file list of Together", "/v1/files", answer={"data": [{"id": "file-1", "filename": "x.jpg", "bytes": 3, "FileType": "image"}]}),
    Harmless("file list of Gemini", "/v1beta/files", answer={"files": [{"name": "files/abc", "mimeType": "application/pdf", "sizeBytes": "9", "uri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}]}),
    Harmless("container file citation", RESPONSES, answer={"output": [{"type": "message", "content": [{"type": "output_text", "text": "See plot.png", "annotations": [{"type": "container_file_citation", "container_id": "cntr_1", "file_id": "cfile_1", "filename": "plot.png", "start_index": 4, "end_index": 12}]}]}]}),
    Harmless("container files", "/v1/containers/c/files", answer={"object": "list", "data": [{"id": "cfile_1", "object": "container.file", "path": "/mnt/data/plot.png", "bytes": 9, "source": "assistant"}]}),
    Harmless("thread message with a picture's id", "/v1/threads/t/messages", answer={"data": [{"id": "msg_1", "content": [{"type": "image_file", "image_file": {"file_id": "file-9", "detail": "auto"}}, {"type": "text", "text": {"value": "a chart", "annotations": []}}], "attachments": [{"file_id": "file-8", "tools": []}]}]}),
    Harmless("a generated picture still to come", RESPONSES, answer={"output": [{"type": "image_generation_call", "id": "ig_1", "status": "generating", "result": None}]}),
    Harmless("a list of a response's input", "/v1/responses/r/input_items", answer={"data": [{"type": "item_reference", "id": "ig_123"}, {"type": "image_generation_call", "id": "ig_1"}]}),
    Harmless("an input image echoed by id", "/v1/responses/r/input_items", answer={"data": [{"type": "message", "content": [{"type": "input_image", "file_id": "file-1", "detail": "auto"}]}]}),
    Harmless("a document echoed by id", MESSAGES, answer={"content": [{"type": "document", "source": {"type": "file", "file_id": "file_1"}}]}),
    Harmless("code execution output of Anthropic", MESSAGES, answer={"content": [{"type": "bash_code_execution_tool_result", "tool_use_id": "t", "content": {"type": "bash_code_execution_result", "stdout": "saved chart.png", "content": [{"type": "bash_code_execution_output", "file_id": "file_2"}]}}]}),
    Harmless("a batch", "/v1/batches/b", answer={"id": "batch_1", "input_file_id": "file-1", "output_file_id": "file-2", "error_file_id": None, "endpoint": "/v1/chat/completions"}),
    Harmless("an assistant", "/v1/assistants/a", answer={"id": "asst_1", "tool_resources": {"code_interpreter": {"file_ids": ["file-1"]}, "file_search": {"vector_store_ids": ["vs_1"]}}}),
    Harmless("a prediction in progress", "/v1/predictions", {"version": "v", "input": {"prompt": "a cat"}}, {"id": "p", "status": "starting", "output": None, "urls": {"get": "https://api.replicate.com/v1/predictions/p", "cancel": "https://api.replicate.com/v1/predictions/p/cancel"}, "logs": ""}),
    Harmless("a model page of Replicate", "/v1/models/a/b", answer={"name": "b", "owner": "a", "description": "d", "github_url": "https://github.example/a/b", "latest_version": {"id": "v", "openapi_schema": {"components": {"schemas": {"Input": {"properties": {"image": {"type": "string", "format": "uri"}}}}}}}}),
    Harmless("a queue of fal", "/fal-ai/flux", {"prompt": "a cat", "image_size": "square"}, {"status": "IN_QUEUE", "request_id": "r", "response_url": "https://queue.fal.run/fal-ai/flux/requests/r", "status_url": "https://queue.fal.run/s", "cancel_url": "https://queue.fal.run/c"}),
    Harmless("a vector store", "/v1/vector_stores/v/search", {"query": "plots"}, {"data": [{"file_id": "file-1", "filename": "plot.png", "score": 0.9, "content": [{"type": "text", "text": "axis"}]}]}),
    Harmless("a moderation", "/v1/moderations", {"input": "words"}, {"results": [{"flagged": False, "category_applied_input_types": {"violence": ["text", "image"]}}]}),
    Harmless("Bedrock converse", "/model/m/converse", {"messages": [{"role": "user", "content": [{"text": README}]}]}, {"output": {"message": {"content": [{"text": JSX}]}}}),
    Harmless("Cohere chat", "/v2/chat", {"messages": [user(PAGE)], "documents": ["See https://e.example/a"]}, {"message": {"content": [{"type": "text", "text": README}]}}),
]  # fmt: skip

ERRORS = [
    *(Harmless(f"{status} page", CHAT, answer=ERROR_PAGE.encode(), status=status, content_type="text/html") for status in (429, 502, 503, 520)),
    Harmless("400 that quotes a cut data URI", CHAT, answer={"error": {"message": CUT_URI, "type": "invalid_request_error", "code": "invalid_value"}}, status=400),
    Harmless("400 of Anthropic that quotes base64", MESSAGES, answer={"type": "error", "error": {"type": "invalid_request_error", "message": "messages.0.content.0.image.source.base64: " + b64(picture(GREEN))[:60] + "..."}}, status=400),
    Harmless("400 that names the image's address", CHAT, answer={"error": {"message": "cannot download https://e.example/cat.png", "param": "image_url", "image_url": "https://e.example/cat.png"}}, status=400),
    Harmless("422 that echoes the input", "/v1/images/edits", answer={"detail": [{"type": "missing", "loc": ["body", "image"], "input": {"image_url": "cat.png", "type": "image_url"}}]}, status=422),
    Harmless("413 page", CHAT, answer=b"<html><center><h1>413 Request Entity Too Large</h1></center></html>", status=413, content_type="text/html"),
    Harmless("404 of a file", "/v1/files/file-1", answer={"error": {"message": "No such File object: file-1", "type": "invalid_request_error"}}, status=404),
    Harmless("400 of Gemini", GEMINI, answer={"error": {"code": 400, "message": "Unable to process input image. data:image/png;base64,AAAA", "status": "INVALID_ARGUMENT"}}, status=400),
    Harmless("500 that is cut short", CHAT, answer=b'{"error": {"message": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAA', status=500),
    Harmless("503 of JSON lines", CHAT, answer=b'{"error": "overloaded"}\n{"retry": 1}', status=503),
]  # fmt: skip

REQUESTS = [
    *(Harmless(f"{name} in a prompt", CHAT, chat_request(user(text))) for name, text in TEXTS.items()),
    *(Harmless(f"{name} from a tool", CHAT, chat_request(user("read"), tool(text))) for name, text in TEXTS.items()),
    *(Harmless(f"{name} to Gemini", GEMINI, {"contents": [{"role": "user", "parts": [{"text": text}]}]}) for name, text in TEXTS.items()),
    *(Harmless(f"{name} in a tool result of Anthropic", MESSAGES, {"model": "m", "messages": [user([{"type": "tool_result", "tool_use_id": "t", "content": text}])]}) for name, text in TEXTS.items()),
    Harmless("a tool call to write a page", CHAT, chat_request(user("go"), {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "write", "arguments": json.dumps({"path": "a.html", "content": PAGE})}}]}, tool("ok"))),
    Harmless("the schemas of tools", CHAT, chat_request(user("go"), tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"image_url": {"type": "string", "description": "e.g. https://e.example/a.png", "default": "https://e.example/a.png"}}}}}])),
    Harmless("a browser's result", CHAT, chat_request(tool(json.dumps({"url": "https://e.example", "html": PAGE, "images": ["https://e.example/a.png"]})))),
    Harmless("a diff of a notebook", CHAT, chat_request(user('+  "image/png": "<removed>",\n-  "data:image/png;base64," + blob\n'))),
    Harmless("a token", CHAT, chat_request(user(f"Authorization: Bearer {JWT}"))),
    Harmless("metadata of an app", RESPONSES, {"model": "m", "input": "hi", "metadata": {"avatar_url": "https://e.example/me.png", "page": "https://e.example/a.png"}, "user": "u", "safety_identifier": "s"}),
    Harmless("ids of a conversation", RESPONSES, {"model": "m", "input": [{"type": "function_call_output", "call_id": "call_1", "output": "42"}, {"type": "item_reference", "id": "msg_1"}], "previous_response_id": "resp_1", "conversation": {"id": "conv_1"}}),
    Harmless("a search of files", RESPONSES, {"model": "m", "input": "hi", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}, {"type": "mcp", "server_label": "s", "server_url": "https://mcp.example/sse", "connector_id": "connector_gmail"}, {"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}]}),
    Harmless("a webhook of a job", "/v1/predictions", {"version": "v", "input": {"prompt": "p"}, "webhook": "https://app.example/hook", "webhook_url": "https://app.example/hook", "callback_url": "https://app.example/cb"}),
    Harmless("a form", "/v1/form", b"prompt=a+cat&redirect_uri=https%3A%2F%2Fapp.example%2Fcb", sent_type="application/x-www-form-urlencoded"),
    upload("a.csv", "text/csv", b"a,b\n1,2\n" * 40),
    upload("latin.txt", "text/plain", GERMAN.encode("latin-1", "replace")),
    upload("utf16.txt", "text/plain", GERMAN.encode("utf-16")),
    upload("utf16.csv", "text/csv", ("a;b\n" + GERMAN).encode("utf-16")),
    upload("sjis.txt", "text/plain", JPEG_WORDS.encode("shift_jis")),
    upload("sjis.csv", "", JPEG_WORDS.encode("shift_jis")),
    upload("data.jsonl", "application/jsonl", b'{"messages": [{"role": "user", "content": "hi"}]}\n' * 9),
    upload("page.html", "text/html", PAGE.encode()),
    upload("speech.webm", "video/webm", WEBM_SOUND, "/v1/audio/transcriptions"),
    upload("speech.webm", "audio/webm", WEBM_SOUND, "/v1/audio/transcriptions"),
    upload("speech.mp3", "audio/mpeg", b"ID3\x04" + bytes(200), "/v1/audio/transcriptions"),
    upload("speech.wav", "audio/wav", b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(200), "/v1/audio/transcriptions"),
    upload("code.py", "text/x-python", PYTHON.encode()),
    upload("notes.md", "text/markdown", README.encode()),
    upload("notes.txt", "text/plain", b"A PDF begins with %PDF-1.7 and has lines such as 1 0 obj in it.\n" * 9),
    upload("pdf.py", "text/x-python", b'MAGIC = b"%PDF-1.4\\n1 0 obj"\nRTF = "{\\\\rtf1"\n' * 9),
    upload("pdf.go", "application/octet-stream", b'package pdf\nvar magic = "%PDF-"\n' * 9),
    upload("plain.jsonl", "application/octet-stream", b'{"text": "%PDF-1.4 1 0 obj"}\n' * 9),
    upload("thesis.tex", "application/x-tex", b"%!TEX root = main.tex\n\\includegraphics{a.pdf}\n" * 9),
    upload("excel.csv", "application/vnd.ms-excel", b"a;b\n1;2\n" * 40),
    upload("app.ts", "video/mp2t", b"export const pdf = (name: string): string => name;\n" * 9),
    upload("tool.rb", "application/x-ruby", b"puts 'hi'\n" * 9),
    upload("feed.xml", "application/xml", b'<?xml version="1.0"?>\n<feed><title>hi</title></feed>\n'),
    upload("a.log", "application/octet-stream", b"2026-01-01 GET /a.pdf 200\n" * 9),
    upload("a", "", b"a word\n" * 9),
    Harmless("a prompt about PDF", "/v1/chat/completions", {"messages": [{"role": "user", "content": "%PDF-1.4\n1 0 obj\nwhat is this?"}]}),
    Harmless("a form about PDF", "/v1/x", b"prompt=%25PDF-1.4%0A1+0+obj", sent_type="application/x-www-form-urlencoded"),
    Harmless("raw text", "/v1/x", b"What does %PDF-1.4 mean? 1 0 obj?", sent_type="text/plain"),
    Harmless("a fine-tuning job with an upload", "/v1/fine_tuning/jobs", {"training_file": "file-1", "model": "m"}, {"id": "ftjob-1", "training_file": "file-abc", "result_files": ["file-r"], "validation_file": None}),
    Harmless("a batch with an upload", "/v1/batches", {"input_file_id": "file-1", "endpoint": "/v1/responses", "completion_window": "24h"}, {"id": "batch_1", "input_file_id": "file-1"}),
    Harmless("an interpreter with an upload", RESPONSES, {"model": "m", "input": "sum it", "tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}]}),
    Harmless("citations that come back in the history", RESPONSES, {"model": "m", "input": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "See plot.png", "annotations": [{"type": "container_file_citation", "container_id": "c", "file_id": "cfile_1", "filename": "plot.png"}, {"type": "file_citation", "file_id": "file-77", "filename": "a.png"}]}]}]}),
    Harmless("addresses of servers", RESPONSES, {"model": "m", "input": "hi", "base_url": "https://e.example/v1", "api_base": "https://e.example", "redirect_uri": "https://e.example/cb", "success_url": "https://e.example/ok", "audio_url": "https://e.example/a", "endpoint": "https://e.example/x"}),
    upload("windows.log", "application/octet-stream", ("Prüfung läuft\r\n" * 30).encode("cp1252")),
]  # fmt: skip

HARMLESS = [*ANSWERS, *RECORDS, *ERRORS, *REQUESTS]
