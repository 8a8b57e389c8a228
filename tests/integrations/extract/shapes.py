# ruff: noqa: E501 (a table: one case per line)
"""The shapes in which images stand in requests and responses, by provider: payload and expected sites."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image as pil  # noqa: N813 (the module)

from policyguard.integrations.extract import SiteKind

INLINE, URL, FILE, UNREADABLE = SiteKind.INLINE, SiteKind.URL, SiteKind.FILE, SiteKind.UNREADABLE
DOCUMENT, LINK = SiteKind.DOCUMENT, SiteKind.LINK


def picture(kind: str = "PNG", colour: tuple[int, int, int] = (180, 40, 90)) -> bytes:
    buffer = io.BytesIO()
    pil.new("RGB", (13, 9), colour).save(buffer, kind)
    return buffer.getvalue()


PNG, JPEG, GIF, WEBP = (picture(kind) for kind in ("PNG", "JPEG", "GIF", "WEBP"))
B64 = base64.b64encode(PNG).decode()
DATA_URI = f"data:image/png;base64,{B64}"
ADDRESS = "https://pictures.example/a/b?c=d"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
SVG64 = base64.b64encode(SVG).decode()
TINY, LETTERS = (
    base64.b64encode(b"%PDF-1.4 hello").decode(),
    base64.b64encode(b"1 0 obj <<>> endobj").decode(),
)
PDF = "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7 " + bytes(range(90))).decode()


@dataclass(frozen=True)
class Shape:
    """``sites`` are (where, kind); inline sites hold PNG unless ``data`` says otherwise."""

    name: str
    provider: str
    payload: Any
    sites: tuple[tuple[str, SiteKind], ...]
    data: bytes = PNG


def user(*content: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, *content]}],
    }


def given(*items: Any) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": list(items)}]}


AT = "/messages/0/content/1"
IN = "/input/0/content/0"

OPENAI = [
    Shape("chat image_url", "openai", user({"type": "image_url", "image_url": {"url": DATA_URI, "detail": "low"}}), ((f"{AT}/image_url/url", INLINE),)),
    Shape("chat image_url by address", "openai", user({"type": "image_url", "image_url": {"url": ADDRESS}}), ((f"{AT}/image_url/url", URL),)),
    Shape("chat image_url as a bare string", "openai", user({"type": "image_url", "image_url": DATA_URI}), ((f"{AT}/image_url", INLINE),)),
    Shape("chat image_url that is empty", "openai", user({"type": "image_url", "image_url": {"url": ""}}), ((AT, UNREADABLE),)),
    Shape("chat image_url without content", "openai", user({"type": "image_url"}), ((AT, UNREADABLE),)),
    Shape("chat image_url with a relative path", "openai", user({"type": "image_url", "image_url": {"url": "cat.png"}}), ((f"{AT}/image_url/url", UNREADABLE),)),
    Shape("chat image_url with broken base64", "openai", user({"type": "image_url", "image_url": {"url": DATA_URI[:60] + "!!"}}), ((f"{AT}/image_url/url", UNREADABLE),)),
    Shape("chat text with a data URI", "openai", {"messages": [{"role": "user", "content": f"look: {DATA_URI} !"}]}, (("/messages/0/content#0", INLINE),)),
    Shape("chat tool message", "openai", {"messages": [{"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": {"url": DATA_URI}}]}]}, (("/messages/0/content/0/image_url/url", INLINE),)),
    Shape("chat tool message of JSON", "openai", {"messages": [{"role": "tool", "content": json.dumps({"image": DATA_URI})}]}, (("/messages/0/content#json/image", INLINE),)),
    Shape("chat file of an image type", "openai", user({"type": "file", "file": {"filename": "a.png", "file_data": DATA_URI}}), ((f"{AT}/file/file_data", INLINE),)),
    Shape("chat file named as an image, by id", "openai", user({"type": "file", "file": {"filename": "a.PNG", "file_id": "file-1"}}), ((f"{AT}/file/file_id", FILE),)),
    Shape("moderations", "openai", {"input": [{"type": "image_url", "image_url": {"url": DATA_URI}}, {"type": "text", "text": "t"}]}, (("/input/0/image_url/url", INLINE),)),
    Shape("input_image", "openai", given({"type": "input_image", "image_url": DATA_URI}), ((f"{IN}/image_url", INLINE),)),
    Shape("input_image by file id", "openai", given({"type": "input_image", "file_id": "file-1", "detail": "auto"}), ((f"{IN}/file_id", FILE),)),
    Shape("input_image with both null", "openai", given({"type": "input_image", "file_id": None, "image_url": None}), ((IN, UNREADABLE),)),
    Shape("function_call_output", "openai", {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": DATA_URI}]}]}, (("/input/0/output/0/image_url", INLINE),)),
    Shape("computer_call_output", "openai", {"input": [{"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": DATA_URI}}]}, (("/input/0/output/image_url", INLINE),)),
    Shape("computer_call_output by file id", "openai", {"input": [{"type": "computer_call_output", "output": {"type": "computer_screenshot", "file_id": "file-1"}}]}, (("/input/0/output/file_id", FILE),)),
    Shape("image_generation_call", "openai", {"output": [{"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": B64}]}, (("/output/0/result", INLINE),)),
    Shape("image_generation_call in progress", "openai", {"output": [{"type": "image_generation_call", "id": "ig_1", "status": "in_progress", "result": None}]}, ()),
    Shape("image_generation_call by id", "openai", {"input": [{"type": "image_generation_call", "id": "ig_1"}]}, (("/input/0/id", FILE),)),
    Shape("item_reference to a generated image", "openai", {"input": [{"type": "item_reference", "id": "ig_1"}]}, (("/input/0/id", FILE),)),
    Shape("mask of the image tool", "openai", {"tools": [{"type": "image_generation", "size": "auto", "input_image_mask": {"file_id": "file-1"}}]}, (("/tools/0/input_image_mask/file_id", FILE),)),
    Shape("the image tool itself", "openai", {"tools": [{"type": "image_generation", "quality": "high", "output_format": "png"}], "tool_choice": {"type": "image_generation"}}, ()),
    Shape("code interpreter output", "openai", {"output": [{"type": "code_interpreter_call", "outputs": [{"type": "image", "url": DATA_URI}]}]}, (("/output/0/outputs/0/url", INLINE),)),
    Shape("images response, b64_json", "openai", {"created": 1, "output_format": "png", "data": [{"b64_json": B64, "url": None}, {"b64_json": B64}]}, (("/data/0/b64_json", INLINE), ("/data/1/b64_json", INLINE))),
    Shape("images response, url", "openai", {"created": 1, "data": [{"url": ADDRESS}]}, (("/data/0/url", URL),)),
    Shape("images response, url and prompt", "openai", {"created": 1, "data": [{"url": ADDRESS, "revised_prompt": "a cat"}]}, (("/data/0/url", URL),)),
    Shape("images response, gif", "openai", {"data": [{"b64_json": base64.b64encode(GIF).decode()}]}, (("/data/0/b64_json", INLINE),), GIF),
    Shape("images response, svg", "openai", {"data": [{"b64_json": SVG64}]}, (("/data/0/b64_json", INLINE),), SVG),
    Shape("images response, svg as text", "openai", {"data": [{"b64_json": SVG.decode()}]}, (("/data/0/b64_json", INLINE),), SVG),
    Shape("images response, broken", "openai", {"data": [{"b64_json": "@@@@"}]}, (("/data/0/b64_json", UNREADABLE),)),
    Shape("images edit, JSON", "openai", {"images": [{"image_url": DATA_URI}, {"file_id": "file-1"}], "mask": {"image_url": DATA_URI}}, (("/images/0/image_url", INLINE), ("/images/1/file_id", FILE), ("/mask/image_url", INLINE))),
    Shape("video reference", "openai", {"prompt": "p", "input_reference": {"file_id": "file-1"}}, (("/input_reference/file_id", FILE),)),
    Shape("event image_generation.partial_image", "openai", {"type": "image_generation.partial_image", "b64_json": B64, "partial_image_index": 0}, (("/b64_json", INLINE),)),
    Shape("event partial_image of Responses", "openai", {"type": "response.image_generation_call.partial_image", "item_id": "ig_1", "partial_image_b64": B64}, (("/partial_image_b64", INLINE),)),
    Shape("event output_item.done", "openai", {"type": "response.output_item.done", "item": {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": B64}}, (("/item/result", INLINE),)),
    Shape("event in progress", "openai", {"type": "response.image_generation_call.in_progress", "item_id": "ig_1", "output_index": 0}, ()),
    Shape("message.images", "openrouter", {"choices": [{"message": {"content": "", "images": [{"type": "image_url", "index": 0, "image_url": {"url": DATA_URI}}]}}]}, (("/choices/0/message/images/0/image_url/url", INLINE),)),
    Shape("delta.images", "litellm", {"choices": [{"delta": {"images": [{"type": "image_url", "image_url": {"url": DATA_URI}}]}}]}, (("/choices/0/delta/images/0/image_url/url", INLINE),)),
    Shape("assistants image_file", "openai", user({"type": "image_file", "image_file": {"file_id": "file-1"}}), ((f"{AT}/image_file/file_id", FILE),)),
    Shape("image_embeds", "vllm", user({"type": "image_embeds", "image_embeds": "A" * 400}), ((f"{AT}/image_embeds", UNREADABLE),)),
]  # fmt: skip

ANTHROPIC = [
    Shape("source base64", "anthropic", user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}}), ((f"{AT}/source/data", INLINE),)),
    Shape("source base64 of the wrong media type", "anthropic", user({"type": "image", "source": {"type": "base64", "media_type": "application/pdf", "data": B64}}), ((f"{AT}/source/data", INLINE),)),
    Shape("source base64, broken", "anthropic", user({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "?" + B64}}), ((f"{AT}/source/data", UNREADABLE),)),
    Shape("source url", "anthropic", user({"type": "image", "source": {"type": "url", "url": ADDRESS}}), ((f"{AT}/source/url", URL),)),
    Shape("source file", "anthropic", user({"type": "image", "source": {"type": "file", "file_id": "file_1"}}), ((f"{AT}/source/file_id", FILE),)),
    Shape("source of a new type", "anthropic", user({"type": "image", "source": {"type": "vault", "key": "k"}}), ((AT, UNREADABLE),)),
    Shape("tool_result", "anthropic", user({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}}]}), ((f"{AT}/content/0/source/data", INLINE),)),
    Shape("document with image content", "anthropic", user({"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": B64}}]}}), ((f"{AT}/source/content/0/source/data", INLINE),)),
    Shape("a PDF", "anthropic", user({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF.partition(",")[2]}}), ((f"{AT}/source/data", DOCUMENT),)),
    Shape("the answer to an upload", "anthropic", {"id": "file_1", "type": "file", "filename": "a.png", "mime_type": "image/png", "size_bytes": 9, "created_at": "2026-01-01T00:00:00Z"}, ()),
]  # fmt: skip

GEMINI = [
    Shape("inlineData", "gemini", {"contents": [{"parts": [{"text": "t"}, {"inlineData": {"mimeType": "image/png", "data": B64}}]}]}, (("/contents/0/parts/1/inlineData/data", INLINE),)),
    Shape("inline_data", "gemini", {"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": B64}}]}]}, (("/contents/0/parts/0/inline_data/data", INLINE),)),
    Shape("inline_data as bytes", "gemini", {"parts": [{"inline_data": {"mime_type": "image/png", "data": PNG}}]}, (("/parts/0/inline_data/data", INLINE),)),
    Shape("inlineData without a type, unreadable", "gemini", {"parts": [{"inlineData": {"data": "AAAA"}}]}, (("/parts/0/inlineData/data", UNREADABLE),)),
    Shape("inlineData of sound", "gemini", {"parts": [{"inlineData": {"mimeType": "audio/wav", "data": "UklGRgAAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAAB"}}]}, ()),
    Shape("fileData of an upload", "gemini", {"parts": [{"fileData": {"mimeType": "image/png", "fileUri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}}]}, (("/parts/0/fileData/fileUri", FILE),)),
    Shape("fileData in a bucket", "gemini", {"parts": [{"file_data": {"mime_type": "image/png", "file_uri": "gs://bucket/a"}}]}, (("/parts/0/file_data/file_uri", FILE),)),
    Shape("fileData by address", "gemini", {"parts": [{"fileData": {"mimeType": "image/png", "fileUri": ADDRESS}}]}, (("/parts/0/fileData/fileUri", URL),)),
    Shape("fileData without a type", "gemini", {"parts": [{"fileData": {"fileUri": "gs://bucket/a"}}]}, (("/parts/0/fileData/fileUri", FILE),)),
    Shape("fileData of a document", "gemini", {"parts": [{"fileData": {"mimeType": "application/pdf", "fileUri": "gs://bucket/a"}}]}, (("/parts/0/fileData/fileUri", DOCUMENT),)),
    Shape("generatedImages", "gemini", {"generatedImages": [{"image": {"imageBytes": B64, "mimeType": "image/png"}}]}, (("/generatedImages/0/image/imageBytes", INLINE),)),
    Shape("predictions", "vertex", {"predictions": [{"bytesBase64Encoded": B64, "mimeType": "image/png"}]}, (("/predictions/0/bytesBase64Encoded", INLINE),)),
    Shape("an image without bytes", "gemini", {"generatedImages": [{"raiFilteredReason": "filtered"}]}, ()),
    Shape("the answer to an upload", "gemini", {"file": {"name": "files/abc", "mimeType": "image/png", "sizeBytes": "9", "uri": "https://generativelanguage.googleapis.com/v1beta/files/abc"}}, ()),
]  # fmt: skip

LANGCHAIN = [
    Shape("v1 base64", "langchain", [{"type": "image", "base64": B64, "mime_type": "image/png"}], (("/0/base64", INLINE),)),
    Shape("v1 url", "langchain", [{"type": "image", "url": ADDRESS}], (("/0/url", URL),)),
    Shape("v1 url that is a data URI", "langchain", [{"type": "image", "url": DATA_URI}], (("/0/url", INLINE),)),
    Shape("v1 file id", "langchain", [{"type": "image", "file_id": "file-1", "id": "block-1"}], (("/0/file_id", FILE),)),
    Shape("v0 base64", "langchain", [{"type": "image", "source_type": "base64", "data": B64, "mime_type": "image/png"}], (("/0/data", INLINE),)),
    Shape("v0 url", "langchain", [{"type": "image", "source_type": "url", "url": ADDRESS}], (("/0/url", URL),)),
    Shape("v0 id", "langchain", [{"type": "image", "source_type": "id", "id": "file-1"}], (("/0/id", FILE),)),
    Shape("file block of an image type", "langchain", [{"type": "file", "mime_type": "image/png", "base64": B64}], (("/0/base64", INLINE),)),
    Shape("file block of a document", "langchain", [{"type": "file", "mime_type": "application/pdf", "file_id": "f"}], (("/0/file_id", DOCUMENT),)),
    Shape("non_standard", "langchain", [{"type": "non_standard", "value": {"type": "input_image", "image_url": DATA_URI}}], (("/0/value/image_url", INLINE),)),
    Shape("media of Gemini", "langchain", [{"type": "media", "mime_type": "image/png", "data": PNG}], (("/0/data", INLINE),)),
    Shape("media of Gemini by address", "langchain", [{"type": "media", "mime_type": "image/png", "file_uri": "gs://b/a"}], (("/0/file_uri", FILE),)),
    Shape("an artifact of bytes", "langchain", {"artifact": {"plot": PNG}}, (("/artifact/plot", INLINE),)),
    Shape("an artifact with an image", "langchain", {"artifact": [pil.new("RGB", (3, 3))]}, (("/artifact/0", INLINE),)),
]  # fmt: skip

OTHERS = [
    Shape("images", "ollama", {"messages": [{"role": "user", "content": "hi", "images": [B64]}]}, (("/messages/0/images/0", INLINE),)),
    Shape("converse", "bedrock", {"messages": [{"content": [{"image": {"format": "png", "source": {"bytes": B64}}}]}]}, (("/messages/0/content/0/image/source/bytes", INLINE),)),
    Shape("converse from S3", "bedrock", {"content": [{"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/a"}}}}]}, (("/content/0/image/source/s3Location/uri", FILE),)),
    Shape("converse, broken", "bedrock", {"content": [{"image": {"format": "png", "source": {"bytes": "!!"}}}]}, (("/content/0/image/source/bytes", UNREADABLE),)),
    Shape("image content", "mcp", {"content": [{"type": "image", "data": B64, "mimeType": "image/png"}]}, (("/content/0/data", INLINE),)),
    Shape("resource", "mcp", {"content": [{"type": "resource", "resource": {"uri": "file:///a.png", "mimeType": "image/png", "blob": B64}}]}, (("/content/0/resource/blob", INLINE),)),
    Shape("resource link", "mcp", {"content": [{"type": "resource_link", "uri": ADDRESS, "mimeType": "image/png"}]}, (("/content/0/uri", URL),)),
    Shape("artifacts", "stability", {"artifacts": [{"base64": B64, "finishReason": "SUCCESS"}]}, (("/artifacts/0/base64", INLINE),)),
    Shape("output addresses", "replicate", {"output": ["https://r.example/x/out-0.webp"]}, (("/output/0", URL),)),
    Shape("images by address", "fal", {"images": [{"url": ADDRESS, "content_type": "image/jpeg"}]}, (("/images/0/url", URL),)),
    Shape("init_images", "webui", {"init_images": [B64]}, (("/init_images/0", INLINE),)),
    Shape("image by address", "dashscope", {"content": [{"image": ADDRESS}]}, (("/content/0/image", URL),)),
    Shape("image_base64", "mistral", {"pages": [{"images": [{"id": "img-0", "image_base64": B64}]}]}, (("/pages/0/images/0/image_base64", INLINE),)),
    Shape("file part", "ai-sdk", [{"type": "file", "mediaType": "image/png", "data": B64}], (("/0/data", INLINE),)),
    Shape("a Buffer", "node", {"payload": {"type": "Buffer", "data": list(PNG)}}, (("/payload/data", INLINE),)),
    Shape("unheard-of JSON", "new", {"x": [{"zzz": {"q": B64}}]}, (("/x/0/zzz/q", INLINE),)),
    Shape("line-wrapped base64", "new", {"q": base64.encodebytes(PNG).decode()}, (("/q", INLINE),)),
    Shape("URL-safe base64 without padding", "new", {"q": base64.urlsafe_b64encode(JPEG).decode().rstrip("=")}, (("/q", INLINE),), JPEG),
    Shape("a truncated image", "new", {"q": B64[:61]}, (("/q", UNREADABLE),)),
    Shape("Markdown", "text", f"![a]({ADDRESS}) and ![b]({DATA_URI})", (("#0", LINK), ("#1", INLINE))),
    Shape("Markdown by reference", "text", "![a][1]\n\n[1]: https://e.example/x\n[2]: https://e.example/y", (("#0", LINK),)),
    Shape("HTML", "text", f"<p><IMG alt=x src='{ADDRESS}'><img src=\"{DATA_URI}\">", (("#0", LINK), ("#1", INLINE))),
    Shape("two data URIs", "text", f"{DATA_URI} {DATA_URI}", (("#0", INLINE), ("#1", INLINE))),
    Shape("a data URI in capitals", "text", f"x DATA:IMAGE/PNG;charset=x;BASE64,{B64} y", (("#0", INLINE),)),
    Shape("a data URI without a type", "text", f"x data:;base64,{B64}", (("#0", INLINE),)),
    Shape("a data URI of another type", "text", f"x data:application/octet-stream;base64,{B64}", (("#0", INLINE),)),
    Shape("a percent-encoded data URI", "text", "x data:image/png;base64," + B64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"), (("#0", INLINE),)),
    Shape("an escaped data URI", "text", "x {" + DATA_URI.replace("/", "\\/") + "}", (("#0", INLINE),)),
    Shape("JSON in JSON in a string", "text", {"arguments": json.dumps({"a": json.dumps([DATA_URI])})}, (("/arguments#json/a#json/0", INLINE),)),
    Shape("a data URI that cannot be decoded", "text", "x data:image/png;base64," + "A" * 41, (("#0", UNREADABLE),)),
    Shape("a tool call with an image", "openai", {"tool_calls": [{"name": "f", "args": {"image": DATA_URI}}]}, (("/tool_calls/0/args/image", INLINE),)),
    Shape("a block in the arguments of a tool", "openai", {"arguments": {"part": {"type": "image", "url": ADDRESS}}}, (("/arguments/part/url", URL),)),
    Shape("an address of another kind", "new", {"image": "ftp://e.example/x"}, (("/image", UNREADABLE),)),
    Shape("an address cut by line ends", "new", {"image": "ht\ntps://e.example/x"}, (("/image", UNREADABLE),)),
    Shape("a data URI cut by line ends", "new", {"image": "da\nta:image/png;base64," + B64}, (("/image", UNREADABLE),)),
    Shape("an address without a scheme", "new", {"image": "//e.example/x"}, (("/image", URL),)),
    Shape("keys that need escapes", "new", {"a/b": {"c~d": B64}}, (("/a~1b/c~0d", INLINE),)),
]  # fmt: skip

DOCUMENTS = [
    Shape("a PDF file", "openai", user({"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}), ((f"{AT}/file/file_data", DOCUMENT),)),
    Shape("input_file by id", "openai", [{"type": "input_file", "file_id": "file-1"}], (("/0/file_id", DOCUMENT),)),
    Shape("input_file by address", "openai", [{"type": "input_file", "file_url": "https://e.example/a"}], (("/0/file_url", DOCUMENT),)),
    Shape("a document by address", "anthropic", user({"type": "document", "source": {"type": "url", "url": "https://e.example/a"}}), ((f"{AT}/source/url", DOCUMENT),)),
    Shape("a document by file id", "anthropic", user({"type": "document", "source": {"type": "file", "file_id": "f"}}), ((f"{AT}/source/file_id", DOCUMENT),)),
    Shape("a film", "gemini", {"parts": [{"inlineData": {"mimeType": "video/mp4", "data": "AAAA" * 99}}]}, (("/parts/0/inlineData/data", DOCUMENT),)),
    Shape("a film by address", "langchain", [{"type": "video", "url": "https://e.example/a"}], (("/0/url", DOCUMENT),)),
    Shape("a document block", "bedrock", [{"document": {"format": "pdf", "name": "a", "source": {"bytes": b"%PDF-1.7 \x80"}}}], (("/0/document/source/bytes", DOCUMENT),)),
    Shape("document_url", "mistral", [{"type": "document_url", "document_url": "https://e.example/a"}], (("/0/document_url", DOCUMENT),)),
    Shape("a resource", "mcp", {"type": "resource", "resource": {"uri": "file:///a", "mimeType": "application/pdf", "blob": PDF.partition(",")[2]}}, (("/resource/blob", DOCUMENT),)),
    Shape("a PDF under a key that says nothing", "none", {"x": PDF.partition(",")[2]}, (("/x", DOCUMENT),)),
    Shape("a PDF declared as words", "none", [{"mimeType": "text/plain", "data": PDF.partition(",")[2]}], (("/0/data", DOCUMENT),)),
    Shape("a tiny PDF", "langchain", [{"type": "file", "base64": TINY, "mime_type": "application/pdf"}], (("/0/base64", DOCUMENT),)),
    Shape("a tiny PDF", "anthropic", user({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": TINY}}), ((f"{AT}/source/data", DOCUMENT),)),
    Shape("a tiny PDF", "gemini", {"parts": [{"inlineData": {"mimeType": "application/pdf", "data": TINY}}]}, (("/parts/0/inlineData/data", DOCUMENT),)),
    Shape("a tiny PDF by its name", "openai", [{"type": "input_file", "filename": "a.pdf", "file_data": TINY}], (("/0/file_data", DOCUMENT),)),
    Shape("a tiny PDF of no name", "openai", user({"type": "file", "file": {"file_data": TINY}}), ((f"{AT}/file/file_data", DOCUMENT),)),
    Shape("a tiny PDF as a data URI", "openai", user({"type": "file", "file": {"file_data": "data:application/pdf;base64," + TINY}}), ((f"{AT}/file/file_data", DOCUMENT),)),
    Shape("a tiny PDF in bytes", "none", [{"mime_type": "application/pdf", "data": b"%PDF-1.4"}], (("/0/data", DOCUMENT),)),
    Shape("letters called a PDF", "langchain", [{"type": "file", "base64": LETTERS, "mime_type": "application/pdf"}], (("/0/base64", DOCUMENT),)),
    Shape("letters named a PDF", "openai", user({"type": "file", "file": {"filename": "a.pdf", "file_data": LETTERS}}), ((f"{AT}/file/file_data", DOCUMENT),)),
    Shape("letters named a PDF, as a data URI", "openai", user({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:text/plain;base64," + LETTERS}}), ((f"{AT}/file/file_data", DOCUMENT),)),
    Shape("letters called a PDF, in bytes", "none", [{"mime_type": "application/pdf", "data": b"1 0 obj <<>>"}], (("/0/data", DOCUMENT),)),
    Shape("letters in a block of a PDF", "bedrock", [{"document": {"format": "pdf", "name": "a", "source": {"bytes": b"1 0 obj <<>>"}}}], (("/0/document/source/bytes", DOCUMENT),)),
    Shape("words of a PDF", "none", [{"filename": "a.pdf", "mimeType": "application/pdf", "content": "The words on its pages.", "source": "upload"}], ()),
    Shape("words in a block of words", "bedrock", [{"document": {"format": "txt", "name": "a", "source": {"bytes": b"some words in a text"}}}], ()),
    Shape("words that were found in a PDF", "openai", {"results": [{"filename": "a.pdf", "content": [{"type": "text", "text": "The words on its pages."}]}]}, ()),
    Shape("a short file of words", "openai", user({"type": "file", "file": {"filename": "a.txt", "file_data": base64.b64encode(b"hello hello").decode()}}), ()),
    Shape("a document of words", "anthropic", user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "word " * 99}}), ()),
    Shape("a document of blocks", "anthropic", user({"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "word " * 99}]}}), ()),
    Shape("a file of words", "openai", user({"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8="}}), ()),
    Shape("a picture in a file", "openai", user({"type": "file", "file": {"filename": "a.pdf", "file_data": DATA_URI}}), ((f"{AT}/file/file_data", INLINE),)),
    Shape("a citation of a file", "openai", {"annotations": [{"type": "file_citation", "file_id": "f", "filename": "a.pdf"}]}, ()),
    Shape("documents to rank", "cohere", {"documents": ["one", "See https://e.example/a"], "document": "two"}, ()),
    Shape("a tool call about a file", "none", {"function": {"name": "f", "arguments": json.dumps({"type": "file", "url": "https://e.example/a"})}}, ()),
]  # fmt: skip

NOTHING = [
    Shape("words", "none", {"messages": [{"role": "user", "content": "What is a data: URI, and an image_url?"}]}, ()),
    Shape("a mention of data URIs", "none", 'Write f"data:image/png;base64,{b64}" or data:image/png;base64,... there.', ()),
    Shape("an address in a text", "none", "See https://e.example/cat.png for the picture.", ()),
    Shape("a text that is an address", "none", {"role": "user", "content": "https://e.example/cat.png"}, ()),
    Shape("base64 of something else", "none", {"data": base64.b64encode(bytes(range(256)) * 9).decode()}, ()),
    Shape("a signature", "none", {"thinking": "t", "signature": "Er" + "Qk" * 300 + "=="}, ()),
    Shape("a schema", "none", {"tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"image": {"type": "string", "description": "path"}, "image_url": {"type": "string", "format": "uri"}}, "required": ["image", "image_url"]}}]}, ()),
    Shape("a container", "none", {"image": "nginx:latest", "images": ["a:1", "b:2"], "imagePullPolicy": "Always"}, ()),
    Shape("settings", "none", {"response_format": {"type": "image"}, "image_config": {"aspect_ratio": "1:1", "image_size": "2K"}, "modalities": ["image", "text"]}, ()),
    Shape("sound", "none", user({"type": "input_audio", "input_audio": {"data": "UklGRi4AAABXQVZFZm10IBAAAAABAAEA", "format": "wav"}}), ()),
    Shape("embeddings", "none", {"data": [{"object": "embedding", "index": 0, "embedding": [0.1] * 99}]}, ()),
    Shape("token bytes", "none", {"logprobs": {"content": [{"token": "a", "bytes": [97], "top_logprobs": []}]}}, ()),
    Shape("a tool call with an address", "none", {"function": {"name": "f", "arguments": json.dumps({"image_url": ADDRESS})}}, ()),
    Shape("a tool call with an address, parsed", "none", {"tool_calls": [{"name": "f", "args": {"image_url": ADDRESS, "photo": "https://e.example/x.png"}}]}, ()),
    Shape("a tool use with an address", "none", {"content": [{"type": "tool_use", "name": "f", "input": {"image_url": ADDRESS}}]}, ()),
    Shape("an artifact with addresses", "none", {"artifact": [{"title": "t", "thumbnail": "https://e.example/t.jpg"}]}, ()),
    Shape("search results", "none", {"role": "tool", "content": json.dumps({"results": [{"title": "t", "thumbnail": "https://e.example/t.jpg", "url": ADDRESS}]})}, ()),
    Shape("a citation", "none", {"annotations": [{"type": "url_citation", "url": "https://e.example/x.png"}]}, ()),
    Shape("drawing code", "none", {"role": "assistant", "content": f"Here:\n```svg\n{SVG.decode()}\n```"}, ()),
    Shape("empty values", "none", {"image_url": None, "b64_json": "", "images": [], "image": {}}, ()),
]  # fmt: skip

SHAPES = [*OPENAI, *ANTHROPIC, *GEMINI, *LANGCHAIN, *OTHERS, *DOCUMENTS, *NOTHING]
