"""An agent with ``GuardMiddleware``: a real loop of LangChain, with a model that follows a script."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

pytest.importorskip("langchain.agents")

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelResponse,
    ModelRetryMiddleware,
    ToolRetryMiddleware,
)
from langchain_core.messages import AIMessage, AIMessageChunk, RemoveMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from integrations.http.pictures import BLUE, GREEN, RED, b64, colour_guard, picture
from policyguard import ConfigurationError, Guard, PolicyViolation
from policyguard.assessment import Failure, FailureKind
from policyguard.images.fetch import Fetched
from policyguard.integrations.langchain import GuardMiddleware
from policyguard.integrations.screen.altered import altered
from policyguard.testing import FakeBackend
from sdk.agents import WAYS, Scripted, block, call, human, invoke, streamed, uri

pytestmark = pytest.mark.sdk

ways = pytest.mark.parametrize("way", WAYS)
RED64 = b64(picture(RED))
CYAN = (10, 200, 220)


@tool
def draw(colour: str) -> list[dict[str, Any]]:
    """Draw."""
    return [{"type": "text", "text": "here"}, block({"red": RED, "green": GREEN}[colour])]


@tool(response_format="content_and_artifact")
def plot(colour: str) -> tuple[str, Any]:
    """Plot."""
    return "see the artifact", {"png": picture({"red": RED, "green": GREEN}[colour])}


@tool(return_direct=True)
def show(colour: str) -> str:
    """Show."""
    return f"![it]({uri({'red': RED, 'green': GREEN}[colour])})"


def agent_of(
    *answers: Any, tools: tuple[Any, ...] = (draw, plot, show), guard: Guard | None = None, **options: Any
) -> Any:
    """An agent, its model, and what its middleware told."""
    model, told = Scripted(answers=list(answers)), list[tuple[str, Any]]()
    more = options.pop("more", [])
    rest = {
        key: options.pop(key)
        for key in ("system_prompt", "checkpointer", "response_format")
        if key in options
    }
    middleware = GuardMiddleware(
        guard or colour_guard()[0], on_result=lambda stage, result: told.append((stage, result)), **options
    )
    return create_agent(model, list(tools), middleware=[*more, middleware], **rest), model, told


def seen(told: list[tuple[str, Any]], stage: str) -> int:
    return max((result.images_seen for at, result in told if at == stage), default=0)


@ways
def test_an_image_that_is_blocked_never_reaches_the_model(way: str) -> None:
    agent, model, told = agent_of(AIMessage("hello"))
    with pytest.raises(PolicyViolation) as caught:
        invoke(agent, [human(block(GREEN), block(RED))], way)
    assert isinstance(caught.value, PolicyViolation)
    assert caught.value.verdict.source == "/0/content/2/base64"
    assert 0 == model.calls
    assert ("input", 2) == (told[-1][0], told[-1][1].images_seen)


@ways
def test_an_image_that_is_generated_and_blocked_costs_one_call(way: str) -> None:
    agent, model, _ = agent_of(AIMessage([{"type": "text", "text": "here"}, block(RED)]), AIMessage("again"))
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], way)
    assert 1 == model.calls


@ways
@pytest.mark.parametrize("name", ["draw", "plot", "show"])
def test_what_a_tool_returns_is_judged_before_anything_sees_it(way: str, name: str) -> None:
    agent, model, _ = agent_of(call(name, colour="red"), AIMessage("done"))
    with pytest.raises(PolicyViolation) as caught:
        invoke(agent, [human()], way)
    assert isinstance(caught.value, PolicyViolation)
    assert 1 == model.calls


@ways
def test_allowed_images_pass_unchanged_and_each_is_judged_once(way: str) -> None:
    guard, backend = colour_guard()
    answers = [call(colour="green"), call("plot", 2, colour="green"), AIMessage(["see", block(CYAN)])]
    agent, model, told = agent_of(*answers, guard=guard)
    state = invoke(agent, [human(block(GREEN), block(BLUE))], way)
    assert 3 == model.calls
    assert 3 == len(backend.requests)  # green, blue, cyan
    assert (4, 1, 1) == (seen(told, "input"), seen(told, "output"), seen(told, "tool_result"))
    assert block(CYAN) == state["messages"][-1].content[1]
    assert human(block(GREEN), block(BLUE)).content == state["messages"][0].content
    noted = state["policyguard"]["GuardMiddleware[tests/colours]"]
    assert (4, 4, "allow") == tuple(
        noted["input"][key] for key in ("images_seen", "images_checked", "action")
    )
    assert 1 == noted["output"]["images_checked"]
    if "invoke" in way:  # a stream of values shows every channel
        assert "policyguard_memo" not in state


@ways
def test_a_guard_that_is_down_blocks_and_is_asked_once(way: str) -> None:
    backend = FakeBackend(Failure(FailureKind.ERROR, "down"))
    guard = Guard(policy="safeedit/l3", backend=backend)
    agent, model, _ = agent_of(AIMessage("hello"), guard=guard)
    with pytest.raises(PolicyViolation, match="down"):
        invoke(agent, [human(block(GREEN))], way)
    assert (0, 1) == (model.calls, backend.calls)


def test_an_outage_that_a_policy_lets_pass_is_met_once_in_a_run() -> None:
    guard, backend = colour_guard(outcomes={"error": "flag"})
    backend.answer = Failure(FailureKind.ERROR, "down")
    checkpoints = InMemorySaver()
    answers = [call(colour="green", number=n) for n in range(1, 4)] + [AIMessage("done"), AIMessage("again")]
    agent, model, told = agent_of(*answers, guard=guard, checkpointer=checkpoints)
    config = {"configurable": {"thread_id": "1"}}
    invoke(agent, [human(block(GREEN))], "invoke", config)
    assert (4, 1) == (model.calls, backend.calls)
    assert 4 == seen(told, "input")
    assert all(item.verdict.degraded for _, result in told for item in result.items)
    invoke(agent, [human()], "invoke", config)  # the same thread, a new run: it may be up again
    assert (5, 2) == (model.calls, backend.calls)


def test_a_thread_does_not_ask_again_about_what_was_allowed() -> None:
    guard, backend = colour_guard()
    said = [AIMessage(str(n)) for n in range(4)]
    agent, model, told = agent_of(*said, guard=guard, exit_behavior="end", checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    for number in range(3):
        invoke(agent, [human(block(GREEN, number))], "invoke", config)
    assert (3, 3) == (len(backend.requests), model.calls)
    assert 3 == told[-2][1].images_checked  # each is in every result all the same
    invoke(agent, [human(block(RED))], "invoke", config)
    invoke(agent, [human()], "invoke", config)  # what was blocked is asked about again
    assert (5, 3) == (len(backend.requests), model.calls)


def test_the_memo_does_not_leak_between_threads() -> None:
    guard, backend = colour_guard()
    agent, _, _ = agent_of(AIMessage("1"), AIMessage("2"), guard=guard, checkpointer=InMemorySaver())
    for thread in ("1", "2"):
        invoke(agent, [human(block(GREEN))], "invoke", {"configurable": {"thread_id": thread}})
    assert 2 == backend.calls


def test_a_run_that_is_taken_up_in_another_process_does_not_ask_again() -> None:
    guard, backend = colour_guard()
    config = {"configurable": {"thread_id": "1"}}
    checkpoints = InMemorySaver()

    def built(*answers: Any) -> tuple[Any, Scripted]:
        model = Scripted(answers=list(answers))
        agent = create_agent(
            model,
            [draw],
            middleware=[GuardMiddleware(guard)],
            checkpointer=checkpoints,
            interrupt_before=["tools"],
        )
        return agent, model

    first, _ = built(call(colour="green"))
    first.invoke({"messages": [human(block(BLUE))]}, config)
    assert 1 == backend.calls
    second, model = built(AIMessage("done"))
    state = second.invoke(None, config)
    assert "done" == state["messages"][-1].content
    assert 1 == model.calls
    assert 2 == len(backend.requests)  # the blue one, and then the green one


@ways
@pytest.mark.parametrize("exit_behavior", ["end", "replace"])
def test_nothing_that_is_blocked_is_left_in_what_goes_on(way: str, exit_behavior: str) -> None:
    answers = [call(colour="red"), call("plot", 2, colour="red"), AIMessage([block(RED)])]
    agent, model, _ = agent_of(*answers, exit_behavior=exit_behavior)
    state = invoke(agent, [human()], way)
    assert RED64 not in str(state["messages"])
    assert picture(RED) not in [getattr(message, "artifact", None) for message in state["messages"]]
    if exit_behavior == "end":
        assert 1 == model.calls
        assert "blocked by PolicyGuard: it breaks the policy (Red)" in state["messages"][-1].content
        assert "block" == state["messages"][-1].response_metadata["policyguard"]["result"]["action"]
    else:
        assert 3 == model.calls
        assert all(RED64 not in str(asked) for asked in model.asked)


@ways
def test_end_ends_before_the_model_is_called(way: str) -> None:
    agent, model, _ = agent_of(AIMessage("hello"), exit_behavior="end", violation_message="No.")
    state = invoke(agent, [human(block(RED))], way)
    assert 0 == model.calls
    assert isinstance(state["messages"][-1], AIMessage)
    assert "No." == state["messages"][-1].content


@ways
def test_end_takes_a_generated_image_out_of_the_answer(way: str) -> None:
    agent, model, _ = agent_of(AIMessage(["here", block(RED)]), exit_behavior="end")
    state = invoke(agent, [human()], way)
    assert 1 == model.calls
    assert RED64 not in str(state)
    assert 2 == len(state["messages"])


@ways
@pytest.mark.parametrize("exit_behavior", ["end", "replace", "watch"])
def test_the_state_tells_of_a_generated_image_that_was_blocked(way: str, exit_behavior: Any) -> None:
    """And of the next answer no more."""
    answers = [AIMessage(["here", block(RED)]), AIMessage("sorry")]
    agent, _, _ = agent_of(*answers, exit_behavior=exit_behavior)
    state = invoke(agent, [human()], way)
    noted = state["policyguard"]["GuardMiddleware[tests/colours]"]["output"]
    assert ("block", 1, 1) == tuple(noted[key] for key in ("action", "images_seen", "images_checked"))
    state = invoke(agent, [human()], way)
    noted = state["policyguard"]["GuardMiddleware[tests/colours]"]["output"]
    assert ("allow", 0) == tuple(noted[key] for key in ("action", "images_seen"))


@ways
def test_replace_goes_on_with_other_pictures(way: str) -> None:
    agent, model, _ = agent_of(AIMessage("fine"), exit_behavior="replace")
    state = invoke(agent, [human(block(RED), block(GREEN))], way)
    (asked,) = model.asked
    assert RED64 not in str(asked)
    assert block(GREEN) == asked[0].content[2]
    assert "image" == asked[0].content[1]["type"]
    assert RED64 not in str(state["messages"])
    assert "fine" == state["messages"][-1].content


@ways
@pytest.mark.parametrize("how", ["placeholder", "blur", "pixelate"])
def test_what_was_put_in_an_image_s_place_is_not_judged_and_replaced_again(way: str, how: str) -> None:
    backend = FakeBackend(0.97)
    guard = Guard(policy="safeedit/l3", backend=backend)
    answers = [
        call(colour="green"),
        AIMessage([{"type": "text", "text": "see"}, block(CYAN)]),
        AIMessage("fine"),
    ]
    options = {"exit_behavior": "replace", "replace_with": how, "checkpointer": InMemorySaver()}
    agent, model, told = agent_of(*answers, guard=guard, **options)
    config = {"configurable": {"thread_id": "1"}}
    invoke(agent, [human(block(BLUE))], way, config)
    state = invoke(agent, [human()], way, config)  # the replacements are in the history now
    assert 3 == len(backend.requests) == len({request.frame.tobytes() for request in backend.requests})
    replaced = altered(picture(BLUE), how).data  # type: ignore[arg-type]
    for asked in model.asked:
        assert human({**block(BLUE), "base64": b64(replaced)}).content == asked[0].content
    assert model.asked[-1] == state["messages"][:-1]
    assert "see" == state["messages"][3].content[0]["text"]
    assert 3 == sum(len(result.blocked) for _, result in told)


def test_only_what_this_run_put_in_an_image_s_place_passes_as_a_replacement() -> None:
    guard, _ = colour_guard()
    agent, model, _ = agent_of(AIMessage("a"), guard=guard, exit_behavior="replace", replace_with="blur")
    invoke(agent, [human(block(RED, 1))], "invoke")
    blurred = model.asked[0][0].content[1]
    other, model, told = agent_of(AIMessage("a"), guard=guard, exit_behavior="replace", replace_with="blur")
    invoke(other, [human(blurred)], "invoke")
    assert 1 == len(told[0][1].items)  # judged as any other picture


def test_an_image_that_other_middleware_adds_is_reported_too() -> None:
    class Edits(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(messages=[*request.messages, human(block(RED))]))

    agent, _, told = agent_of(AIMessage("hello"), more=[Edits()], exit_behavior="end")
    invoke(agent, [human(block(GREEN))], "invoke")
    reported = [[item.verdict.action for item in result.items] for stage, result in told if stage == "input"]
    assert [["allow"], ["block"]] == reported


def test_the_whole_history_is_judged_and_edits_of_it() -> None:
    class Edits(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request.override(messages=[*request.messages, human(block(RED))]))

    agent, model, _ = agent_of(AIMessage("hello"), more=[Edits()])
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], "invoke")
    assert 0 == model.calls
    agent, model, _ = agent_of(AIMessage("hello"))
    with pytest.raises(PolicyViolation):
        invoke(agent, [human(block(RED)), AIMessage("nice"), human()], "invoke")
    assert 0 == model.calls


def test_what_is_put_into_the_history_after_this_middleware_looked_is_judged() -> None:
    class Remembers(AgentMiddleware):
        def before_model(self, state: Any, runtime: Any) -> Any:
            return {"messages": [human(block(RED))]}

    model = Scripted(answers=[AIMessage("hello")])
    agent = create_agent(model, middleware=[GuardMiddleware(colour_guard()[0]), Remembers()])
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], "invoke")
    assert 0 == model.calls


def test_a_thread_goes_on_where_the_blocked_message_is_removed() -> None:
    agent, model, _ = agent_of(AIMessage("hello"), exit_behavior="end", checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    state = invoke(agent, [human(block(RED))], "invoke", config)
    state = invoke(agent, [human()], "invoke", config)
    assert 0 == model.calls  # it is still in the history
    state = invoke(agent, [RemoveMessage(state["messages"][0].id), human()], "invoke", config)
    assert "hello" == state["messages"][-1].content
    assert 1 == model.calls


def test_a_thread_goes_on_where_the_blocked_message_and_the_notice_are_removed() -> None:
    agent, model, _ = agent_of(AIMessage("hello"), exit_behavior="end", checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    invoke(agent, [human(block(RED))], "invoke", config)
    *_, asked, refused = agent.get_state(config).values["messages"]  # as docs/langchain.md shows
    agent.update_state(config, {"messages": [RemoveMessage(asked.id), RemoveMessage(refused.id)]})
    state = invoke(agent, [human()], "invoke", config)
    assert ["hi", "hello"] == [message.text for message in state["messages"]]
    assert 1 == model.calls


def test_the_system_message_is_judged() -> None:
    agent, model, _ = agent_of(AIMessage("hello"), system_prompt=SystemMessage([block(RED)]))
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], "invoke")
    agent, model, _ = agent_of(
        AIMessage("hello"), system_prompt=SystemMessage([block(RED)]), exit_behavior="replace"
    )
    invoke(agent, [human()], "invoke")
    assert isinstance(model.asked[0][0], SystemMessage)
    assert RED64 not in str(model.asked)


def test_an_answer_that_another_middleware_changes_is_judged_again() -> None:
    class Draws(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            handler(request)
            return AIMessage([block(RED)])

    for exit_behavior in ("end", "replace"):
        agent, _, _ = agent_of(AIMessage("hello"), more=[Draws()], exit_behavior=exit_behavior)
        assert RED64 not in str(invoke(agent, [human()], "invoke")["messages"])
    agent, _, _ = agent_of(AIMessage("hello"), more=[Draws()])
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], "invoke")


def test_a_command_that_a_tool_returns_is_judged() -> None:
    @tool
    def remember(colour: str) -> Command:
        """Remember."""
        message = ToolMessage([block({"red": RED, "green": GREEN}[colour])], tool_call_id="call-1")
        return Command(update={"messages": [message]})

    agent, model, _ = agent_of(call("remember", colour="red"), AIMessage("done"), tools=(remember,))
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], "invoke")
    for exit_behavior, calls in (("end", 1), ("replace", 2)):
        agent, model, _ = agent_of(
            call("remember", colour="red"), AIMessage("done"), tools=(remember,), exit_behavior=exit_behavior
        )
        assert RED64 not in str(invoke(agent, [human()], "invoke")["messages"])
        assert calls == model.calls
    agent, model, told = agent_of(call("remember", colour="green"), AIMessage("done"), tools=(remember,))
    assert "done" == invoke(agent, [human()], "invoke")["messages"][-1].content
    assert 1 == seen(told, "tool_result")


PIECES = [
    AIMessageChunk([{"type": "text", "text": "A pic", "index": 0}], id="m"),
    AIMessageChunk([{"type": "text", "text": "ture: ", "index": 0}], id="m"),
    AIMessageChunk([{"type": "image", "base64": RED64[:40], "mime_type": "image/png", "index": 1}], id="m"),
    AIMessageChunk([{"type": "image", "base64": RED64[40:], "index": 1}], id="m"),
    AIMessageChunk([{"type": "text", "text": "There.", "index": 2}], id="m"),
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("exit_behavior", ["error", "end", "replace"])
@pytest.mark.parametrize("answer", [PIECES, AIMessage(["A picture: ", block(RED)])], ids=["pieces", "whole"])
def test_readers_of_a_stream_never_see_a_generated_image_that_is_blocked(
    asynchronous: bool, exit_behavior: str, answer: Any
) -> None:
    agent, model, _ = agent_of(answer, exit_behavior=exit_behavior)
    items: list[Any] = []
    try:
        streamed(agent, [human()], asynchronous=asynchronous, seen=items)
    except PolicyViolation:
        assert exit_behavior == "error"
    assert 1 == model.calls
    assert RED64[40:] not in repr(items)
    assert RED64[:40] not in repr(items) or exit_behavior == "replace"
    if answer is PIECES:
        assert "A pic" in repr(items)  # the text came at once
    if exit_behavior == "replace":
        told = [item[0].content for mode, item in items if mode == "messages"]
        assert any("'type': 'image'" in str(content) for content in told)
    if exit_behavior == "end":
        assert "blocked by PolicyGuard" in str(
            [item[0].content for mode, item in items if mode == "messages"]
        )


@pytest.mark.parametrize("asynchronous", [False, True])
def test_readers_of_a_stream_see_all_pieces_of_an_allowed_image_in_order(asynchronous: bool) -> None:
    green = b64(picture(GREEN))
    pieces = [piece.model_copy(deep=True) for piece in PIECES]
    pieces[2].content[0]["base64"], pieces[3].content[0]["base64"] = green[:40], green[40:]  # type: ignore[index]
    agent, _, _ = agent_of(pieces)
    items: list[Any] = []
    streamed(agent, [human()], asynchronous=asynchronous, seen=items)
    told = [item[0] for mode, item in items if mode == "messages" and isinstance(item[0], AIMessageChunk)]
    told = [chunk for chunk in told if chunk.content]
    assert [piece.content for piece in pieces] == [chunk.content for chunk in told]


def test_events_of_an_agent_hold_no_generated_image_that_is_blocked() -> None:
    events: list[str] = []

    async def read() -> None:
        agent, _, _ = agent_of(PIECES)
        async for event in agent.astream_events({"messages": [human()]}, version="v2"):
            events.append(repr(event))  # noqa: PERF401 (what came before an error counts)

    with pytest.raises(PolicyViolation):
        asyncio.run(read())
    told = "".join(events)
    assert "A pic" in told
    assert RED64[40:] not in told


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("disable_streaming", [False, True])
@pytest.mark.parametrize("answer", [PIECES, AIMessage(["A picture: ", block(RED)])], ids=["pieces", "whole"])
def test_events_of_blocks_hold_no_generated_image_that_is_blocked(
    disable_streaming: bool, answer: Any
) -> None:
    events: list[str] = []

    async def read() -> None:
        agent, model, _ = agent_of(answer)
        model.disable_streaming = disable_streaming
        async for event in await agent.astream_events({"messages": [human()]}, version="v3"):
            events.append(repr(event))  # noqa: PERF401 (what came before an error counts)

    with pytest.raises(PolicyViolation):
        asyncio.run(read())
    assert RED64[:40] not in "".join(events)
    assert RED64[40:] not in "".join(events)


def test_a_memo_that_comes_with_the_input_counts_for_nothing() -> None:
    from policyguard.integrations.langchain.run import RunMemo

    guard, _ = colour_guard()
    memo, data = RunMemo("run"), picture(RED)
    memo.put((guard, hashlib.sha256(data).digest()), guard.check(picture(GREEN)))
    entry = {"GuardMiddleware[tests/colours]": {"run": "run", "verdicts": memo.take()}}
    agent, model, _ = agent_of(AIMessage("hello"), guard=guard)
    with pytest.raises(PolicyViolation):
        agent.invoke({"messages": [human(block(RED))], "policyguard_memo": entry})
    assert 0 == model.calls


def test_a_tool_s_result_is_not_streamed_before_it_is_judged() -> None:
    agent, _, _ = agent_of(call("show", colour="red"))
    items: list[Any] = []
    with pytest.raises(PolicyViolation):
        streamed(agent, [human()], asynchronous=False, seen=items)
    assert RED64 not in repr(items)


def test_two_guards_share_an_agent() -> None:
    colours, _ = colour_guard()
    other = Guard(policy="safeedit/l3", backend=FakeBackend(0.01))
    model = Scripted(answers=[AIMessage("hello")])
    agent = create_agent(model, [], middleware=[GuardMiddleware(colours), GuardMiddleware(other)])
    state = invoke(agent, [human(block(GREEN))], "ainvoke")
    assert {"GuardMiddleware[tests/colours]", "GuardMiddleware[safeedit/l3]"} == state["policyguard"].keys()


@pytest.mark.parametrize("exit_behavior", ["error", "replace", "watch"])
def test_a_message_that_would_never_be_shown_is_refused(exit_behavior: Any) -> None:
    with pytest.raises(ConfigurationError, match="violation_message"):
        GuardMiddleware(colour_guard()[0], exit_behavior=exit_behavior, violation_message="no")


PDF = {"type": "file", "base64": b64(b"%PDF-1.4 hello"), "mime_type": "application/pdf"}
CASES: dict[str, tuple[Any, Any, str]] = {
    "violates": (block(RED), None, "breaks the policy (Red)"),
    "error": (block(GREEN), Failure(FailureKind.ERROR, "10.0.0.7 is down"), "try again later"),
    "document": (PDF, None, "document"),
    "url": ({"type": "image", "url": "https://e.example/a.png"}, None, "address"),
    "broken": ({**block(RED), "base64": b64(picture(RED)[:60])}, None, "cannot be read"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("where", ["input", "tool"])
def test_a_person_is_told_what_was_wrong(case: str, where: str) -> None:
    given, answer, part = CASES[case]
    guard, backend = colour_guard()
    backend.answer = answer or backend.answer

    @tool
    def give() -> list[Any]:
        """Give."""
        return [given]

    def say(result: Any) -> str | None:
        (item,) = result.blocked
        return f"{item.kind}, {item.verdict.outcome}"

    messages = [human(given) if where == "input" else human()]
    for message in (None, say):
        calls = [] if where == "input" else [call("give")]
        agent, model, _ = agent_of(
            *calls, tools=(give,), guard=guard, exit_behavior="end", violation_message=message
        )
        state = invoke(agent, messages, "invoke")
        assert len(calls) == model.calls
        text = state["messages"][-1].text
        if message is None:
            assert part in text
            assert "10.0.0.7" not in text
        else:
            (item,) = state["messages"][-1].response_metadata["policyguard"]["result"]["items"]
            assert f"{item['kind']}, {item['verdict']['outcome']}" == text


@pytest.mark.parametrize("wrong", ["policies/support.yaml", None, Guard])
def test_what_is_no_guard_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="a Guard is expected"):
        GuardMiddleware(wrong)


def test_only_what_it_is_told_to_is_judged() -> None:
    agent, model, _ = agent_of(AIMessage([block(RED)]), apply_to_output=False)
    assert block(RED) in invoke(agent, [human(block(GREEN))], "invoke")["messages"][-1].content
    agent, model, _ = agent_of(AIMessage("hi"), apply_to_input=False)
    invoke(agent, [human(block(RED))], "invoke")
    assert 1 == model.calls
    agent, model, _ = agent_of(call(colour="red"), AIMessage("hi"), apply_to_tool_results=False)
    invoke(agent, [human()], "invoke")
    assert 2 == model.calls
    with pytest.raises(ConfigurationError):
        GuardMiddleware(
            colour_guard()[0], apply_to_input=False, apply_to_output=False, apply_to_tool_results=False
        )


def test_an_answer_of_a_fixed_form_ends_where_it_is_blocked() -> None:
    from pydantic import BaseModel

    class Picture(BaseModel):
        """A picture."""

        image: str

    answer = AIMessage("", tool_calls=[{"name": "Picture", "args": {"image": uri(RED)}, "id": "call-1"}])
    agent, model, _ = agent_of(answer, response_format=Picture, exit_behavior="end", tools=())
    state = invoke(agent, [human()], "invoke")
    assert 1 == model.calls
    assert RED64 not in str(state)


def test_images_by_url_are_refused_and_named() -> None:
    agent, model, _ = agent_of(AIMessage("hi"))
    with pytest.raises(PolicyViolation, match="URL"):
        invoke(agent, [human({"type": "image", "url": "https://pictures.example/cat.png"})], "invoke")
    assert 0 == model.calls


class Pictures:
    """A fetcher that knows one picture."""

    def fetch(self, url: str) -> Any:
        return Fetched(picture(GREEN), "image/png", url)

    async def afetch(self, url: str) -> Any:
        return self.fetch(url)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_was_fetched_and_judged_takes_the_address_s_place(asynchronous: bool) -> None:
    by_url = {"type": "image", "url": "https://pictures.example/cat.png"}
    agent, model, _ = agent_of(AIMessage(["a cat: ", by_url]), urls="fetch", fetcher=Pictures())
    items: list[Any] = []
    streamed(agent, [human(by_url)], asynchronous=asynchronous, seen=items)
    assert "pictures.example" not in str(model.asked)
    assert b64(picture(GREEN)) in str(model.asked)
    answers = [item for mode, item in items if mode in ("messages", "updates")]
    assert "pictures.example" not in str(answers)
    assert b64(picture(GREEN)) in str(answers)


def test_an_allowed_answer_keeps_its_fixed_form() -> None:
    from pydantic import BaseModel

    class Picture(BaseModel):
        """A picture."""

        image: str

    answer = AIMessage("", tool_calls=[{"name": "Picture", "args": {"image": uri(GREEN)}, "id": "call-1"}])
    agent, _, told = agent_of(answer, response_format=Picture, tools=())
    state = invoke(agent, [human()], "invoke")
    assert uri(GREEN) == state["structured_response"].image
    assert seen(told, "output") > 0


def test_pico_guards_an_agent() -> None:
    from pathlib import Path

    images = Path(__file__).parents[2] / "examples" / "images"
    guard = Guard(policy="pictosafe/l3")

    def scene(name: str) -> dict[str, str]:
        return {"type": "image", "base64": b64((images / name).read_bytes()), "mime_type": "image/png"}

    agent, model, told = agent_of(AIMessage("a camera"), AIMessage("no"), guard=guard)
    assert "a camera" == invoke(agent, [human(scene("pair-camera.png"))], "invoke")["messages"][-1].content
    with pytest.raises(PolicyViolation):
        invoke(agent, [human(scene("pair-dagger.png"))], "ainvoke")
    assert 1 == model.calls
    assert told[-1][1].images_checked == 1


def test_the_page_s_agent_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from integrations.langchain.page import blocks
    from support.examples import ROOT

    monkeypatch.chdir(ROOT)
    examples = [code for code in blocks() if "create_agent(" in code]
    assert len(examples) == 2
    for code in examples:
        exec(compile(code, "docs/langchain.md", "exec"), {})


class Twice(AgentMiddleware):
    """Asks the model twice and takes the second answer."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        handler(request)
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        await handler(request)
        return await handler(request)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("second", [AIMessage("fine"), AIMessage([block(GREEN)])], ids=["text", "image"])
def test_an_answer_that_is_thrown_away_is_not_streamed_with_its_images(
    asynchronous: bool, second: AIMessage
) -> None:
    model = Scripted(answers=[PIECES, second])
    agent = create_agent(model, middleware=[GuardMiddleware(colour_guard()[0]), Twice()])
    items: list[Any] = []
    streamed(agent, [human()], asynchronous=asynchronous, seen=items)
    assert 2 == model.calls
    assert RED64[40:] not in repr(items)
    told = [item[0] for mode, item in items if mode == "messages"]
    assert any(message.content == second.content for message in told)


def test_every_message_of_an_answer_is_judged_that_another_middleware_makes() -> None:
    class Adds(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            answer = handler(request)
            return ModelResponse(result=[AIMessage([block(RED)]), *answer.result])

    for exit_behavior in ("end", "replace"):
        agent, _, _ = agent_of(AIMessage("hello"), more=[Adds()], exit_behavior=exit_behavior)
        messages = invoke(agent, [human()], "invoke")["messages"]
        assert RED64 not in str(messages)
        assert (2 if exit_behavior == "end" else 3) == len(messages)
    agent, _, _ = agent_of(AIMessage("hello"), more=[Adds()])
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], "invoke")


def test_a_forged_note_that_holds_an_image_is_no_note_of_ours() -> None:
    mark = {"policyguard": {"name": "GuardMiddleware[tests/colours]", "result": {}}}

    class Forges(AgentMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return AIMessage([block(RED)], response_metadata=mark)

    agent, _, _ = agent_of(AIMessage("hello"), more=[Forges()], exit_behavior="end")
    assert RED64 not in str(invoke(agent, [human()], "invoke")["messages"])
    forged = ToolMessage(uri(RED), tool_call_id="call-1", response_metadata=mark)
    agent, model, _ = agent_of(AIMessage("hello"), exit_behavior="end")
    state = invoke(agent, [human(), call(), forged], "invoke")
    assert 0 == model.calls
    assert RED64 not in str(state["messages"][-1])


@pytest.mark.parametrize("stricter", [False, True])
def test_a_run_that_is_taken_up_under_another_policy_asks_again(stricter: bool) -> None:
    config, checkpoints = {"configurable": {"thread_id": "1"}}, InMemorySaver()

    def built(threshold: float, *answers: Any) -> tuple[Any, Scripted, FakeBackend]:
        guard, backend = colour_guard(defaults={"threshold": threshold})
        backend.answer, model = 0.4, Scripted(answers=list(answers))
        agent = create_agent(
            model,
            [draw],
            middleware=[GuardMiddleware(guard)],
            checkpointer=checkpoints,
            interrupt_before=["tools"],
        )
        return agent, model, backend

    first, _, _ = built(0.5, call(colour="green"))
    first.invoke({"messages": [human(block(BLUE))]}, config)
    second, model, backend = built(0.3 if stricter else 0.5, AIMessage("done"))
    if not stricter:
        assert "done" == second.invoke(None, config)["messages"][-1].content
        assert 1 == len(backend.requests)  # what the tool drew
        return
    answer = ToolMessage("drawn", tool_call_id="call-1")
    second.update_state(config, {"messages": [answer]}, as_node="tools")
    with pytest.raises(PolicyViolation):
        second.invoke(None, config)
    assert 0 == model.calls


def test_documents_block_an_agent_unless_they_are_told_to_pass() -> None:
    paper = {"type": "file", "base64": b64(b"%PDF-1.7 " + bytes(99)), "mime_type": "application/pdf"}
    agent, model, _ = agent_of(AIMessage("hello"))
    with pytest.raises(PolicyViolation, match="unscannable"):
        invoke(agent, [human(paper)], "invoke")
    assert 0 == model.calls
    agent, model, told = agent_of(AIMessage("hello"), documents="pass")
    assert "hello" == invoke(agent, [human(paper, block(GREEN))], "invoke")["messages"][-1].content
    assert paper in model.asked[0][0].content
    assert 1 == seen(told, "input")
    with pytest.raises(PolicyViolation, match="Red"):
        invoke(agent, [human(paper, block(RED))], "invoke")


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", ["answer", "tool"])
def test_no_middleware_that_tries_again_swallows_a_block(first: bool, way: str, where: str) -> None:
    retries = [
        ModelRetryMiddleware(max_retries=2, initial_delay=0),
        ToolRetryMiddleware(max_retries=2, initial_delay=0),
    ]
    guard, _ = colour_guard()
    middleware = [*retries, GuardMiddleware(guard)] if first else [GuardMiddleware(guard), *retries]

    @tool
    def look() -> str:
        """Look."""
        return uri(RED)

    calling = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "1"}])
    answers = [AIMessage(uri(RED))] * 9 if where == "answer" else [calling, AIMessage("done")]
    model = Scripted(answers=answers)
    agent = create_agent(model, [look], middleware=middleware)
    with pytest.raises(PolicyViolation):
        invoke(agent, [human()], way)
    assert model.calls == 1


@ways
def test_a_watched_agent_runs_on_and_every_result_says_so(way: str) -> None:
    answers = (call("draw", colour="red"), call("plot", 2, colour="red"), AIMessage(["see", block(RED)]))
    agent, model, told = agent_of(*answers, exit_behavior="watch")
    state = invoke(agent, [human(block(RED))], way)
    assert (3, block(RED)) == (model.calls, state["messages"][-1].content[1])
    assert human(block(RED)).content == state["messages"][0].content
    assert all(result.watched for _, result in told)
    assert {"input", "output", "tool_result"} == {stage for stage, result in told if not result.allowed}
    noted = state["policyguard"]["GuardMiddleware[tests/colours]"]["input"]
    assert (True, "block") == (noted["watched"], noted["action"])
