"""Every shape of the extractor's table is seen by ``GuardMiddleware``, in every place of a message."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("langchain.agents")

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.tools import tool

from integrations.extract.shapes import SHAPES, Shape
from integrations.langchain.carriers import SHAPE_IDS, carriers, lenient_guard
from integrations.langchain.test_message_shapes import HIDDEN
from policyguard.integrations.langchain import GuardMiddleware
from sdk.agents import Scripted, call, human

pytestmark = pytest.mark.sdk


def images_seen(messages: list[BaseMessage], *answers: AIMessage, tools: Any = ()) -> dict[str, int]:
    seen: dict[str, int] = {}

    def told(stage: str, result: Any) -> None:
        seen[stage] = max(seen.get(stage, 0), result.images_seen)

    model = Scripted(answers=[*answers, AIMessage("done")])
    guard = GuardMiddleware(lenient_guard(), links="block", on_result=told)  # links are counted, too
    agent = create_agent(model, list(tools), middleware=[guard])
    agent.invoke({"messages": messages})
    return seen


@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_a_shape_is_seen_in_the_history(shape: Shape) -> None:
    messages = carriers(shape)
    assert len(shape.sites) * len(messages) == images_seen(messages)["input"]


@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
def test_a_shape_is_seen_in_an_answer(shape: Shape) -> None:
    for message in carriers(shape):
        if isinstance(message, AIMessage):
            assert len(shape.sites) == images_seen([human()], message)["output"]


@pytest.mark.parametrize("place", [place for place in HIDDEN if not isinstance(HIDDEN[place], RemoveMessage)])
def test_an_image_is_found_in(place: str) -> None:
    assert 1 == images_seen([HumanMessage("hi"), HIDDEN[place]])["input"]


@pytest.mark.parametrize("place", [place for place in HIDDEN if isinstance(HIDDEN[place], ToolMessage)])
def test_an_image_is_found_in_what_a_tool_returns(place: str) -> None:
    @tool
    def draw() -> Any:
        """Draw."""
        return HIDDEN[place].model_copy(update={"tool_call_id": "call-1"})

    assert 1 == images_seen([human()], call("draw"), tools=(draw,))["tool_result"]
