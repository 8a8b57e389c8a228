"""One loopback server that speaks the APIs of OpenAI, Anthropic and Gemini.

The prompt says what comes back: "draw red" and "draw green" give a picture, everything else words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from integrations.http.pictures import GREEN, RED, b64, picture
from integrations.http.upstream import Answer, Asked, json_answer

WORDS = "A picture of nothing in particular. Grüße!"


def respond(asked: Asked) -> Answer:
    path = asked.path.split("?")[0]
    told = asked.body.decode("latin-1")
    drawn = next(
        (colour for word, colour in (("draw red", RED), ("draw green", GREEN)) if word in told), None
    )
    body = asked.json if asked.body.startswith(b"{") else {}
    if path.endswith("/files"):
        return json_answer(
            {
                "id": "file-abc123",
                "object": "file",
                "bytes": 1,
                "created_at": 1,
                "filename": "a.png",
                "purpose": "vision",
                "status": "processed",
            }
        )
    if path.endswith("/chat/completions"):
        return _chat(body, drawn)
    if path.endswith("/responses"):
        return _responses(body, drawn)
    if "/images/" in path:
        return _images(body, drawn)
    if path.endswith("/messages"):
        return _messages(body, drawn)
    if "GenerateContent" in path or "generateContent" in path:
        return _gemini(path, drawn)
    return json_answer({"error": {"message": f"no {path} here"}}, status=404)


def _events(events: list[dict[str, Any]], *, named: bool = False, done: bool = True) -> Answer:
    def pieces() -> Iterator[bytes]:
        for event in events:
            name = f"event: {event['type']}\n" if named else ""
            yield f"{name}data: {json.dumps(event)}\n\n".encode()
        if done:
            yield b"data: [DONE]\n\n"

    return Answer(list(pieces()), "text/event-stream")


def _picture(colour: tuple[int, int, int]) -> str:
    return b64(picture(colour))


def _chat(body: Any, drawn: Any) -> Answer:
    base = {"id": "c1", "created": 1, "model": "m"}
    if body.get("stream"):
        deltas: list[Any] = [{"role": "assistant", "content": word + " "} for word in WORDS.split()]
        if drawn:
            deltas.insert(3, {"images": [_image_part(drawn)]})
        made = [
            {
                **base,
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
            }
            for delta in deltas
        ]
        return _events(made)
    message: dict[str, Any] = {"role": "assistant", "content": WORDS}
    if drawn:
        message["images"] = [_image_part(drawn)]
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json_answer({**base, "object": "chat.completion", "choices": [choice], "usage": usage})


def _image_part(colour: Any) -> dict[str, Any]:
    return {
        "type": "image_url",
        "index": 0,
        "image_url": {"url": f"data:image/png;base64,{_picture(colour)}"},
    }


def _responses(body: Any, drawn: Any) -> Answer:
    text = {
        "type": "message",
        "id": "m1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": WORDS, "annotations": []}],
    }
    output: list[Any] = [text]
    if drawn:
        output.append(
            {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": _picture(drawn)}
        )
    whole = {
        "id": "r1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "status": "completed",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    if not body.get("stream"):
        return json_answer(whole)
    events: list[Any] = [
        {
            "type": "response.output_text.delta",
            "sequence_number": 1,
            "item_id": "m1",
            "output_index": 0,
            "content_index": 0,
            "delta": "A picture",
            "logprobs": [],
        }
    ]
    if drawn:
        events.append(
            {
                "type": "response.image_generation_call.partial_image",
                "sequence_number": 2,
                "item_id": "ig_1",
                "output_index": 1,
                "partial_image_index": 0,
                "partial_image_b64": _picture(drawn),
            }
        )
    events.append({"type": "response.completed", "sequence_number": 3, "response": whole})
    return _events(events, named=True, done=False)


def _images(body: Any, drawn: Any) -> Answer:
    code = _picture(drawn or GREEN)
    if body.get("stream"):
        return _events(
            [
                {
                    "type": "image_generation.partial_image",
                    "b64_json": _picture(GREEN),
                    "created_at": 1,
                    "size": "auto",
                    "quality": "low",
                    "background": "auto",
                    "output_format": "png",
                    "partial_image_index": 0,
                },
                {
                    "type": "image_generation.completed",
                    "b64_json": code,
                    "created_at": 1,
                    "size": "auto",
                    "quality": "low",
                    "background": "auto",
                    "output_format": "png",
                },
            ],
            named=True,
            done=False,
        )
    return json_answer({"created": 1, "data": [{"b64_json": code}], "output_format": "png"})


def _messages(body: Any, drawn: Any) -> Answer:
    content: list[Any] = [{"type": "text", "text": WORDS}]
    if drawn:
        content[0]["text"] += f" ![x](data:image/png;base64,{_picture(drawn)})"
    whole = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": content,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    if not body.get("stream"):
        return json_answer(whole)
    events: list[Any] = [{"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}}]
    events.append({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    said = content[0]["text"]
    for at in range(0, len(said), 9):
        delta = {"type": "text_delta", "text": said[at : at + 9]}
        events.append({"type": "content_block_delta", "index": 0, "delta": delta})
    events.append({"type": "content_block_stop", "index": 0})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 1},
        }
    )
    events.append({"type": "message_stop"})
    return _events(events, named=True, done=False)


def _gemini(path: str, drawn: Any) -> Answer:
    def part(content: dict[str, Any]) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [content]}, "index": 0}]}

    text = part({"text": WORDS})
    image = part({"inlineData": {"mimeType": "image/png", "data": _picture(drawn)}}) if drawn else None
    if "streamGenerateContent" in path:
        return _events([text, *([image] if image else []), text], done=False)
    return json_answer(image or text)
