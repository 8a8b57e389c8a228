"""Every shape of the extractor's table is seen in every place of a message that it can stand in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)
from PIL import Image as pil  # noqa: N813 (the module)

from integrations.extract.shapes import ADDRESS, B64, DATA_URI, PNG, SHAPES, Shape
from policyguard.integrations.langchain import GuardRunnable
from policyguard.integrations.screen import ScreenResult

from .carriers import SHAPE_IDS, carriers, lenient_guard


def images_seen(value: Any) -> int:
    results: list[ScreenResult] = []
    GuardRunnable(lenient_guard(), links="block", on_result=results.append).invoke(value)
    return results[0].images_seen


@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_a_shape_is_seen_wherever_a_message_carries_it(shape: Shape) -> None:
    for message in carriers(shape):
        assert len(shape.sites) == images_seen(message), message
    messages = carriers(shape)
    assert len(shape.sites) * len(messages) == images_seen(messages)


HIDDEN = {
    "JSON in a tool's result": ToolMessage(json.dumps({"shots": [{"image": B64}]}), tool_call_id="1"),
    "JSON in JSON in a tool's result": ToolMessage(
        json.dumps({"result": json.dumps({"data": DATA_URI})}), tool_call_id="1"
    ),
    "additional_kwargs": AIMessage("hi", additional_kwargs={"deep": [{"er": {"b64_json": B64}}]}),
    "response_metadata": AIMessage("hi", response_metadata={"output": {"result": B64}}),
    "message.images": AIMessage(
        "hi", additional_kwargs={"images": [{"type": "image_url", "image_url": {"url": DATA_URI}}]}
    ),
    "an artifact of bytes": ToolMessage("hi", artifact=PNG, tool_call_id="1"),
    "an artifact that is a picture": ToolMessage("hi", artifact=pil.new("RGB", (3, 3)), tool_call_id="1"),
    "an artifact in a list": ToolMessage("hi", artifact=[{"plot": PNG}], tool_call_id="1"),
    "a v0 block": HumanMessage(
        [{"type": "image", "source_type": "base64", "data": B64, "mime_type": "image/png"}]
    ),
    "a file block": HumanMessage([{"type": "file", "base64": B64, "mime_type": "image/png"}]),
    "a file block that says it is no image": HumanMessage(
        [{"type": "file", "base64": B64, "mime_type": "application/octet-stream"}]
    ),
    "Markdown with a data URI": HumanMessage(f"see ![it]({DATA_URI})"),
    "Markdown with an address": AIMessage(f"see ![it]({ADDRESS})"),
    "a list of strings": HumanMessage(["see", DATA_URI]),
    "an image block of no source": HumanMessage([{"type": "image"}]),
    "the arguments of a tool call": AIMessage(
        "", tool_calls=[{"name": "f", "args": {"picture": B64}, "id": "1"}]
    ),
    "the broken arguments of a tool call": AIMessage(
        "", invalid_tool_calls=[{"name": "f", "args": f"{{{DATA_URI}", "id": "1", "error": None}]
    ),
    "an artifact beside blocks": ToolMessage(
        [{"type": "text", "text": "hi"}], artifact={"a": B64}, tool_call_id="1"
    ),
    "a message of a role of one's own": ChatMessage(f"{DATA_URI}", role="critic"),
    "a message of a function": FunctionMessage(DATA_URI, name="f"),
    "a name that is an image": HumanMessage("hi", name=DATA_URI),
    "a removal that carries one": RemoveMessage("1", additional_kwargs={"image": B64}),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_an_image_is_found_in(place: str) -> None:
    assert 1 == images_seen(HIDDEN[place])
    assert 1 == images_seen([HumanMessage("hi"), HIDDEN[place]])
    assert 1 == images_seen({"messages": [HIDDEN[place]]})
