# ruff: noqa: E501 (a table: one case per line)
"""Images written out in requests and answers, in the shapes of the SDKs and servers that people call.

``<b64>``, ``<uri>`` and their like stand for the image. ``body`` puts one in.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from integrations.http.harmless import CHAT, GEMINI, MESSAGES, RESPONSES

IMAGES, EDITS, FILES, OTHER = "/v1/images/generations", "/v1/images/edits", "/v1/files", "/v1/x"
PREDICT, CONVERSE, INVOKE = "/v1/models/m:predict", "/model/m/converse", "/model/m/invoke"


def filled(value: Any, image: bytes, kind: str = "image/png") -> Any:
    """``value`` with ``image`` in its places."""
    code = base64.b64encode(image).decode()
    forms = {
        "<b64>": code,
        "<uri>": f"data:{kind};base64,{code}",
        "<URI>": f"DATA:{kind.upper()};BASE64,{code}",
        "<quoted uri>": f"data:{kind};base64,{quote(code, safe='')}",
        "<urlsafe>": base64.urlsafe_b64encode(image).decode().rstrip("="),
        "<wrapped>": base64.encodebytes(image).decode(),
    }
    if isinstance(value, str):
        if value == "<ints>":
            return list(image)
        for sign, form in forms.items():
            value = value.replace(sign, form)
        return value
    if isinstance(value, dict):
        return {key: filled(child, image, kind) for key, child in value.items()}
    if isinstance(value, list):
        return [filled(child, image, kind) for child in value]
    if isinstance(value, Quoted):
        return json.dumps(filled(value.value, image, kind))
    return value


@dataclass(frozen=True)
class Quoted:
    """JSON in a string."""

    value: Any


@dataclass(frozen=True)
class Inline:
    name: str
    path: str
    value: Any

    def body(self, image: bytes) -> tuple[bytes, str]:
        """The body with ``image`` in it, and its media type."""
        return json.dumps(filled(self.value, image)).encode(), "application/json"


@dataclass(frozen=True)
class Encoded(Inline):
    """The same in another encoding than plain JSON."""

    how: str = ""

    def body(self, image: bytes) -> tuple[bytes, str]:
        if self.how == "raw":
            return image, str(self.value)
        text = json.dumps(filled(self.value, image))
        if self.how == "form":
            return urlencode(filled(self.value, image)).encode(), "application/x-www-form-urlencoded"
        if self.how == "lines":
            return f'{{"a": 1}}\n{text}\n'.encode(), "application/jsonl"
        if self.how == "escaped":
            return text.replace("/", "\\/").replace("data:", "\\u0064ata:").encode(), "application/json"
        if self.how in ("utf-16", "utf-8-sig"):
            return text.encode(self.how), "application/json"
        if self.how == "text":
            return str(filled(self.value, image)).encode(), "text/plain"
        return self._multipart(image)

    def _multipart(self, image: bytes) -> tuple[bytes, str]:
        parts = b""
        for name, content in self.value.items():
            head = f'Content-Disposition: form-data; name="{name}"'
            if content == "<file>":
                head += '; filename="a.png"\r\nContent-Type: image/png'
            elif content == "<unnamed file>":
                head += '; filename="blob"\r\nContent-Type: application/octet-stream'
            is_file = content in ("<file>", "<unnamed file>")
            data = image if is_file else str(filled(content, image)).encode()
            parts += f"--zz\r\n{head}\r\n\r\n".encode() + data + b"\r\n"
        return parts + b"--zz--\r\n", f"multipart/{self.how}; boundary=zz"


def user(*parts: Any, **more: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, *parts]}],
        **more,
    }


def given(*items: Any) -> dict[str, Any]:
    return {"model": "m", "input": [{"role": "user", "content": list(items)}]}


SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "<b64>"}}
PART = {"inlineData": {"mimeType": "image/png", "data": "<b64>"}}
URL = {"type": "image_url", "image_url": {"url": "<uri>"}}
INPUT = {"type": "input_image", "image_url": "<uri>"}

INLINE: list[Inline] = [
    # OpenAI and what speaks like it
    Inline("chat", CHAT, user(URL)),
    Inline("chat, address as a string", CHAT, user({"type": "image_url", "image_url": "<uri>"})),
    Inline("chat, system message", CHAT, {"messages": [{"role": "system", "content": [URL]}]}),
    Inline("chat, developer message", CHAT, {"messages": [{"role": "developer", "content": [URL]}]}),
    Inline("chat, tool message", CHAT, {"messages": [{"role": "tool", "tool_call_id": "c", "content": [URL]}]}),
    Inline("chat, tool message of JSON", CHAT, {"messages": [{"role": "tool", "tool_call_id": "c", "content": Quoted({"screenshot": "<b64>"})}]}),
    Inline("chat, tool message that is base64", CHAT, {"messages": [{"role": "tool", "tool_call_id": "c", "content": "<b64>"}]}),
    Inline("chat, words with a data URI", CHAT, {"messages": [{"role": "user", "content": "look: <uri> !"}]}),
    Inline("chat, Markdown", CHAT, {"messages": [{"role": "user", "content": "![a](<uri>)"}]}),
    Inline("chat, HTML", CHAT, {"messages": [{"role": "user", "content": "<p><img alt='a' src=\"<uri>\"></p>"}]}),
    Inline("chat, style sheet", CHAT, {"messages": [{"role": "user", "content": "a { background: url(<uri>) }"}]}),
    Inline("chat, file", CHAT, user({"type": "file", "file": {"filename": "a.png", "file_data": "<uri>"}})),
    Inline("chat, file called a document", CHAT, user({"type": "file", "file": {"filename": "a.pdf", "file_data": "<uri>"}})),
    Inline("chat, arguments of a tool call", CHAT, {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": Quoted({"image": "<uri>"})}}]}]}),
    Inline("chat, prediction", CHAT, user(prediction={"type": "content", "content": [URL]})),
    Inline("chat, answer of parts", CHAT, {"choices": [{"message": {"role": "assistant", "content": [{"type": "text", "text": "a"}, URL]}}]}),
    Inline("chat, images of an answer", CHAT, {"choices": [{"message": {"role": "assistant", "content": "", "images": [{**URL, "index": 0}]}}]}),
    Inline("chat, images of a delta", CHAT, {"choices": [{"delta": {"images": [URL]}}]}),
    Inline("chat, reasoning details", CHAT, {"choices": [{"message": {"reasoning_details": [{"type": "reasoning.image", "data": "<b64>"}]}}]}),
    Inline("completion with an image in words", "/v1/completions", {"prompt": "USER: <img src='<uri>'> what?"}),
    Inline("moderation", "/v1/moderations", {"input": [URL]}),
    Inline("embeddings of images", "/v1/embeddings", {"input": [{"type": "image_url", "image_url": {"url": "<uri>"}}]}),
    Inline("Responses, message", RESPONSES, given(INPUT)),
    Inline("Responses, output of a function", RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": [INPUT]}]}),
    Inline("Responses, output of a function as JSON", RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": Quoted([INPUT])}]}),
    Inline("Responses, output of a custom tool", RESPONSES, {"input": [{"type": "custom_tool_call_output", "call_id": "c", "output": "<uri>"}]}),
    Inline("Responses, screenshot", RESPONSES, {"input": [{"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "<uri>"}}]}),
    Inline("Responses, output of a shell", RESPONSES, {"input": [{"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "<b64>", "stderr": ""}]}]}),
    Inline("Responses, output of an MCP tool", RESPONSES, {"output": [{"type": "mcp_call", "name": "f", "output": Quoted([{"type": "image", "data": "<b64>", "mimeType": "image/png"}])}]}),
    Inline("Responses, variable of a prompt", RESPONSES, {"prompt": {"id": "p", "variables": {"photo": INPUT}}}),
    Inline("Responses, mask of the image tool", RESPONSES, {"tools": [{"type": "image_generation", "input_image_mask": {"image_url": "<uri>"}}]}),
    Inline("Responses, generated image", RESPONSES, {"output": [{"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "<b64>"}]}),
    Inline("Responses, generated image in the history", RESPONSES, {"input": [{"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "<b64>"}]}),
    Inline("Responses, image file", RESPONSES, given({"type": "input_file", "filename": "a.png", "file_data": "<uri>"})),
    Inline("Responses, image of the code interpreter", RESPONSES, {"output": [{"type": "code_interpreter_call", "outputs": [{"type": "image", "url": "<uri>"}]}]}),
    Inline("Responses, item of a conversation", "/v1/conversations/c/items", {"items": [{"type": "message", "role": "user", "content": [INPUT]}]}),
    Inline("event of a partial image", IMAGES, {"type": "image_generation.partial_image", "b64_json": "<b64>", "partial_image_index": 0}),
    Inline("event of a partial image of Responses", RESPONSES, {"type": "response.image_generation_call.partial_image", "item_id": "ig_1", "partial_image_b64": "<b64>"}),
    Inline("event of a whole item", RESPONSES, {"type": "response.output_item.done", "item": {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "<b64>"}}),
    Inline("images, answer", IMAGES, {"created": 1, "data": [{"b64_json": "<b64>", "revised_prompt": "a"}]}),
    Inline("images, answer with a data URI", IMAGES, {"created": 1, "data": [{"url": "<uri>"}]}),
    Inline("images, edit", EDITS, {"prompt": "p", "images": [{"image_url": "<uri>"}]}),
    Inline("images, mask of an edit", EDITS, {"prompt": "p", "mask": {"image_url": "<uri>"}}),
    Inline("batch of requests", "/v1/batches", {"requests": [{"custom_id": "a", "body": user(URL)}]}),
    Inline("evaluation data", "/v1/evals/e/runs", {"data_source": {"type": "completions", "source": {"type": "file_content", "content": [{"item": {"image": "<uri>"}}]}}}),
    Inline("realtime item over HTTP", "/v1/realtime/x", {"item": {"type": "message", "role": "user", "content": [INPUT]}}),
    Inline("xAI image edit", EDITS, {"image": {"url": "<uri>", "type": "image_url"}, "prompt": "p"}),
    # Anthropic
    Inline("Anthropic, image", MESSAGES, user(SOURCE)),
    Inline("Anthropic, cached image", MESSAGES, user({**SOURCE, "cache_control": {"type": "ephemeral"}})),
    Inline("Anthropic, tool result", MESSAGES, user({"type": "tool_result", "tool_use_id": "t", "content": [SOURCE]})),
    Inline("Anthropic, tool result of words", MESSAGES, user({"type": "tool_result", "tool_use_id": "t", "content": "saved: <uri>"})),
    Inline("Anthropic, MCP tool result", MESSAGES, user({"type": "mcp_tool_result", "tool_use_id": "t", "content": [SOURCE]})),
    Inline("Anthropic, document of blocks", MESSAGES, user({"type": "document", "source": {"type": "content", "content": [SOURCE]}})),
    Inline("Anthropic, image called a document", MESSAGES, user({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "<b64>"}})),
    Inline("Anthropic, system", MESSAGES, {"system": [{"type": "text", "text": "<uri>"}], "messages": []}),
    Inline("Anthropic, batch", "/v1/messages/batches", {"requests": [{"custom_id": "a", "params": user(SOURCE)}]}),
    Inline("Anthropic, tokens counted", "/v1/messages/count_tokens", user(SOURCE)),
    Inline("Anthropic, input of a tool", MESSAGES, {"content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"photo": "<b64>"}}]}),
    Inline("Anthropic, output of code", MESSAGES, {"content": [{"type": "code_execution_tool_result", "content": {"type": "code_execution_result", "stdout": "<uri>"}}]}),
    # Google
    Inline("Gemini, inlineData", GEMINI, {"contents": [{"parts": [{"text": "t"}, PART]}]}),
    Inline("Gemini, inline_data", GEMINI, {"contents": [{"parts": [{"inline_data": {"mime_type": "image/png", "data": "<b64>"}}]}]}),
    Inline("Gemini, URL-safe", GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "<urlsafe>"}}]}]}),
    Inline("Gemini, declared as a document", GEMINI, {"contents": [{"parts": [{"inlineData": {"mimeType": "application/pdf", "data": "<b64>"}}]}]}),
    Inline("Gemini, system instruction", GEMINI, {"systemInstruction": {"parts": [PART]}, "contents": []}),
    Inline("Gemini, parts of a function's answer", GEMINI, {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {}, "parts": [PART]}}]}]}),
    Inline("Gemini, a function's answer", GEMINI, {"contents": [{"parts": [{"functionResponse": {"name": "f", "response": {"output": "<b64>"}}}]}]}),
    Inline("Gemini, arguments of a function", GEMINI, {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"image": "<uri>"}}}]}}]}),
    Inline("Gemini, output of code", GEMINI, {"candidates": [{"content": {"parts": [{"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "<uri>"}}]}}]}),
    Inline("Gemini, answer", GEMINI, {"candidates": [{"content": {"parts": [{"text": "a"}, PART]}, "finishReason": "STOP"}]}),
    Inline("Gemini, cache", "/v1beta/cachedContents", {"contents": [{"parts": [PART]}]}),
    Inline("Gemini, batch", "/v1beta/models/m:batchGenerateContent", {"batch": {"inputConfig": {"requests": {"requests": [{"request": {"contents": [{"parts": [PART]}]}}]}}}}),
    Inline("Gemini, embedding", "/v1beta/models/m:embedContent", {"content": {"parts": [PART]}}),
    Inline("Gemini, interaction", "/v1beta/interactions", {"input": [{"type": "image", "data": "<b64>", "mime_type": "image/png"}]}),
    Inline("Gemini, generated images", PREDICT, {"generatedImages": [{"image": {"imageBytes": "<b64>", "mimeType": "image/png"}}]}),
    Inline("Vertex, predictions", PREDICT, {"predictions": [{"bytesBase64Encoded": "<b64>", "mimeType": "image/png"}]}),
    Inline("Vertex, image to edit", PREDICT, {"instances": [{"prompt": "p", "image": {"bytesBase64Encoded": "<b64>"}}]}),
    Inline("Vertex, reference images", PREDICT, {"instances": [{"prompt": "p", "referenceImages": [{"referenceId": 1, "referenceType": "REFERENCE_TYPE_RAW", "referenceImage": {"bytesBase64Encoded": "<b64>"}}]}]}),
    Inline("Vertex, last frame of a film", PREDICT, {"instances": [{"prompt": "p", "lastFrame": {"bytesBase64Encoded": "<b64>", "mimeType": "image/png"}}]}),
    Inline("Vision, image", "/v1/images:annotate", {"requests": [{"image": {"content": "<b64>"}, "features": [{"type": "LABEL_DETECTION"}]}]}),
    Inline("TensorFlow Serving", PREDICT, {"instances": [{"image_bytes": {"b64": "<b64>"}}]}),
    # AWS, as its JSON goes over the wire
    Inline("Converse", CONVERSE, {"messages": [{"role": "user", "content": [{"image": {"format": "png", "source": {"bytes": "<b64>"}}}]}]}),
    Inline("Converse, tool result", CONVERSE, {"messages": [{"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"image": {"format": "png", "source": {"bytes": "<b64>"}}}]}}]}]}),
    Inline("Converse, JSON of a tool", CONVERSE, {"messages": [{"role": "user", "content": [{"toolResult": {"toolUseId": "t", "content": [{"json": {"shot": "<uri>"}}]}}]}]}),
    Inline("Converse, guarded content", CONVERSE, {"messages": [{"role": "user", "content": [{"guardContent": {"image": {"format": "png", "source": {"bytes": "<b64>"}}}}]}]}),
    Inline("Converse, answer", CONVERSE, {"output": {"message": {"content": [{"image": {"format": "png", "source": {"bytes": "<b64>"}}}]}}}),
    Inline("ApplyGuardrail", "/guardrail/g/version/1/apply", {"source": "INPUT", "content": [{"image": {"format": "png", "source": {"bytes": "<b64>"}}}]}),
    Inline("InvokeModel, Claude", INVOKE, {"anthropic_version": "bedrock-2023-05-31", **user(SOURCE)}),
    Inline("InvokeModel, inpainting", INVOKE, {"taskType": "INPAINTING", "inPaintingParams": {"image": "<b64>", "maskPrompt": "m"}}),
    Inline("InvokeModel, mask", INVOKE, {"taskType": "INPAINTING", "inPaintingParams": {"text": "t", "maskImage": "<b64>"}}),
    Inline("InvokeModel, condition", INVOKE, {"taskType": "TEXT_IMAGE", "textToImageParams": {"text": "t", "conditionImage": "<b64>"}}),
    Inline("InvokeModel, variation", INVOKE, {"taskType": "IMAGE_VARIATION", "imageVariationParams": {"images": ["<b64>"], "text": "t"}}),
    Inline("InvokeModel, embedding", INVOKE, {"inputText": "t", "inputImage": "<b64>"}),
    Inline("InvokeModel, film from an image", INVOKE, {"modelInput": {"textToVideoParams": {"text": "t", "images": [{"format": "png", "source": {"bytes": "<b64>"}}]}}}),
    Inline("InvokeModel, answer", INVOKE, {"images": ["<b64>"]}),
    Inline("InvokeModel, artifacts", INVOKE, {"result": "success", "artifacts": [{"seed": 1, "base64": "<b64>"}]}),
    Inline("Rekognition", "/", {"Image": {"Bytes": "<b64>"}, "MaxLabels": 3}),
    # Mistral, Cohere, Ollama, Replicate, Together, fal
    Inline("Mistral, chat", CHAT, user({"type": "image_url", "image_url": "<uri>"})),
    Inline("Mistral, OCR", "/v1/ocr", {"model": "m", "document": {"type": "image_url", "image_url": "<uri>"}}),
    Inline("Mistral, OCR of a page", "/v1/ocr", {"pages": [{"index": 0, "markdown": "![img-0](img-0)", "images": [{"id": "img-0", "image_base64": "<uri>"}]}]}),
    Inline("Mistral, conversation", "/v1/conversations", {"inputs": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "<uri>"}}]}]}),
    Inline("Cohere, chat", "/v2/chat", user(URL)),
    Inline("Cohere, embed images", "/v2/embed", {"model": "m", "images": ["<uri>"], "input_type": "image"}),
    Inline("Cohere, embed inputs", "/v2/embed", {"model": "m", "inputs": [{"content": [URL]}]}),
    Inline("Cohere, tool results", "/v2/chat", {"messages": [{"role": "tool", "tool_call_id": "c", "content": [{"type": "document", "document": {"data": Quoted({"plot": "<b64>"})}}]}]}),
    Inline("Ollama, generate", "/api/generate", {"model": "m", "prompt": "p", "images": ["<b64>"]}),
    Inline("Ollama, chat", "/api/chat", {"model": "m", "messages": [{"role": "user", "content": "hi", "images": ["<b64>"]}]}),
    Inline("Ollama, answer", "/api/generate", {"model": "m", "done": True, "image": "<b64>"}),
    Inline("Replicate, input", "/v1/predictions", {"version": "v", "input": {"image": "<uri>", "prompt": "p"}}),
    Inline("Replicate, list of inputs", "/v1/predictions", {"version": "v", "input": {"image_input": ["<uri>"]}}),
    Inline("Replicate, input under another name", "/v1/predictions", {"version": "v", "input": {"subject": "<uri>"}}),
    Inline("Replicate, output", "/v1/predictions", {"id": "p", "status": "succeeded", "output": ["<uri>"]}),
    Inline("Together, reference", IMAGES, {"model": "m", "prompt": "p", "image_url": "<uri>"}),
    Inline("Together, reference images", IMAGES, {"model": "m", "prompt": "p", "reference_images": ["<uri>"]}),
    Inline("fal, input", "/fal-ai/x", {"prompt": "p", "image_url": "<uri>"}),
    Inline("fal, inputs", "/fal-ai/x", {"prompt": "p", "image_urls": ["<uri>"]}),
    Inline("fal, mask", "/fal-ai/x", {"prompt": "p", "mask_url": "<uri>"}),
    Inline("fal, frames", "/fal-ai/x", {"prompt": "p", "first_frame_url": "<uri>", "loras": []}),
    Inline("fal, output", "/fal-ai/x", {"images": [{"url": "<uri>", "width": 1, "content_type": "image/png"}], "seed": 1}),
    # other servers
    Inline("Hugging Face, inputs", "/models/m", {"inputs": "<b64>"}),
    Inline("Hugging Face, image and question", "/models/m", {"inputs": {"image": "<b64>", "question": "q"}}),
    Inline("NIM, image in words", CHAT, {"messages": [{"role": "user", "content": 'What? <img src="<uri>" />'}]}),
    Inline("llama.cpp", "/completion", {"prompt": "[img-1]", "image_data": [{"data": "<b64>", "id": 1}]}),
    Inline("KServe", "/v2/models/m/infer", {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["<b64>"]}]}),
    Inline("web UI, init images", "/sdapi/v1/img2img", {"init_images": ["<b64>"], "mask": None}),
    Inline("web UI, ControlNet", "/sdapi/v1/txt2img", {"alwayson_scripts": {"controlnet": {"args": [{"image": "<b64>", "module": "canny"}]}}}),
    Inline("web UI, answer", "/sdapi/v1/txt2img", {"images": ["<b64>"], "info": "{}"}),
    Inline("Stability, answer", "/v2beta/stable-image/generate/core", {"image": "<b64>", "finish_reason": "SUCCESS"}),
    Inline("DashScope, message", "/api/v1/services/x", {"input": {"messages": [{"role": "user", "content": [{"image": "<uri>"}, {"text": "t"}]}]}}),
    Inline("DashScope, base image", "/api/v1/services/x", {"input": {"function": "f", "base_image_url": "<uri>"}}),
    Inline("Runway, prompt image", "/v1/image_to_video", {"promptImage": "<uri>", "model": "m"}),
    Inline("Runway, positions", "/v1/image_to_video", {"promptImage": [{"uri": "<uri>", "position": "first"}]}),
    Inline("BFL, prompt image", "/v1/flux", {"prompt": "p", "input_image": "<b64>"}),
    Inline("BFL, second image", "/v1/flux", {"prompt": "p", "input_image_2": "<b64>"}),
    Inline("Azure, content safety", "/contentsafety/image:analyze", {"image": {"content": "<b64>"}}),
    Inline("Clarifai", "/v2/models/m/outputs", {"inputs": [{"data": {"image": {"base64": "<b64>"}}}]}),
    Inline("MCP, result of a tool", "/mcp", {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "image", "data": "<b64>", "mimeType": "image/png"}]}}),
    Inline("MCP, resource", "/mcp", {"jsonrpc": "2.0", "id": 1, "result": {"contents": [{"uri": "file:///a.png", "mimeType": "image/png", "blob": "<b64>"}]}}),
    Inline("MCP, sampling", "/mcp", {"method": "sampling/createMessage", "params": {"messages": [{"role": "user", "content": {"type": "image", "data": "<b64>", "mimeType": "image/png"}}]}}),
    Inline("A2A, file", "/a2a", {"message": {"parts": [{"kind": "file", "file": {"name": "a", "mimeType": "image/png", "bytes": "<b64>"}}]}}),
    Inline("AI SDK, file part", "/api/chat", {"messages": [{"parts": [{"type": "file", "mediaType": "image/png", "url": "<uri>"}]}]}),
    Inline("LangChain, v1 block", "/invoke", {"input": {"messages": [{"type": "human", "content": [{"type": "image", "base64": "<b64>", "mime_type": "image/png"}]}]}}),
    Inline("LangChain, v0 block", "/invoke", {"input": [{"type": "human", "content": [{"type": "image", "source_type": "base64", "data": "<b64>", "mime_type": "image/png"}]}]}),
    Inline("LangChain, serialised", "/invoke", {"lc": 1, "type": "constructor", "id": ["HumanMessage"], "kwargs": {"content": [URL]}}),
    Inline("LangGraph, artifact", "/runs/stream", {"values": {"messages": [{"type": "tool", "content": "ok", "artifact": {"png": "<b64>"}}]}}),
    Inline("LlamaIndex, block", "/chat", {"blocks": [{"block_type": "image", "image": "<b64>", "image_mimetype": "image/png"}]}),
    Inline("Haystack, content", "/run", {"content": [{"image": {"base64_image": "<b64>", "mime_type": "image/png"}}]}),
    Inline("Pydantic AI, binary", "/run", {"content": [{"data": "<urlsafe>", "media_type": "image/png", "kind": "binary"}]}),
    Inline("notebook, output", OTHER, {"cells": [{"outputs": [{"output_type": "display_data", "data": {"image/png": "<wrapped>", "text/plain": "<Figure>"}}]}]}),
    Inline("a Buffer of Node", OTHER, {"payload": {"type": "Buffer", "data": "<ints>"}}),
    # spellings
    Inline("unheard-of keys", OTHER, {"x": [{"zzz": {"q": "<b64>"}}]}),
    Inline("a list of numbers", OTHER, {"q": "<ints>"}),
    Inline("line-wrapped", OTHER, {"q": "<wrapped>"}),
    Inline("URL-safe, no padding", OTHER, {"q": "<urlsafe>"}),
    Inline("capitals", OTHER, {"q": "see <URI>"}),
    Inline("percent-encoded", OTHER, {"q": "see <quoted uri>"}),
    Inline("JSON in JSON in JSON", OTHER, {"a": Quoted({"b": Quoted({"c": Quoted(["<uri>"])})})}),
    Inline("deep", OTHER, {"a": [[[[[[{"b": [{"c": "<b64>"}]}]]]]]]}),
    Encoded("JSON with escapes", CHAT, user(URL), how="escaped"),
    Encoded("JSON in UTF-16", CHAT, user(URL), how="utf-16"),
    Encoded("JSON with a mark", CHAT, user(URL), how="utf-8-sig"),
    Encoded("JSON lines", FILES, {"body": user(URL)}, how="lines"),
    Encoded("a form", OTHER, {"prompt": "p", "image": "<b64>"}, how="form"),
    Encoded("a form with a data URI", OTHER, {"q": "<uri>"}, how="form"),
    Encoded("a form that holds JSON", OTHER, {"payload": Quoted(user(URL))}, how="form"),
    Encoded("plain words", OTHER, "see <uri>", how="text"),
    Encoded("an image", "/models/m", "image/png", how="raw"),
    Encoded("an image that says nothing", "/models/m", "application/octet-stream", how="raw"),
    Encoded("an image called sound", "/models/m", "audio/wav", how="raw"),
    Encoded("an image called JSON", "/models/m", "application/json", how="raw"),
    Encoded("multipart, edit", EDITS, {"prompt": "p", "image": "<file>"}, how="form-data"),
    Encoded("multipart, several", EDITS, {"prompt": "p", "image[]": "<file>"}, how="form-data"),
    Encoded("multipart, mask", EDITS, {"prompt": "p", "mask": "<unnamed file>"}, how="form-data"),
    Encoded("multipart, upload", FILES, {"purpose": "vision", "file": "<file>"}, how="form-data"),
    Encoded("multipart, base64 in a field", OTHER, {"image": "<b64>"}, how="form-data"),
    Encoded("multipart, JSON in a field", OTHER, {"request": Quoted(user(URL))}, how="form-data"),
    Encoded("multipart, related", "/upload/v1beta/files", {"metadata": Quoted({"file": {"displayName": "a"}}), "file": "<unnamed file>"}, how="related"),
]  # fmt: skip
