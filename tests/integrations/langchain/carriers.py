"""Messages that carry what stands in the extractor's table of shapes."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from integrations.extract.shapes import SHAPES, Shape
from policyguard import Guard
from policyguard.policy import parse_policy
from policyguard.testing import FakeBackend

SHAPE_IDS = [f"{shape.provider}-{shape.name}" for shape in SHAPES]


class Own(HumanMessage):
    """A message of an app's own class."""

    note: Any = None


def carriers(shape: Shape) -> list[BaseMessage]:
    """Messages with ``shape``'s payload in every place that takes one of its kind."""
    payload = shape.payload
    content = payload if isinstance(payload, str) or _blocks(payload) else None
    if isinstance(payload, dict) and "messages" in payload and _blocks(payload["messages"][0].get("content")):
        content = payload["messages"][0]["content"]
    found: list[BaseMessage] = []
    if content is not None:
        kinds = (HumanMessage, SystemMessage, AIMessage, Own)
        found += [kind(content) for kind in kinds]
        found += [ToolMessage(content, tool_call_id="call-1", name="f")]
    beside: dict[str, Any] = {"x": payload}
    found += [HumanMessage("hi", additional_kwargs=beside), AIMessage("hi", response_metadata=beside)]
    found += [Own("hi", note=payload), HumanMessage("hi", y=payload)]
    return found


def lenient_guard() -> Guard:
    """Lets everything pass, so that all that is counted is what is seen."""
    policy = {
        "id": "tests/lenient",
        "version": "1.0.0",
        "title": "Lenient",
        "outcomes": {"unscannable": "flag"},
        "rules": [{"id": "x", "title": "X", "unsafe": ["x"]}],
    }
    return Guard(parse_policy(policy), backend=FakeBackend(0.0))


def _blocks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict | str) for item in value)
